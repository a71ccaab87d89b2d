"""What follows from the tiles' places alone: reading order, square regions, and waves that encode them."""

from __future__ import annotations

import torch
from torch import Tensor

from wsikit.layers.packed import bag_index


def reading_order(grid: Tensor, offsets: Tensor) -> Tensor:
    """The rows of each bag as one reads a page: by y, and in a line by x.

    A model that needs a sequence takes the bag in this order: then its answer depends on where the
    tiles are, and not on the order of the rows in the store.

    Args:
        grid: (sum N, 2) whole numbers, x then y.
        offsets: (B + 1,) int64.

    Returns:
        (sum N,) int64, a permutation within each bag. Rows at the same place stay in the order given.

    Example:
        >>> reading_order(torch.tensor([[1, 1], [0, 1], [5, 0]]), torch.tensor([0, 3]))
        tensor([2, 1, 0])
    """
    # Three stable sorts, the most important key last: one combined key could overflow.
    order = grid[:, 0].argsort(stable=True)
    order = order[grid[order, 1].argsort(stable=True)]
    return order[bag_index(offsets)[order].argsort(stable=True)]


def square_regions(grid: Tensor, offsets: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Squares of ``side`` x ``side`` steps of the grid, each within one bag.

    The squares begin at multiples of ``side``, so a power of two up to 64 keeps the slides of a patient
    (which begin at multiples of 64) apart.

    Args:
        grid: (sum N, 2) whole numbers, x then y.
        offsets: (B + 1,) int64.
        side: At least 1.

    Returns:
        region: (sum N,) int64, which region each row is in; regions are numbered bag by bag, and in each bag
            by y and then x. Only regions with a tile in them count.
        offsets: (B + 1,) int64 of the regions: those of bag b are ``offsets[b]`` to ``offsets[b + 1]``.
        places: (regions, 2), x then y, in steps of a region.

    Example:
        >>> grid = torch.tensor([[0, 0], [1, 0], [2, 0], [0, 3]])
        >>> square_regions(grid, torch.tensor([0, 3, 4]), side=2)
        (tensor([0, 0, 1, 2]), tensor([0, 2, 3]), tensor([[0, 0], [1, 0], [0, 1]]))
    """
    square = torch.div(grid, side, rounding_mode="floor")
    keys = torch.stack([bag_index(offsets), square[:, 1], square[:, 0]], dim=1)  # (sum N, 3)
    found, region = torch.unique(keys, dim=0, return_inverse=True)
    counts = torch.bincount(found[:, 0], minlength=len(offsets) - 1)
    return region, torch.cat([counts.new_zeros(1), counts.cumsum(0)]), found[:, [2, 1]]


def sinusoidal_places(grid: Tensor, width: int) -> Tensor:
    """Sines and cosines of each place, at wavelengths from 2 pi to almost 20,000 pi steps.

    ``[sin(y f), cos(y f), sin(x f), cos(x f)]`` with ``f_k = 10000^(-k / K)``, k from 0 to K - 1, ``K = width / 4``:
    what vision transformers use since MoCo v3 (Chen et al. 2021, arXiv:2104.02057), y first as in GigaPath.

    Args:
        grid: (N, 2) whole numbers, x then y.
        width: A multiple of 4.

    Returns:
        (N, width) float32.

    Example:
        >>> sinusoidal_places(torch.tensor([[0, 0], [0, 3]]), 4)
        tensor([[ 0.0000,  1.0000,  0.0000,  1.0000],
                [ 0.1411, -0.9900,  0.0000,  1.0000]])
    """
    steps = torch.arange(width // 4, dtype=torch.float64, device=grid.device) / (width // 4)
    angles = grid.flip(1)[:, :, None] * 10_000.0**-steps  # (N, 2, K), y then x
    return torch.cat([angles.sin(), angles.cos()], dim=2).flatten(1).float()
