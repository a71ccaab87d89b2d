"""Reductions over groups of rows that do not lie together, such as the tiles of a region."""

from __future__ import annotations

import torch
from torch import Tensor


def group_softmax(scores: Tensor, group: Tensor, groups: int) -> Tensor:
    """Softmax over the rows of each group.

    Args:
        scores: (N,) finite.
        group: (N,) int64 from 0, which group each row is in; none is empty.
        groups: How many there are.

    Returns:
        (N,) float32 or float64, sums to 1 over each group.

    Example:
        >>> group_softmax(torch.zeros(3), torch.tensor([1, 0, 1]), 2)
        tensor([0.5000, 1.0000, 0.5000])
    """
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    largest = scores.new_empty(groups).scatter_reduce_(0, group, scores.detach(), "amax", include_self=False)
    weights = (scores - largest[group]).exp()
    return weights / weights.new_zeros(groups).index_add_(0, group, weights)[group]


def group_weighted_sum(x: Tensor, weights: Tensor, group: Tensor, groups: int) -> Tensor:
    """Weighted sum over the rows of each group: (N, E) and (N,) -> (groups, E), float32 or float64.

    Example:
        >>> group_weighted_sum(torch.tensor([[1.0], [2.0], [3.0]]), torch.ones(3), torch.tensor([1, 0, 1]), 2)
        tensor([[2.],
                [4.]])
    """
    weighted = x.to(torch.promote_types(x.dtype, torch.float32)) * weights[:, None]
    return weighted.new_zeros(groups, x.shape[1]).index_add_(0, group, weighted)
