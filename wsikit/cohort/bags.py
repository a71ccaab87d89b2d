"""Bags of patients, read from the stores and packed: no padding, no copy more than one."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from wsikit.cohort.graph_files import kept_graph
from wsikit.cohort.graphs import Edges, GraphSettings, build_graph
from wsikit.cohort.table import CohortSlide
from wsikit.config import config_hash
from wsikit.errors import ConfigError, StoreError
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
        edges: (2, M) int64, from and to row of ``x``, or None where no graph was asked for.
    """

    x: npt.NDArray[np.float16]
    offsets: npt.NDArray[np.int64]
    grid: npt.NDArray[np.int64]
    edges: Edges | None = None


class _Outline(NamedTuple):
    """The tiles of a patient: of each slide, where its rows begin, and (N, 2), (N, 2), (N,) of all as in its bag."""

    tiles: list[Bag]
    starts: list[int]
    coords: npt.NDArray[np.int32]
    grid: npt.NDArray[np.int64]
    slide: npt.NDArray[np.int32]


class Bags:
    """The bags of patients and their graphs, by position, kept in memory up to a budget.

    Args:
        slides: The slides of each patient.
        encoder: Name or key of the features; several, joined by ``+``, are the columns of one bag side by side.
        cache_bytes: Memory for bags and graphs; what does not fit is read or built again each time.
        graphs: Folder that keeps graphs on disk too, for those that take long to build; made when first needed.

    Attributes:
        sizes: (P,) int64, tiles of each patient, once it was read; 0 before.
    """

    def __init__(
        self,
        slides: Sequence[tuple[CohortSlide, ...]],
        *,
        encoder: str,
        cache_bytes: int = CACHE_BYTES,
        graphs: Path | None = None,
    ) -> None:
        self.slides, self.encoder, self.graphs = slides, encoder, graphs
        self._budget, self._dim = cache_bytes, 0
        self._kept: dict[int, PatientBag] = {}
        self._finite = set[int]()
        self._digests: dict[int, str] = {}
        self._outlines: dict[int, _Outline] = {}
        self._kept_edges: dict[tuple[int, GraphSettings], Edges] = {}
        self.sizes = np.zeros(len(slides), np.int64)

    def __len__(self) -> int:
        return len(self.slides)

    def __getstate__(self) -> dict[str, Any]:
        """For another process, which reads again: what is in memory would be sent byte by byte."""
        freed = sum(bag.x.nbytes for bag in self._kept.values()) + sum(e.nbytes for e in self._kept_edges.values())
        return self.__dict__ | {"_kept": {}, "_kept_edges": {}, "_budget": self._budget + freed}

    def __getitem__(self, position: int) -> PatientBag:
        """The bag of a patient.

        Raises:
            StoreError: Features of a slide are missing, unfinished or damaged, or are not numbers: a model that was
                trained on one NaN predicts NaN for everybody.
        """
        kept = self._kept.get(position)
        if kept is not None:
            return kept
        bag = self._read(position)
        if bag.x.nbytes <= self._budget:
            self._budget -= bag.x.nbytes
            self._kept[position] = bag
        return bag

    def count(self, position: int) -> int:
        """Tiles of a patient; no features are read."""
        if not self.sizes[position]:
            self.sizes[position] = len(self._outline(position).slide)
        return int(self.sizes[position])

    def digest(self, position: int) -> str:
        """Identity of a patient's tiles and features, by the records of the stores; 64 hex digits."""
        found = self._digests.get(position)
        if found is None:
            mine = self.slides[position]
            found = config_hash([[s.slide_id, s.store.digest(s.slide_id, self.encoder)] for s in mine])
            self._digests[position] = found
        return found

    def nbytes(self, position: int) -> int:
        """Bytes of a patient's features and places, as far as the encoder's card says how wide they are."""
        return self.count(position) * (2 * self.dim + 16)

    @property
    def dim(self) -> int:
        """Width D of the features."""
        if not self._dim:
            slide = self.slides[0][0]
            self._dim = int(slide.store.encoder(slide.slide_id, self.encoder)["card"]["dim"])
        return self._dim

    def take(self, position: int, tiles: npt.NDArray[np.int64] | None) -> PatientBag:
        """Some tiles of a patient, by their number in the bag, or with None all of them.

        A bag that is in memory, or may still be kept there, is read whole, once. Of any other only the chunks are
        read that hold these tiles.

        Raises:
            StoreError: As for the bag.
        """
        if tiles is None:
            return self[position]
        bag = self._kept.get(position)
        if bag is None and self.nbytes(position) > self._budget:
            return self._read_some(position, tiles)
        bag = bag or self[position]
        return PatientBag(bag.x[tiles], bag.coords[tiles], bag.grid[tiles], bag.slide[tiles], bag.slides)

    def _outline(self, position: int) -> _Outline:
        """The tiles of a patient without their features; always kept, at 36 bytes a tile."""
        found = self._outlines.get(position)
        if found is None:
            tiles = [s.store.tiles(s.slide_id, encoder=self.encoder) for s in self.slides[position]]
            sizes = [len(one) for one in tiles]
            coords = tiles[0].coords if len(tiles) == 1 else np.concatenate([one.coords for one in tiles])
            slide = np.repeat(np.arange(len(tiles), dtype=np.int32), sizes)
            starts = np.cumsum([0, *sizes[:-1]]).tolist()
            found = self._outlines[position] = _Outline(tiles, starts, coords, _one_grid(tiles), slide)
        return found

    def _read(self, position: int, out: npt.NDArray[np.float16] | None = None) -> PatientBag:
        """The whole bag from the stores; its features into ``out``, if there is one."""
        slides, outline = self.slides[position], self._outline(position)
        total = len(outline.slide)
        self.sizes[position] = total
        x = np.empty((total, self.dim), np.float16) if out is None else out
        for slide, tiles, start in zip(slides, outline.tiles, outline.starts, strict=True):
            part = x[start : start + len(tiles)]
            if len(tiles) == tiles.planned:
                slide.store.values(slide.slide_id, encoder=self.encoder, out=part)
            else:
                part[:] = slide.store.values(slide.slide_id, encoder=self.encoder)[tiles.rows]
        if position not in self._finite:  # what is finished in a store does not change
            _check(x, slides)
            self._finite.add(position)
        return PatientBag(x, outline.coords, outline.grid, outline.slide, slides)

    def _read_some(self, position: int, chosen: npt.NDArray[np.int64]) -> PatientBag:
        """Some tiles of a bag from the stores."""
        slides, outline = self.slides[position], self._outline(position)
        of, parts = outline.slide[chosen], []
        for number, (slide, tiles, start) in enumerate(zip(slides, outline.tiles, outline.starts, strict=True)):
            rows = tiles.rows[chosen[of == number] - start]
            parts.append(slide.store.values(slide.slide_id, encoder=self.encoder, rows=rows.tolist()))
        x = parts[0] if len(parts) == 1 else np.concatenate(parts)
        if position not in self._finite:
            _check(x, slides)
        if np.any(np.diff(of) < 0):  # slide by slide is how the parts were read
            x = x[np.argsort(np.argsort(of, kind="stable"), kind="stable")]
        return PatientBag(x, outline.coords[chosen], outline.grid[chosen], of, slides)

    def edges(self, position: int, graph: GraphSettings) -> Edges:
        """The edges of a patient's bag, (2, M) int64 from and to row; built once, as far as the budget goes.

        Raises:
            ConfigError: A radius is asked for, and a slide has no resolution.
            StoreError: As for the bag.
        """
        kept = self._kept_edges.get((position, graph))
        if kept is not None:
            return kept
        bag = self[position]

        def build() -> Edges:
            step_um = _steps_um(bag) if graph.kind == "radius" else None
            return build_graph(graph, bag.grid, slide=bag.slide, x=bag.x, step_um=step_um)

        edges = build() if self.graphs is None else kept_graph(self.graphs, graph, bag.slides, self.encoder, build)
        if edges.nbytes <= self._budget:
            self._budget -= edges.nbytes
            self._kept_edges[position, graph] = edges
        return edges

    def batch(
        self,
        positions: Sequence[int] | npt.NDArray[np.int64],
        *,
        graph: GraphSettings | None = None,
        tiles: Sequence[npt.NDArray[np.int64] | None] | None = None,
    ) -> BagBatch:
        """Bags of some patients, packed: with the edges of a graph, or only some tiles of each (see ``take``)."""
        if tiles is not None:
            return pack([self.take(int(i), mine) for i, mine in zip(positions, tiles, strict=True)])
        edges = None if graph is None else [self.edges(int(i), graph) for i in positions]
        if len(positions) == 1:
            return pack([self[int(positions[0])]], edges)
        ends = np.cumsum([0, *(self.count(int(i)) for i in positions)])
        x = np.empty((ends[-1], self.dim), np.float16)
        parts = [x[start:end] for start, end in itertools.pairwise(ends)]
        return pack([self._into(int(i), part) for i, part in zip(positions, parts, strict=True)], edges, x)

    def _into(self, position: int, out: npt.NDArray[np.float16]) -> PatientBag:
        """The bag of a patient, with its features in ``out``."""
        if position not in self._kept and self.nbytes(position) > self._budget:
            return self._read(position, out)
        bag = self[position]
        out[:] = bag.x
        return bag

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


def pack(
    bags: Sequence[PatientBag], edges: Sequence[Edges] | None = None, x: npt.NDArray[np.float16] | None = None
) -> BagBatch:
    """Lay bags one after the other, and the edges of each, whose numbers move with their rows.

    Args:
        bags: Of some patients.
        edges: (2, M) of each.
        x: Their features, where they lie one after the other already.
    """
    offsets = np.concatenate([[0], np.cumsum([len(b) for b in bags])]).astype(np.int64)
    joined = None
    if edges is not None:
        joined = np.concatenate([mine + start for mine, start in zip(edges, offsets[:-1], strict=True)], axis=1)
    if len(bags) == 1:
        return BagBatch(bags[0].x, offsets, bags[0].grid, joined)
    x = np.concatenate([b.x for b in bags]) if x is None else x
    return BagBatch(x, offsets, np.concatenate([b.grid for b in bags]), joined)


def _steps_um(bag: PatientBag) -> npt.NDArray[np.float64]:
    """Width and height of a step of each tile's grid in micrometres, (N, 2)."""
    steps = []
    for slide in bag.slides:
        facts = slide.store.slide(slide.slide_id)
        if facts.get("mpp") is None:
            raise ConfigError(
                f"slide {slide.slide_id!r}: a graph within a radius in micrometres needs its resolution, "
                f"but store {slide.store.path} has no mpp of it; use kind 'grid' or 'knn'"
            )
        steps.append(np.asarray(facts["stride_level0_px"], np.float64) * np.asarray(facts["mpp"], np.float64))
    return np.stack(steps)[bag.slide]


def _one_grid(slides: Sequence[Bag]) -> npt.NDArray[np.int64]:
    """Places of all tiles of some slides, (N, 2)."""
    placed, below = [], 0
    for slide in slides:
        grid = slide.grid
        if len(grid):
            grid = grid - grid.min(0)
        height = int(grid[:, 1].max(initial=-1)) + 1
        placed.append(grid + np.array([0, below]))
        below += -(-(height + SLIDE_GAP) // SLIDE_GAP) * SLIDE_GAP
    return np.concatenate(placed)
