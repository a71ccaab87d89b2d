"""Bags of patients, read from the stores and packed: no padding, no copy more than one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsikit.cohort.table import CohortSlide
from wsikit.errors import StoreError
from wsikit.store.reader import Bag

SLIDE_GAP = 64
"""Steps of the grid between the slides of a patient: no window or region of a model spans two."""
CACHE_BYTES = 4 << 30
"""Bags kept in memory, unless told otherwise: 16-bit features of about 200 large slides."""


@dataclass(frozen=True)
class PatientBag:
    """The tiles of a patient: the union of the slides', one slide after the other.

    Attributes:
        x: (N, D) float16.
        coords: (N, 2) int32, x then y of the tile's top-left corner in level-0 px of its slide.
        grid: (N, 2) int64, its place x then y in steps of its slide's grid, from 0; slides lie one below the other,
            at least ``SLIDE_GAP`` steps apart, each from a multiple of it.
        slide: (N,) int32, index into ``slides``.
        slides: Where the tiles are from.
    """

    x: npt.NDArray[np.float16]
    coords: npt.NDArray[np.int32]
    grid: npt.NDArray[np.int64]
    slide: npt.NDArray[np.int32]
    slides: tuple[CohortSlide, ...]

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class BagBatch:
    """Bags of B patients one after the other.

    Attributes:
        x: (sum N, D) float16.
        offsets: (B + 1,) int64: bag b is rows ``offsets[b]:offsets[b + 1]``.
        grid: (sum N, 2) int64, places of the tiles.
    """

    x: npt.NDArray[np.float16]
    offsets: npt.NDArray[np.int64]
    grid: npt.NDArray[np.int64]


class Bags:
    """The bags of patients, by position, kept in memory up to a budget.

    Args:
        slides: The slides of each patient.
        encoder: Name or key of the features.
        cache_bytes: Memory for bags; what does not fit is read again each time.

    Attributes:
        sizes: (P,) int64, tiles of each patient, once it was read; 0 before.
    """

    def __init__(
        self, slides: Sequence[tuple[CohortSlide, ...]], *, encoder: str, cache_bytes: int = CACHE_BYTES
    ) -> None:
        self.slides, self.encoder = slides, encoder
        self._budget = cache_bytes
        self._kept: dict[int, PatientBag] = {}
        self.sizes = np.zeros(len(slides), np.int64)

    def __len__(self) -> int:
        return len(self.slides)

    def __getitem__(self, position: int) -> PatientBag:
        """The bag of a patient.

        Raises:
            StoreError: Features of a slide are missing, unfinished or damaged, or are not numbers: a model that was
                trained on one NaN predicts NaN for everybody.
        """
        kept = self._kept.get(position)
        if kept is not None:
            return kept
        slides = self.slides[position]
        found = [s.store.bag(s.slide_id, encoder=self.encoder) for s in slides]
        if len(found) == 1:
            x, coords = found[0].x, found[0].coords
        else:
            x, coords = np.concatenate([b.x for b in found]), np.concatenate([b.coords for b in found])
        _check(x, slides)
        slide = np.repeat(np.arange(len(found), dtype=np.int32), [len(b) for b in found])
        bag = PatientBag(x, coords, _one_grid(found), slide, slides)
        self.sizes[position] = len(bag)
        if x.nbytes <= self._budget:
            self._budget -= x.nbytes
            self._kept[position] = bag
        return bag

    def batch(self, positions: Sequence[int] | npt.NDArray[np.int64]) -> BagBatch:
        """Bags of some patients, packed."""
        return pack([self[int(i)] for i in positions])

    def means(self) -> npt.NDArray[np.float32]:
        """Mean feature of each patient, (P, D) float32."""
        return np.stack([self[i].x.mean(0, dtype=np.float32) for i in range(len(self))])


def _check(x: npt.NDArray[np.float16], slides: tuple[CohortSlide, ...]) -> None:
    names = ", ".join(repr(s.slide_id) for s in slides)
    if not len(x):
        raise StoreError(f"slides {names}: no tile with features, expected one at least; leave the patient out")
    # in bits, as quick as reading: an exponent of ones is infinite or no number
    if (x.view(np.uint16) & 0x7FFF).max() >= 0x7C00:
        bad = int((~np.isfinite(x)).any(1).sum())
        raise StoreError(
            f"slides {names}: {bad} of {len(x)} tiles have features that are infinite or no number though their status "
            "is good; 'wsikit verify' names them; extract the slide again"
        )


def pack(bags: Sequence[PatientBag]) -> BagBatch:
    """Lay bags one after the other."""
    offsets = np.concatenate([[0], np.cumsum([len(b) for b in bags])]).astype(np.int64)
    if len(bags) == 1:
        return BagBatch(bags[0].x, offsets, bags[0].grid)
    return BagBatch(np.concatenate([b.x for b in bags]), offsets, np.concatenate([b.grid for b in bags]))


def _one_grid(slides: Sequence[Bag]) -> npt.NDArray[np.int64]:
    """Places of all tiles of some slides, (N, 2)."""
    placed, below = [], 0
    for slide in slides:
        grid = slide.grid - slide.grid.min(0) if len(slide) else slide.grid
        placed.append(grid + np.array([0, below]))
        height = int(grid[:, 1].max(initial=-1)) + 1
        below += -(-(height + SLIDE_GAP) // SLIDE_GAP) * SLIDE_GAP
    return np.concatenate(placed)
