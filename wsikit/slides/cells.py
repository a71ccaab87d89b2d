"""Tiles cut from the cells of a compressed level, each cell decoded once while it is within a byte budget.

Where tiles overlap, lie off the file's own grid or cover several cells, neighbours share cells: within
a row of tiles, and between one row and the next. Each cell has one place where it is kept, among those of its column,
which lie below each other in memory as in the slide: a tile is cut across rows of cells at once. There are as
many rows as one tile touches; tiles are expected from top to bottom, or else cells are decoded again. Two rows of
cells of 256 px across a slide of 80,000 px take 123 MB.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from wsikit.slides.base import BACKGROUND, Pixels
from wsikit.slides.cell_decoder import CellDecoder, in_threads
from wsikit.slides.cell_layout import Across, CellLayout, Down, Run
from wsikit.slides.resample import resample, scratch
from wsikit.slides.tiff_levels import TiffLevel

BUDGET_BYTES = 192 << 20
"""Decoded cells that one open slide may keep."""

CHUNK_CELLS, CHUNK_CELLS_SHARED = 16, 64
"""Cells decoded before the tiles that need them are cut.

Few are still in the core's own cache when tiles are cut from them. Several threads wait for each other after every
chunk, and so take more, as do tiles that are larger than a cell.
"""


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
        self._layout = CellLayout(
            self._cell,
            level.grid,
            (-(-level.size[0] // shrink), -(-level.size[1] // shrink)),
            size,
            BUDGET_BYTES // (3 * self._cell[0] * self._cell[1]),
        )
        # Memory that is never written to is never taken: a slide with few cells costs few bytes.
        height = self._layout.rows * self._cell[1]
        self._pixels = np.empty((self._layout.columns, height, self._cell[0], 3), np.uint8)
        self._lines = self._pixels.reshape(len(self._pixels), height, -1)
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
        across, down = self._layout.of(xs, ys)
        alone = threads == 1 and self.size[0] <= self._cell[0] and self.size[1] <= self._cell[1]
        chunk = CHUNK_CELLS if alone else CHUNK_CELLS_SHARED
        as_it_is = out.shape[2:0:-1] == self.size
        first = 0

        def one(run: Run) -> None:
            if run.tiles > 1:
                self._cut_run(across[run.first], down[run.first], out[run.first :: run.step][: run.tiles])
            else:
                self._cut_one(across[run.first], down[run.first], out[run.first], how)

        try:
            while first < len(origins):
                last, missing = self._make_room(across, down, first, chunk)
                failed = self._decode(missing, pool, threads)
                some: Sequence[int] = range(first, last)
                if failed:
                    some = [i for i in some if failed.isdisjoint(_cells(across[i], down[i]))]
                    lost = sorted({*range(first, last)}.difference(some))
                    out[lost], read[lost] = 0, False
                jobs = self._layout.runs(xs, across, down, some) if as_it_is else [Run(i, 1, 1) for i in some]
                in_threads(one, jobs, pool, threads)
                first = last
        except BaseException:  # an interrupt: what was not decoded must not be taken for pixels
            self._held = [-1] * len(self._held)
            raise
        return read

    def _make_room(
        self, across: Sequence[Across], down: Sequence[Down], first: int, chunk: int
    ) -> tuple[int, dict[int, int]]:
        """Give places to the cells of regions ``first`` to ``last``; returns ``last`` and the cells to decode."""
        held, used, missing = self._held, set[int](), dict[int, int]()
        row, seen = down[first], set[tuple[int, int]]()
        for i in range(first, len(across)):
            if down[i] is not row:
                row, seen = down[i], set()
            unseen = [column for column in across[i].cells if column not in seen]
            if unseen:
                cells = {top + place: begin + number for place, number in unseen for top, begin in row.cells}
                new = [place for place, cell in cells.items() if held[place] != cell]
                if new and i > first and (len(missing) >= chunk or not used.isdisjoint(new)):
                    return i, missing
                for place in new:
                    held[place] = cells[place]
                    missing[cells[place]] = place
                used.update(cells)
                seen.update(unseen)
        return len(across), missing

    def _decode(self, missing: dict[int, int], pool: ThreadPoolExecutor | None, threads: int) -> set[int]:
        """Decode cells into their places; returns those that cannot be, which give their places back."""
        cells = sorted(missing)  # as they lie in the file
        outs = [self._places[missing[cell]] for cell in cells]
        done = self._decoder.decode_all(self.level, cells, outs, pool, threads)
        failed = {*itertools.compress(cells, ~done)}
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

    def _cut_run(self, across: Across, down: Down, out: Pixels) -> None:
        """Fill ``out`` (n, h, w, 3) with one region and the n - 1 that lie a cell each to the right of it."""
        flat = out.reshape(*out.shape[:2], -1)
        for rows, to in down.parts:
            at = 0
            for column, px in across.parts:
                source = self._lines[column : column + len(out), rows, 3 * px.start : 3 * px.stop]
                line = np.dtype((np.void, source.shape[2]))  # a row of px is copied as one item
                flat[:, to, at : at + source.shape[2]].view(line)[:] = source.view(line)
                at += source.shape[2]


def _cells(across: Across, down: Down) -> list[int]:
    return [begin + number for _, begin in down.cells for _, number in across.cells]
