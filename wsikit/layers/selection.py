"""The highest-scored instances of each bag: as rows, or as weights for a mean."""

from __future__ import annotations

import torch
from torch import Tensor

from wsikit.errors import ConfigError
from wsikit.layers.packed import bag_sizes


def segment_top_rows(scores: Tensor, offsets: Tensor, counts: list[int]) -> list[Tensor]:
    """Rows of the instances with the highest scores of each bag; for the lowest, give ``-scores``.

    A choice has no gradient: none flows through it to the scores. Which of two exactly equal scores is chosen, where
    there is room for one only, is up to torch, and the same in every call.

    Args:
        scores: (sum N,), or (sum N, K) for K choices.
        offsets: (B + 1,) int64.
        counts: How many to choose in each bag; a bag that has fewer gives all it has.

    Returns:
        For each bag the packed rows, (count,) or (count, K) int64, highest score first.

    Raises:
        ConfigError: As :func:`~wsikit.layers.packed.bag_sizes`, or not one count for each bag.

    Example:
        >>> segment_top_rows(torch.tensor([1.0, 3.0, 2.0, 5.0]), torch.tensor([0, 3, 4]), [2, 2])
        [tensor([1, 2]), tensor([3])]
    """
    sizes = bag_sizes(offsets, len(scores))
    if len(counts) != len(sizes):
        raise ConfigError(f"{len(counts)} counts for {len(sizes)} bags; expected one for each bag")
    rows, start = [], 0
    for part, size, count in zip(torch.split(scores.detach(), sizes), sizes, counts, strict=True):
        rows.append(part.topk(min(count, size), dim=0).indices + start)
        start += size
    return rows


def segment_top_weights(scores: Tensor, offsets: Tensor, counts: list[int]) -> Tensor:
    """Weights for the mean of the chosen instances: 1 / count at the highest scores of each bag, 0 elsewhere.

    Args:
        scores: (sum N,), or (sum N, K) for K choices.
        offsets: (B + 1,) int64.
        counts: As :func:`segment_top_rows`, at least 1.

    Returns:
        As ``scores``, float32 or float64, without a gradient; sums to 1 over each bag (for each of the K).

    Raises:
        ConfigError: As :func:`segment_top_rows`.

    Example:
        >>> segment_top_weights(torch.tensor([1.0, 3.0, 2.0, 5.0]), torch.tensor([0, 3, 4]), [2, 2])
        tensor([0.0000, 0.5000, 0.5000, 1.0000])
    """
    weights = torch.zeros_like(scores, dtype=torch.promote_types(scores.dtype, torch.float32), requires_grad=False)
    for rows in segment_top_rows(scores, offsets, counts):
        weights.scatter_(0, rows, 1 / len(rows))
    return weights
