"""Bags of different sizes in one tensor: packed and padded layouts, and reductions per bag.

*Packed*: ``x`` (sum N, ...) holds the bags one after the other, ``offsets`` (B + 1,) int64 says where each
begins and the last ends. *Padded*: ``x`` (B, Nmax, ...) with ``mask`` (B, Nmax) bool, True = valid.

Reductions go bag by bag over contiguous rows: there are few bags and many rows, so that each bag
is one vectorised call whose order of summation is fixed, and no index of the rows is ever made.
Sums are accumulated in float32 (float64 where x is), under autocast too.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from wsikit.errors import ConfigError


def bag_sizes(offsets: Tensor, rows: int | None = None) -> list[int]:
    """The number of instances of each bag, after checking the offsets.

    Args:
        offsets: (B + 1,) int64.
        rows: The number of packed rows that the offsets must end at; None: not checked.

    Raises:
        ConfigError: Not (B + 1,) int64, not starting at 0, falling, not ending at ``rows``, or an empty bag.

    Example:
        >>> bag_sizes(torch.tensor([0, 2, 5]))
        [2, 3]
    """
    if offsets.ndim != 1 or len(offsets) < 2 or offsets.dtype != torch.int64:
        raise ConfigError(
            f"offsets of shape {tuple(offsets.shape)}, {offsets.dtype}; expected (B + 1,) int64 with at least one bag"
        )
    bounds: list[int] = offsets.tolist()
    if bounds[0] != 0:
        raise ConfigError(f"offsets start at {bounds[0]}; expected 0, where bag 0 begins")
    sizes = [end - start for start, end in pairwise(bounds)]
    for bag, size in enumerate(sizes):
        if size == 0:
            raise ConfigError(f"bag {bag} is empty (offsets {bounds[bag]} to {bounds[bag]}); leave such bags out")
        if size < 0:
            raise ConfigError(
                f"offsets fall from {bounds[bag]} to {bounds[bag + 1]} at bag {bag}; "
                "expected rising ones, such as the cumulative sum of the bags' sizes"
            )
    if rows is not None and bounds[-1] != rows:
        raise ConfigError(f"offsets end at {bounds[-1]}, but there are {rows} packed rows; expected the same")
    return sizes


def offsets_of(sizes: list[int], *, device: torch.device | str | None = None) -> Tensor:
    """Offsets (B + 1,) int64 of bags of these sizes.

    Example:
        >>> offsets_of([2, 3])
        tensor([0, 2, 5])
    """
    return torch.tensor([0, *sizes], dtype=torch.int64, device=device).cumsum(0)


def bag_index(offsets: Tensor) -> Tensor:
    """Which bag each packed row is of, (sum N,) int64.

    Example:
        >>> bag_index(torch.tensor([0, 2, 5]))
        tensor([0, 0, 1, 1, 1])
    """
    return torch.repeat_interleave(offsets.diff())


def pack(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Padded -> packed.

    Args:
        x: (B, Nmax, ...); what stands at padding is left out.
        mask: (B, Nmax) bool, True = valid, anywhere in the row.

    Returns:
        (sum N, ...) valid rows, bag by bag, and the offsets (B + 1,) int64. A bag may be empty here.
    """
    sizes = mask.sum(dim=1)  # (B,)
    offsets = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    return x[mask], offsets


def unpack(x: Tensor, mask: Tensor) -> Tensor:
    """Packed -> padded under a given mask; 0 at padding.

    Args:
        x: (sum N, ...), as many rows as the mask has True.
        mask: (B, Nmax) bool, True = valid.

    Returns:
        (B, Nmax, ...).
    """
    padded = x.new_zeros(*mask.shape, *x.shape[1:])
    padded[mask] = x
    return padded


def pad(x: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Packed -> padded, valid rows first; 0 at padding.

    Args:
        x: (sum N, ...).
        offsets: (B + 1,) int64.

    Returns:
        (B, Nmax, ...) and the mask (B, Nmax) bool, True = valid.

    Raises:
        ConfigError: As :func:`bag_sizes`.
    """
    longest = max(bag_sizes(offsets, len(x)))
    mask = torch.arange(longest, device=x.device) < offsets.diff()[:, None]  # (B, Nmax)
    return unpack(x, mask), mask


def segment_sum(x: Tensor, offsets: Tensor) -> Tensor:
    """Sum over the instances of each bag: (sum N, ...) -> (B, ...), float32 or float64.

    Example:
        >>> segment_sum(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0, 2, 3]))
        tensor([3., 4.])
    """
    return torch.stack([part.sum(dim=0, dtype=_wide(x)) for part in _bags(x, offsets)])


def segment_mean(x: Tensor, offsets: Tensor) -> Tensor:
    """Mean over the instances of each bag: (sum N, ...) -> (B, ...), float32 or float64."""
    return torch.stack([part.mean(dim=0, dtype=_wide(x)) for part in _bags(x, offsets)])


def segment_max(x: Tensor, offsets: Tensor) -> Tensor:
    """Largest value over the instances of each bag: (sum N, ...) -> (B, ...), in the type of x.

    Instances that share the largest value share its gradient, so that the gradient does not depend
    on their order either (after a ReLU many are 0).
    """
    return torch.stack([part.amax(dim=0) for part in _bags(x, offsets)])


def segment_softmax(scores: Tensor, offsets: Tensor) -> Tensor:
    """Softmax over the instances of each bag.

    Args:
        scores: (sum N,) or (sum N, K), finite.
        offsets: (B + 1,) int64.

    Returns:
        As ``scores``, float32 or float64: non-negative, sums to 1 over each bag (for each of the K).

    Raises:
        ConfigError: As :func:`bag_sizes`.

    Example:
        >>> segment_softmax(torch.zeros(3), torch.tensor([0, 2, 3]))
        tensor([0.5000, 0.5000, 1.0000])
    """
    return torch.cat([part.softmax(dim=0, dtype=_wide(scores)) for part in _bags(scores, offsets)])


def segment_weighted_sum(x: Tensor, weights: Tensor, offsets: Tensor) -> Tensor:
    """Weighted sum over the instances of each bag; attention pooling, where the weights sum to 1.

    One matrix product per bag: the weighted instances themselves, (sum N, E), are never made.

    Args:
        x: (sum N, E).
        weights: (sum N,), or (sum N, K) for K sums.
        offsets: (B + 1,) int64.

    Returns:
        (B, E) or (B, K, E), float32 or float64.

    Raises:
        ConfigError: As :func:`bag_sizes`.
    """
    pairs = zip(_bags(x.to(_wide(x)), offsets), _bags(weights.to(_wide(x)), offsets), strict=True)
    with torch.autocast(x.device.type, enabled=False):
        return torch.stack([weight.t() @ part for part, weight in pairs])


def _bags(x: Tensor, offsets: Tensor) -> tuple[Tensor, ...]:
    sizes = bag_sizes(offsets, len(x))
    # One bag, the common case, needs no split, whose backward would copy the whole gradient.
    return (x,) if len(sizes) == 1 else torch.split(x, sizes)


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
