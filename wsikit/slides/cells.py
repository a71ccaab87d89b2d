"""Tiles cut from the cells of a compressed level, each cell decoded once while it is within a byte budget.

Where tiles overlap, lie off the file's own grid or cover several cells, neighbours share cells: within
a row of tiles, and between one row and the next. Each cell has one place where it is kept, among those of its column,
which lie below each other in memory as in the slide: a tile is cut across rows of cells at once. There are as
many rows as one tile touches; tiles are expected from top to bottom, or else cells are decoded again. Two rows of
cells of 256 px across a slide of 80,000 px take 123 MB.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from wsikit.slides.base import BACKGROUND, Pixels
from wsikit.slides.resample import resample, scratch
from wsikit.slides.tiff_levels import CellDecoder, TiffLevel, runs

BUDGET_BYTES = 192 << 20
"""Decoded cells that one open slide may keep."""

CHUNK_CELLS, CHUNK_CELLS_SHARED = 8, 64
"""Cells decoded before the tiles that need them are cut.

Few are still in the core's own cache when tiles are cut from them. Several threads wait for each other after every
chunk, and so take more, as do tiles that are larger than a cell.
"""

Item = TypeVar("Item")


class Across(NamedTuple):
    """Where regions at one x lie.

    Attributes:
        cells: Of each column of cells: its first place, and its number.
        parts: Of each: its place among the columns, and which of its px.
        to: Px of the region that they fill.
        whole: Whether that is all.
    """

    cells: list[tuple[int, int]]
    parts: list[tuple[int, slice]]
    to: slice
    whole: bool


class Down(NamedTuple):
    """Where regions at one y lie.

    Attributes:
        cells: Of each row of cells: its place in a column, and the number of its first cell.
        parts: Px of a column of places, and of the region. Two where the region goes on in the uppermost place.
        whole: Whether all of the region is filled.
    """

    cells: list[tuple[int, int]]
    parts: list[tuple[slice, slice]]
    whole: bool


def in_threads(work: Callable[[Item], None], items: Sequence[Item], pool: ThreadPoolExecutor | None, n: int) -> None:
    """Call ``work`` on every item; the calling thread and ``n - 1`` of the pool each take the next one in turn."""
    waiting = iter(items)  # next() of it is atomic

    def drain() -> None:
        for item in waiting:
            work(item)

    others = [pool.submit(drain) for _ in range(min(n, len(items)) - 1)] if pool is not None else []
    try:
        drain()
    finally:  # none may go on writing when the caller has been told of an error
        for other in others:
            other.result()


class CellCache:
    """Decoded cells of one level at one scale. Not for several callers at once; it uses threads itself.

    Args:
        decoder: Reads the file.
        level: The level.
        shrink: 1, or 2, 4, 8: the JPEG decoder's own scale.
        size: (width, height) of what is cut, px of this scale. The cells of one fit, whatever the budget.
    """

    def __init__(self, decoder: CellDecoder, level: TiffLevel, *, shrink: int, size: tuple[int, int]) -> None:
        self.level, self.shrink, self.size = level, shrink, size
        self._decoder = decoder
        self._cell = (level.cell_px[0] // shrink, level.cell_px[1] // shrink)
        self._extent = (-(-level.size[0] // shrink), -(-level.size[1] // shrink))
        across, down = (
            min(-(-side // cell) + 1, most) for side, cell, most in zip(size, self._cell, level.grid, strict=True)
        )
        affordable = BUDGET_BYTES // (3 * self._cell[0] * self._cell[1] * down)
        self._columns, self._rows = min(max(affordable, across), level.grid[0]), down
        # Memory that is never written to is never taken: a slide with few cells costs few bytes.
        self._pixels = np.empty((self._columns, down * self._cell[1], self._cell[0], 3), np.uint8)
        self._places = self._pixels.reshape(-1, self._cell[1], self._cell[0], 3)
        self._held = [-1] * len(self._places)  # the cell in each place

    def cut(
        self,
        origins: npt.NDArray[np.int64],
        out: Pixels,
        how: str,
        pool: ThreadPoolExecutor | None = None,
        threads: int = 1,
    ) -> npt.NDArray[np.bool_]:
        """Cut regions and resample them into ``out``.

        Args:
            origins: (n, 2) top-left corners, (x, y) in px of this scale.
            out: (n, tile_px, tile_px, 3) uint8. A tile that cannot be read becomes zeros.
            how: See :func:`wsikit.slides.resample.resample`.
            pool: Threads that help.
            threads: How many work, the caller's own among them.

        Returns:
            (n,), True where the tile was read.
        """
        read = np.ones(len(origins), np.bool_)
        xs, ys = origins.T.tolist()
        columns, rows = {x: self._across(x) for x in set(xs)}, {y: self._down(y) for y in set(ys)}
        across, down = [columns[x] for x in xs], [rows[y] for y in ys]
        wanted = [
            [(row + column, first + number) for row, first in y.cells for column, number in x.cells]
            for x, y in zip(across, down, strict=True)
        ]
        alone = threads == 1 and self.size[0] <= self._cell[0] and self.size[1] <= self._cell[1]
        chunk = CHUNK_CELLS if alone else CHUNK_CELLS_SHARED
        first, failed = 0, set[int]()

        def one(i: int) -> None:
            if failed and not failed.isdisjoint(cell for _, cell in wanted[i]):
                out[i], read[i] = 0, False
            else:
                self._cut_one(across[i], down[i], out[i], how)

        try:
            while first < len(origins):
                last, missing = self._make_room(wanted, first, chunk)
                failed = self._decode(missing, pool, threads)
                in_threads(one, range(first, last), pool, threads)
                first = last
        except BaseException:  # an interrupt: what was not decoded must not be taken for pixels
            self._held = [-1] * len(self._held)
            raise
        return read

    def _make_room(
        self, wanted: Sequence[Sequence[tuple[int, int]]], first: int, chunk: int
    ) -> tuple[int, dict[int, int]]:
        """Give places to the cells of regions ``first`` to ``last``; returns ``last`` and the cells to decode."""
        held, used, missing = self._held, set[int](), dict[int, int]()
        for i in range(first, len(wanted)):
            new = [item for item in wanted[i] if held[item[0]] != item[1]]
            if new:
                if i > first and (len(missing) >= chunk or any(place in used for place, _ in new)):
                    return i, missing
                for place, cell in new:
                    held[place] = cell
                    missing[cell] = place
            used.update(place for place, _ in wanted[i])
        return len(wanted), missing

    def _decode(self, missing: dict[int, int], pool: ThreadPoolExecutor | None, threads: int) -> set[int]:
        """Decode cells into their places; returns those that cannot be, which give their places back."""
        cells = sorted(missing)  # as they lie in the file
        failed = set(cells)

        def one(part: slice) -> None:
            some = cells[part]
            read = self._decoder.decode_run(self.level, some, [self._places[missing[cell]] for cell in some])
            failed.difference_update(itertools.compress(some, read))

        in_threads(one, runs(self.level, cells), pool, threads)
        for cell in failed:
            self._held[missing[cell]] = -1
        return failed

    def _cut_one(self, across: Across, down: Down, out: Pixels, how: str) -> None:
        import cv2

        region = out if out.shape[1::-1] == self.size else scratch("region", (*self.size[::-1], 3), np.uint8)
        if not (across.whole and down.whole):
            region[:] = BACKGROUND
        for rows, to in down.parts:
            parts = [self._pixels[column, rows, px] for column, px in across.parts]
            if parts:  # as an assignment to slices, with less overhead for each of their short rows
                cv2.hconcat(parts, region[to, across.to])
        if region is not out:
            resample(region, out, how)

    def _across(self, x: int) -> Across:
        touched = _touched(x, self.size[0], self._cell[0], self._extent[0])
        places = [number % self._columns for number, _, _ in touched]
        return Across(
            [(place * self._rows, number) for place, (number, _, _) in zip(places, touched, strict=True)],
            [(place, slice(low, high)) for place, (_, low, high) in zip(places, touched, strict=True)],
            *_filled(x, self.size[0], self._extent[0]),
        )

    def _down(self, y: int) -> Down:
        touched = _touched(y, self.size[1], self._cell[1], self._extent[1])
        parts: list[tuple[slice, slice]] = []
        at = max(-y, 0)
        for number, low, high in touched:
            top, count = number % self._rows * self._cell[1], high - low
            if parts and parts[-1][0].stop == top + low:
                parts[-1] = (slice(parts[-1][0].start, top + high), slice(parts[-1][1].start, at + count))
            else:
                parts.append((slice(top + low, top + high), slice(at, at + count)))
            at += count
        cells = [(number % self._rows, number * self.level.grid[0]) for number, _, _ in touched]
        return Down(cells, parts, _filled(y, self.size[1], self._extent[1])[1])


def _touched(start: int, length: int, cell: int, extent: int) -> list[tuple[int, int, int]]:
    """The cells along one axis that a region of ``length`` px touches: number, from which px of it, to which."""
    begin, end = max(start, 0), min(start + length, extent)
    return [
        (number, max(begin - number * cell, 0), min(end - number * cell, cell))
        for number in range(begin // cell, -(-end // cell) if begin < end else 0)
    ]


def _filled(start: int, length: int, extent: int) -> tuple[slice, bool]:
    """Which px of a region lie inside the level, and whether all do."""
    begin, end = max(start, 0), max(min(start + length, extent), max(start, 0))
    return slice(begin - start, end - start), end - begin == length
