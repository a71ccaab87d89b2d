"""Tiles cut from the cells of a compressed level, each cell decoded once while it is within a byte budget.

Where tiles overlap, lie off the file's own grid or cover several cells, neighbours share cells: within
a row of tiles, and between one row and the next. Decoded cells stay in a fixed set of slots. Tiles are expected
from top to bottom: a cell above the tile that is read gives its slot back, so that few slots are ever touched.
Where they do not suffice the cell that was used longest ago gives way. Two rows of cells of 256 px across a
slide of 80,000 px take 123 MB.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

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
Span = tuple[int, slice, slice]
"""Number of a cell along an axis, which of its px, and where in the region they go."""


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
        least: Cells that must fit, whatever the budget: those of one tile.
        budget_bytes: For the pixels of all cells together.
    """

    def __init__(
        self, decoder: CellDecoder, level: TiffLevel, *, shrink: int, least: int, budget_bytes: int = BUDGET_BYTES
    ) -> None:
        self.level, self.shrink = level, shrink
        self._decoder = decoder
        self._cell = (level.cell_px[0] // shrink, level.cell_px[1] // shrink)
        self._size = (-(-level.size[0] // shrink), -(-level.size[1] // shrink))
        capacity = min(max(budget_bytes // (3 * self._cell[0] * self._cell[1]), least), len(level.offsets))
        # Memory that is never written to is never taken: a slide with few cells costs few bytes.
        self._pixels = np.empty((capacity, self._cell[1], self._cell[0], 3), np.uint8)
        self._free = list(range(capacity))[::-1]
        self._slots: OrderedDict[int, int] = OrderedDict()  # cell -> slot, the one used longest ago first

    @property
    def capacity(self) -> int:
        """How many cells there are slots for."""
        return len(self._pixels)

    def cut(
        self,
        origins: npt.NDArray[np.int64],
        size: tuple[int, int],
        out: Pixels,
        how: str,
        pool: ThreadPoolExecutor | None = None,
        threads: int = 1,
    ) -> npt.NDArray[np.bool_]:
        """Cut tiles and resample them into ``out``.

        Args:
            origins: (n, 2) top-left corners, (x, y) in px of this scale.
            size: (width, height) of what is cut, px of this scale.
            out: (n, tile_px, tile_px, 3) uint8. A tile that cannot be read becomes zeros.
            how: See :func:`wsikit.slides.resample.resample`.
            pool: Threads that help.
            threads: How many work, the caller's own among them.

        Returns:
            (n,), True where the tile was read.
        """
        read = np.ones(len(origins), np.bool_)
        across = _spans(origins[:, 0], size[0], self._cell[0], self._size[0])
        down = _spans(origins[:, 1], size[1], self._cell[1], self._size[1])
        wanted = [
            [row * self.level.grid[0] + column for row, _, _ in rows for column, _, _ in columns]
            for columns, rows in zip(across, down, strict=True)
        ]
        alone = threads == 1 and size[0] <= self._cell[0] and size[1] <= self._cell[1]
        chunk = CHUNK_CELLS if alone else CHUNK_CELLS_SHARED
        first = 0
        while first < len(origins):
            self._drop_above(int(origins[first, 1]))
            last, missing = self._make_room(wanted, first, chunk)
            failed = self._decode(missing, pool, threads)

            def one(i: int, failed: set[int] = failed) -> None:
                if failed.isdisjoint(wanted[i]):
                    self._cut_one(across[i], down[i], size, out[i], how)
                else:
                    out[i], read[i] = 0, False

            in_threads(one, range(first, last), pool, threads)
            first = last
        return read

    def _drop_above(self, y: int) -> None:
        while self._slots:
            oldest = next(iter(self._slots))
            if (oldest // self.level.grid[0] + 1) * self._cell[1] > y:
                break
            self._free.append(self._slots.pop(oldest))

    def _make_room(self, wanted: Sequence[Sequence[int]], first: int, chunk: int) -> tuple[int, list[int]]:
        """Give slots to the cells of tiles ``first`` to ``last``; returns ``last`` and the cells to decode."""
        held, missing = set[int](), list[int]()
        for i in range(first, len(wanted)):
            new = [cell for cell in wanted[i] if cell not in held]
            if i > first and (len(held) + len(new) > self.capacity or len(missing) >= chunk):
                return i, missing
            held.update(new)
            for cell in new:
                if cell in self._slots:
                    self._slots.move_to_end(cell)
                else:
                    self._slots[cell] = self._free.pop() if self._free else self._slots.popitem(last=False)[1]
                    missing.append(cell)
        return len(wanted), missing

    def _decode(self, missing: list[int], pool: ThreadPoolExecutor | None, threads: int) -> set[int]:
        """Decode cells into their slots; returns those that cannot be, which give their slots back."""
        failed = set(missing)

        def one(part: slice) -> None:
            cells = missing[part]
            read = self._decoder.decode_run(self.level, cells, [self._pixels[self._slots[cell]] for cell in cells])
            failed.difference_update(itertools.compress(cells, read))

        try:
            missing.sort()  # as they lie in the file
            in_threads(one, runs(self.level, missing), pool, threads)
        finally:  # also where an interrupt came between: what was not decoded must not be taken for pixels
            for cell in failed:
                self._free.append(self._slots.pop(cell))
        return failed

    def _cut_one(self, across: list[Span], down: list[Span], size: tuple[int, int], out: Pixels, how: str) -> None:
        import cv2

        direct = out.shape[1::-1] == size
        region = out if direct else scratch("region", (size[1], size[0], 3), np.uint8)
        if _covered(across) < size[0] or _covered(down) < size[1]:
            region[:] = BACKGROUND
        for row, from_rows, to_rows in down:
            parts = [
                self._pixels[self._slots[row * self.level.grid[0] + column]][from_rows, from_columns]
                for column, from_columns, _ in across
            ]
            if parts:  # as an assignment to slices, with less overhead for each of their short rows
                cv2.hconcat(parts, region[to_rows, across[0][2].start : across[-1][2].stop])
        if not direct:
            resample(region, out, how)


def _covered(spans: list[Span]) -> int:
    return sum(to.stop - to.start for _, _, to in spans)


def _spans(starts: npt.NDArray[np.int64], length: int, cell: int, extent: int) -> list[list[Span]]:
    """For regions of ``length`` px along one axis: which cells they touch, from where in the cell to where."""

    def spans(start: int) -> list[Span]:
        end, found = min(start + length, extent), []
        for number in range(max(start, 0) // cell, -(-end // cell)):
            low, high = max(start, number * cell), min(end, (number + 1) * cell)
            if low < high:
                found.append(
                    (number, slice(low - number * cell, high - number * cell), slice(low - start, high - start))
                )
        return found

    known = {start: spans(start) for start in set(starts.tolist())}
    return [known[start] for start in starts.tolist()]
