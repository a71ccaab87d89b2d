"""Packed bags on the device: whole for an answer, thinned for a step, and what fits kept there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wsikit.cohort.bags import BagBatch, Bags
from wsikit.cohort.graphs import GraphSettings, induced
from wsikit.training.settings import TrainingSettings

Rows = npt.NDArray[np.int64]
GIB = 1 << 30


class Batches:
    """The bags of some patients as ``SlideModel.forward`` takes them.

    Args:
        bags: Of all patients.
        training: How bags are thinned (``tile_dropout``, ``bag_tiles``), mixed, and how much stays on the device.
        device: Where the model is.
        graph: Which tiles are joined by edges; with a graph bags are read whole, as it is of all tiles.
    """

    def __init__(
        self, bags: Bags, training: TrainingSettings, device: torch.device, graph: GraphSettings | None = None
    ) -> None:
        self.bags, self.training, self.device, self.graph = bags, training, device, graph
        self._budget = int(training.device_cache_gb * GIB)
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def tiles(self, row: int, *, thinned: bool) -> int:
        """How many tiles of a patient are on the device at once."""
        size = self.bags.count(row)
        if not thinned:
            return size
        kept = max(1, round((1 - self.training.tile_dropout) * size)) if self.training.tile_dropout else size
        return kept if self.training.bag_tiles is None else min(kept, self.training.bag_tiles)

    def choose(self, row: int, seed: int) -> Rows | None:
        """Which tiles of a patient are in a step, sorted, drawn without replacement; None for all of them.

        The seed is the step's: a patient's tiles are the same whatever others are in the batch.
        """
        size, kept = self.bags.count(row), self.tiles(row, thinned=True)
        if kept == size:
            return None
        return np.sort(np.random.default_rng([seed, row]).choice(size, kept, replace=False)).astype(np.int64)

    def batch(self, rows: Rows, seed: int | None) -> tuple[Tensor, ...]:
        """Features (sum N, D), offsets (B + 1,), places (sum N, 2) and, with a graph, edges (2, M).

        Features stay float16 until they are on the device: half the bytes to move.

        Args:
            rows: (B,) positions of patients.
            seed: Of the step's thinning and mixing; None for whole bags as they are.
        """
        found = self._gathered(rows, seed)
        return found if seed is None or not self.training.mixup else self._mixed(found, rows, seed)

    def _mixed(self, found: tuple[Tensor, ...], rows: Rows, seed: int) -> tuple[Tensor, ...]:
        """The same with some tiles moved towards another of their bag: x + u (x' - x), u uniform on 0 to 1."""
        x, offsets, *others = found
        ends = offsets.cpu().numpy()
        partner, way = np.arange(ends[-1]), np.zeros((ends[-1], 1), np.float32)
        for start, stop, row in zip(ends[:-1], ends[1:], rows.tolist(), strict=True):
            rng, n = np.random.default_rng([seed, row, 1]), stop - start
            partner[start:stop] = start + rng.integers(n, size=n)
            way[start:stop, 0] = rng.random(n) * (rng.random(n) < self.training.mixup)
        wide = x.float()
        towards = wide[torch.as_tensor(partner).to(x.device)] - wide
        return ((wide + torch.as_tensor(way).to(x.device) * towards).to(x.dtype), offsets, *others)

    def _gathered(self, rows: Rows, seed: int | None) -> tuple[Tensor, ...]:
        chosen = [None if seed is None else self.choose(int(row), seed) for row in rows]
        if self.graph is not None:
            return tensors_of(_thinned(self.bags.batch(rows, graph=self.graph), chosen), self.device)
        if not self.training.device_cache_gb:
            return tensors_of(self.bags.batch(rows, tiles=chosen), self.device)
        parts = [self._on_device(int(row), tiles) for row, tiles in zip(rows, chosen, strict=True)]
        offsets = np.concatenate([[0], np.cumsum([len(x) for x, _ in parts])]).astype(np.int64)
        joined = [torch.cat(column) if len(column) > 1 else column[0] for column in zip(*parts, strict=True)]
        return joined[0], torch.as_tensor(offsets).to(self.device), joined[1]

    def _on_device(self, row: int, tiles: Rows | None) -> tuple[Tensor, Tensor]:
        """Features and places of a patient's tiles, from the copy on the device where there is one."""
        kept = self._kept.get(row)
        if kept is None and self.bags.nbytes(row) <= self._budget:
            x, _, grid = tensors_of(self.bags.batch(np.array([row])), self.device)
            kept = self._kept[row] = (x, grid)
            self._budget -= x.nbytes + grid.nbytes
        if kept is None:
            x, _, grid = tensors_of(self.bags.batch(np.array([row]), tiles=[tiles]), self.device)
            return x, grid
        if tiles is None:
            return kept
        at = torch.as_tensor(tiles).to(self.device)
        return kept[0].index_select(0, at), kept[1].index_select(0, at)


def tensors_of(batch: BagBatch, device: torch.device) -> tuple[Tensor, ...]:
    """A batch's features, offsets, places, and edges where there are any, on a device."""
    arrays = (batch.x, batch.offsets, batch.grid, *([] if batch.edges is None else [batch.edges]))
    tensors = tuple(torch.as_tensor(array) for array in arrays)
    if device.type == "cuda":
        return tuple(t.pin_memory().to(device, non_blocking=True) for t in tensors)
    return tensors


def _thinned(batch: BagBatch, chosen: Sequence[Rows | None]) -> BagBatch:
    """The chosen tiles of each bag, and the edges among them."""
    if all(tiles is None for tiles in chosen):
        return batch
    kept = [
        np.arange(start, stop) if tiles is None else tiles + start
        for start, stop, tiles in zip(batch.offsets[:-1].tolist(), batch.offsets[1:].tolist(), chosen, strict=True)
    ]
    rows = np.concatenate(kept)
    offsets = np.concatenate([[0], np.cumsum([len(k) for k in kept])]).astype(np.int64)
    edges = None if batch.edges is None else induced(batch.edges, rows, len(batch.x))
    return BagBatch(batch.x[rows], offsets, batch.grid[rows], edges)
