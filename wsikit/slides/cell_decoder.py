"""Decodes the cells of a TIFF: read in runs, each by one thread, and decoded by whichever is free."""

from __future__ import annotations

import itertools
import logging
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from wsikit.slides.base import Pixels
from wsikit.slides.codestream import refuse_damaged_codestream
from wsikit.slides.tiff_levels import TiffLevel

RUN_BYTES, RUN_GAP_BYTES, RUN_CELLS = 128 << 10, 4 << 10, 256
"""Cells are read together up to so many bytes, over gaps of so many, and so many cells: fewer waits for a disk."""

Item = TypeVar("Item")

log = logging.getLogger(__name__)


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


class CellDecoder:
    """Reads and decodes cells of a file; may be called from several threads at once."""

    def __init__(self, path: Path, background: tuple[int, int, int]) -> None:
        self._file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._size = os.fstat(self._file).st_size
        self._lock = threading.Lock()
        self._background = np.array(background, np.uint8)
        self._between = memoryview(bytearray(RUN_GAP_BYTES))  # written to by all, read by none

    def decode(self, level: TiffLevel, cell: int, out: Pixels) -> None:
        """Decode a cell into ``out``.

        Args:
            level: The level.
            cell: Which cell, row by row.
            out: (height, width, 3) uint8, contiguous; JPEG is scaled in the decoder to 1/2, 1/4 or 1/8 where the
                sides are that much smaller than the cell's. What was never scanned becomes background.

        Raises:
            OSError: The bytes cannot be read.
            ValueError: They are not a whole image of that size, or libjpeg has a warning about them.
        """
        self._decode(level, self._fetch(level, [cell])[0], out)

    def decode_all(
        self,
        level: TiffLevel,
        cells: Sequence[int],
        outs: Sequence[Pixels],
        pool: ThreadPoolExecutor | None = None,
        threads: int = 1,
    ) -> npt.NDArray[np.bool_]:
        """Decode cells, those that lie one after another in the file with one read; tells which succeeded.

        A cell that fails is tried again by itself, up to twice: network disks fail for a moment.

        Args:
            level: The level.
            cells: Which, as they lie in the file.
            outs: Where to, for each; see :meth:`decode`.
            pool: Threads that help.
            threads: How many work, the caller's own among them.
        """
        threads = min(threads, len(cells)) if pool is not None else 1
        parts = runs(level, cells, -(-len(cells) // threads)) if cells else []
        unread, read_by_now = iter(parts), itertools.count(1)
        ready, done = SimpleQueue[tuple[int, memoryview | None] | None](), np.zeros(len(cells), np.bool_)

        def end() -> None:
            for _ in range(threads):
                ready.put(None)

        def fetch(part: slice) -> None:
            found: Sequence[memoryview | None] = [None] * (part.stop - part.start)
            try:
                found = self._fetch(level, cells[part])
            except OSError as error:
                log.debug("cells %s of the level of %s px: %s", cells[part], level.size, error)
            for item in zip(range(part.start, part.stop), found, strict=True):
                ready.put(item)
            if next(read_by_now) == len(parts):
                end()

        def work(_: int) -> None:
            while True:
                try:
                    item = ready.get_nowait()
                except Empty:
                    if (part := next(unread, None)) is not None:
                        fetch(part)
                        continue
                    item = ready.get()  # others are reading
                if item is None:
                    return
                i, data = item
                done[i] = self._decoded(level, cells[i], data, outs[i])

        def guarded(number: int) -> None:
            try:
                work(number)
            except BaseException:  # those who wait for what this one was to read must not wait for ever
                end()
                raise

        if parts:
            in_threads(guarded, range(threads), pool, threads)
        return done

    def _decoded(self, level: TiffLevel, cell: int, data: memoryview | None, out: Pixels) -> bool:
        for attempt in range(data is None, 3):
            try:
                if attempt or data is None:
                    self.decode(level, cell, out)
                else:
                    self._decode(level, data, out)
                return True
            except (OSError, ValueError) as error:
                log.debug("cell %d of the level of %s px: %s", cell, level.size, error)
        return False

    def _decode(self, level: TiffLevel, data: memoryview, out: Pixels) -> None:
        """Decode a cell that lies behind room for the level's head."""
        head = len(level.head)
        if len(data) == head:
            out[:] = self._background
            return
        if level.codec == "jpeg":
            import simplejpeg

            if bytes(data[head : head + 2]) != b"\xff\xd8":
                raise ValueError("no JPEG image begins here")
            data[2 : head + 2] = level.head
            height, width, _ = out.shape
            found = simplejpeg.decode_jpeg(data[2:], "RGB", min_height=height, min_width=width, buffer=out, strict=True)
            shape = found.shape
        else:
            shape = _decode_jpeg2000(bytes(data), out, ycbcr=level.codec == "jpeg2000-ycbcr")
        if shape != out.shape:
            raise ValueError(f"an image of {shape[1]} x {shape[0]} px, expected {out.shape[1]} x {out.shape[0]}")

    def _fetch(self, level: TiffLevel, cells: Sequence[int]) -> list[memoryview]:
        """The bytes of each cell of a run, behind room for the level's head."""
        head = len(level.head)
        starts, counts = level.offsets[cells].tolist(), level.counts[cells].tolist()
        if not 0 <= min(counts) <= max(counts) <= self._size:  # no memory is asked for on the word of a broken file
            raise OSError(f"cells of {min(counts)} to {max(counts)} bytes in a file of {self._size}")
        room = np.empty(sum(counts) + head * len(cells), np.uint8).data
        found, places = list[memoryview](), list[memoryview]()
        at = begin = end = 0
        for start, count in zip(starts, counts, strict=True):
            found.append(room[at : at + head + count])
            at += head + count
            if not count:
                continue
            if not places:
                begin = start
            elif start > end:
                places.append(self._between[: start - end])
            places.append(found[-1][head:])
            end = start + count
        if places:
            self._read(begin, places)
        return found

    def _read(self, offset: int, places: Sequence[memoryview]) -> None:
        """Fill ``places`` with what lies in the file from ``offset`` on."""
        if hasattr(os, "preadv"):
            count = os.preadv(self._file, places, offset)
        else:  # Windows
            with self._lock, os.fdopen(self._file, "rb", buffering=0, closefd=False) as file:
                file.seek(offset)
                count = sum(file.readinto(place) for place in places)
        if count != (wanted := sum(map(len, places))):
            raise OSError(f"{count} of {wanted} bytes at {offset}")

    def close(self) -> None:
        """Give back the file handle."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1


def runs(level: TiffLevel, cells: Sequence[int], most: int) -> list[slice]:
    """Cut a list of cells where the next one does not follow in the file, or a read would be too large.

    Args:
        level: The level.
        cells: One at least.
        most: Cells of a run, at most.
    """
    starts, counts = level.offsets[cells].tolist(), level.counts[cells].tolist()
    found, first, begin, end, most = [], 0, 0, 0, min(most, RUN_CELLS)
    for i, (start, count) in enumerate(zip(starts, counts, strict=True)):
        follows = not count or not end or (end <= start <= end + RUN_GAP_BYTES and start + count - begin <= RUN_BYTES)
        if i and not (follows and i - first < most):
            found.append(slice(first, i))
            first, end = i, 0
        if count:
            begin, end = (begin, start + count) if end else (start, start + count)
    return [*found, slice(first, len(cells))]


def _decode_jpeg2000(data: bytes, out: Pixels, *, ycbcr: bool) -> tuple[int, ...]:
    import imagecodecs

    refuse_damaged_codestream(data)
    try:
        pixels = imagecodecs.jpeg2k_decode(data)
    except RuntimeError as error:  # imagecodecs' own kinds
        raise ValueError(str(error)) from error
    if pixels.shape == out.shape and pixels.dtype == np.uint8:
        out[:] = _rgb_of_ycbcr(pixels) if ycbcr else pixels
    return tuple(pixels.shape)


def _rgb_of_ycbcr(ycc: Pixels) -> Pixels:
    """RGB as libjpeg computes it, in fixed point of 16 bits (ITU-T T.871, section 7)."""
    y, cb, cr = (ycc[..., i].astype(np.int32) - (128 if i else 0) for i in range(3))
    half = 1 << 15
    red = y + ((91881 * cr + half) >> 16)
    green = y + ((-22554 * cb - 46802 * cr + half) >> 16)
    blue = y + ((116130 * cb + half) >> 16)
    rgb: Pixels = np.clip(np.stack([red, green, blue], axis=-1), 0, 255).astype(np.uint8)
    return rgb
