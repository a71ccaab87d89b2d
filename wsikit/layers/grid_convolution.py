"""Convolution of tiles at their real places, on a grid or a line, in memory proportional to the number of tiles."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

DENSE_UP_TO = 4
"""Cells of the dense window per tile, above which neighbours are gathered instead."""


def grid_convolution(
    x: Tensor, grid: Tensor, weight: Tensor, bias: Tensor, *, dense_up_to: float = DENSE_UP_TO
) -> Tensor:
    """Convolve each feature over the tiles of one bag, each tile at its place; where no tile is, there are zeros.

    The tiles are laid out in a dense window, from which empty rows and columns too wide to be bridged by the
    kernel are left out (between the slides of a patient, say). Where the window would still be much larger than
    the bag, the neighbours of each tile are gathered instead: the same sums, slower.

    Args:
        x: (N, E).
        grid: (N, 2) whole numbers, x then y. Tiles at the same place count as one with their sum.
        weight: (E, 1, K, K), K odd, as of a depthwise ``Conv2d``: rows along y, columns along x.
        bias: (E,), added to every tile.
        dense_up_to: Cells of the window per tile, at most.

    Returns:
        (N, E).

    Example:
        >>> x, grid = torch.tensor([[1.0], [10.0], [100.0]]), torch.tensor([[0, 0], [1, 0], [900, 900]])
        >>> grid_convolution(x, grid, torch.ones(1, 1, 3, 3), torch.zeros(1)).flatten()
        tensor([ 11.,  11., 100.])
    """
    reach = weight.shape[-1] // 2
    column, width = _compact(grid[:, 0], reach)
    row, height = _compact(grid[:, 1], reach)
    if width * height > dense_up_to * len(x):
        # A margin to the right: no neighbour of a tile at the end of a line is the begin of the next line.
        cells, cell = torch.unique(row * (width + reach) + column, return_inverse=True)
        summed = x.new_zeros(len(cells), x.shape[1]).index_add_(0, cell, x)
        neighbours = _neighbours(cells, width + reach, reach)
        convolved: Tensor = _GatheredConvolution.apply(summed, weight.flatten(1).t(), neighbours)  # type: ignore[no-untyped-call]
        return convolved[cell] + bias
    cell = row * width + column
    window = x.new_zeros(height * width, x.shape[1]).index_add_(0, cell, x)
    window = window.view(1, height, width, -1).permute(0, 3, 1, 2)  # (1, E, height, width), channels last
    out = F.conv2d(window, weight.to(memory_format=torch.channels_last), bias, padding=reach, groups=len(weight))
    return out.permute(0, 2, 3, 1).flatten(0, 2)[cell]


def line_convolution(x: Tensor, places: Tensor, weight: Tensor) -> Tensor:
    """Convolve tiles along a line, with one kernel per head; where no tile is, there are zeros.

    Gaps that the kernel cannot bridge are shortened first, so that the line is at most as long as the kernel
    times the number of tiles.

    Args:
        x: (N, E).
        places: (N,) whole numbers on the line. Tiles at the same place count as one with their sum.
        weight: (H, K), K odd, as of a ``Conv1d``; head h has the columns h E/H to (h + 1) E/H of x.

    Returns:
        (N, E).

    Example:
        >>> x, places = torch.tensor([[1.0], [10.0], [100.0]]), torch.tensor([0, 1, 900])
        >>> line_convolution(x, places, torch.tensor([[1.0, 2.0, 3.0]])).flatten()
        tensor([ 32.,  21., 200.])
    """
    reach = weight.shape[1] // 2
    index, length = _compact(places, reach)
    line = x.new_zeros(length, x.shape[1]).index_add_(0, index, x)
    line = torch.unflatten(line, 1, (len(weight), -1)).permute(2, 1, 0)  # (E / H, H, length)
    out = F.conv1d(line, weight[:, None], padding=reach, groups=len(weight))
    return out.permute(2, 1, 0).flatten(1)[index]


def _compact(places: Tensor, reach: int) -> tuple[Tensor, int]:
    """The same places from 0, gaps that the kernel cannot bridge shortened; and how many they span."""
    found, index = torch.unique(places.long(), return_inverse=True)
    steps = found.diff().clamp(max=reach + 1)
    compacted = torch.cat([steps.new_zeros(1), steps.cumsum(0)])
    return compacted[index], int(compacted[-1]) + 1


def _neighbours(cells: Tensor, width: int, reach: int) -> Tensor:
    """For each tap of the kernel and each cell, which cell is there; ``len(cells)`` where none is. (K K, cells)."""
    found = []
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            wanted = cells + (dy * width + dx)
            index = torch.searchsorted(cells, wanted).clamp(max=len(cells) - 1)
            found.append(torch.where(cells[index] == wanted, index, len(cells)))
    return torch.stack(found)


class _GatheredConvolution(torch.autograd.Function):
    """Sum over the taps of weight times neighbour; nothing but x itself is kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, neighbours: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, neighbours)
        return _gather(x, weight, neighbours)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, neighbours = ctx.saved_tensors
        # If j is at tap t of i, then i is at the opposite tap of j.
        grad_x = _gather(grad, weight, neighbours.flip(0))
        padded = F.pad(x, (0, 0, 0, 1))
        grad_weight = torch.stack([(grad * padded[neighbour]).sum(0) for neighbour in neighbours])
        return grad_x, grad_weight.to(weight.dtype), None


def _gather(x: Tensor, weight: Tensor, neighbours: Tensor) -> Tensor:
    padded, weight = F.pad(x, (0, 0, 0, 1)), weight.to(x.dtype)  # (cells + 1, E), the last row 0
    out = torch.zeros_like(x)
    for tap, neighbour in zip(weight, neighbours, strict=True):
        out.addcmul_(padded[neighbour], tap)
    return out
