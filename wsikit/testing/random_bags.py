"""Random packed bags that fit an aggregator."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from wsikit.aggregators.base import Aggregator
from wsikit.layers.packed import offsets_of

SIZES = (9, 1, 14, 5)
"""Instances in each bag of the checks; one has a single instance, and no two are alike."""


@dataclass(frozen=True)
class Bags:
    """Packed bags for a check.

    Attributes:
        x: (sum N, D) float32.
        offsets: (B + 1,) int64.
        grid: (sum N, 2) int64, different places on a grid; the second half of each bag is another slide.
        edges: (2, number of edges) int64 between neighbours in each bag, or None where the model uses none.
    """

    x: Tensor
    offsets: Tensor
    grid: Tensor
    edges: Tensor | None

    def bag(self, b: int) -> Bags:
        """One of the bags, alone."""
        start, end = int(self.offsets[b]), int(self.offsets[b + 1])
        edges = self.edges
        if edges is not None:
            edges = edges[:, (edges[0] >= start) & (edges[0] < end)] - start
        return Bags(self.x[start:end], offsets_of([end - start]), self.grid[start:end], edges)

    def reordered(self, order: Tensor) -> Bags:
        """The same bags with row i taken from row ``order[i]``; the order must keep to the bags."""
        edges = None if self.edges is None else order.argsort()[self.edges]
        return Bags(self.x[order], self.offsets, self.grid[order], edges)


def make_bags(model: Aggregator, sizes: tuple[int, ...] = SIZES, *, seed: int = 0) -> Bags:
    """Random bags that fit a model: features about N(0, 1), places on two grids, a chain of edges if it uses them."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(sum(sizes), model.in_dim, generator=generator)
    offsets = offsets_of(list(sizes))
    places, chains = [], []
    for start, size in zip(offsets.tolist(), sizes, strict=False):
        side = int(size**0.5) + 2
        place = torch.randperm(side * side, generator=generator)[:size]
        slide = torch.arange(size) >= (size + 1) // 2
        below = 64 * (side // 64 + 1)  # where the next slide of a patient begins
        places.append(torch.stack([place % side, place // side + below * slide], dim=1))  # (N, 2)
        here = torch.arange(start, start + size - 1)
        chains.append(torch.stack([torch.cat([here, here + 1]), torch.cat([here + 1, here])]))
    edges = torch.cat(chains, dim=1) if model.card.uses_edges else None
    return Bags(x, offsets, torch.cat(places), edges)
