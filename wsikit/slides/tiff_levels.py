"""The tiles of a TIFF pyramid as the file keeps them: where their bytes are, and how they are decoded."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.slides.base import Pixels
from wsikit.slides.codestream import refuse_damaged_codestream

RUN_BYTES, RUN_GAP_BYTES = 128 << 10, 4 << 10
"""Cells are read together up to so many bytes, over gaps of no more than so many: fewer waits for a disk."""

log = logging.getLogger(__name__)

_local = threading.local()

_JPEG, _JPEG2000_YCBCR, _JPEG2000_RGB = 7, 33003, 33005
_RGB, _YCBCR = 2, 6


@dataclass(frozen=True, eq=False)
class TiffLevel:
    """One level: a grid of compressed cells (the file's own tiles; a *tile* is what is cut for an encoder).

    Attributes:
        size: (width, height) of the level, px.
        cell_px: (width, height) of a cell.
        grid: (columns, rows) of cells.
        offsets: (columns * rows,) int64, byte where a cell begins, row by row.
        counts: (columns * rows,) int64, its bytes; 0 where nothing was scanned.
        codec: "jpeg", "jpeg2000" or "jpeg2000-ycbcr".
        head: For JPEG: what stands before each cell's own segments, from SOI on.
    """

    size: tuple[int, int]
    cell_px: tuple[int, int]
    grid: tuple[int, int]
    offsets: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    codec: str
    head: bytes

    @property
    def can_shrink(self) -> bool:
        """Whether the decoder can scale cells to 1/2, 1/4 and 1/8 without a remainder."""
        return self.codec == "jpeg" and not any(side % 8 for side in self.cell_px)


def index_levels(path: Path, level_sizes: Sequence[tuple[int, int]]) -> tuple[TiffLevel, ...]:
    """Find the directory of each level by its size.

    Args:
        path: A TIFF file.
        level_sizes: (width, height) of each level. A directory may be padded to whole cells, as Philips does.

    Raises:
        ValueError: Not a TIFF, or a level that is not 8-bit RGB in JPEG or JPEG 2000 cells.
    """
    import tifffile

    with tifffile.TiffFile(path) as tif:
        main = [page.aspage() for page in tif.pages]
        below = [sub.aspage() for page in main for sub in page.pages or ()]  # SubIFDs: the lower levels of OME-TIFF
        pages = [page for page in main + below if page.is_tiled]
        return tuple(_level(pages, size) for size in level_sizes)


def _level(pages: Sequence[Any], size: tuple[int, int]) -> TiffLevel:
    page = next((p for p in pages if _fits(p, size)), None)
    if page is None:
        raise ValueError(f"no tiled TIFF directory holds the level of {size[0]} x {size[1]} px alone")
    compression, colour = int(page.compression), int(page.photometric)
    if page.samplesperpixel != 3 or page.bitspersample != 8 or int(page.planarconfig) != 1 or page.imagedepth != 1:
        raise ValueError(
            f"level of {size[0]} x {size[1]} px: {page.samplesperpixel} samples of {page.bitspersample} bits, planar "
            f"configuration {int(page.planarconfig)}, depth {page.imagedepth}; expected 3 interleaved samples of 8 bits"
        )
    codec, head = "jpeg", b""
    if compression == _JPEG and colour in (_RGB, _YCBCR):
        head = _jpeg_head(page.jpegtables, ycbcr=colour == _YCBCR)
    elif compression in (_JPEG2000_RGB, _JPEG2000_YCBCR):
        codec = "jpeg2000" if compression == _JPEG2000_RGB else "jpeg2000-ycbcr"
    else:
        raise ValueError(
            f"level of {size[0]} x {size[1]} px: compression {page.compression!r}, photometric {page.photometric!r}; "
            "expected JPEG (RGB or YCbCr) or Aperio's JPEG 2000"
        )
    width, height = int(page.tilewidth), int(page.tilelength)
    grid = (-(-int(page.imagewidth) // width), -(-int(page.imagelength) // height))
    offsets, counts = np.array(page.dataoffsets, np.int64), np.array(page.databytecounts, np.int64)
    if len(offsets) != grid[0] * grid[1] or len(counts) != len(offsets):
        raise ValueError(f"level of {size[0]} x {size[1]} px: {len(offsets)} cells, expected {grid[0]} x {grid[1]}")
    return TiffLevel(size, (width, height), grid, offsets, counts, codec, head)


def _fits(page: Any, size: tuple[int, int]) -> bool:
    sides = ((page.imagewidth, page.tilewidth, size[0]), (page.imagelength, page.tilelength, size[1]))
    return all(full in (side, -(-side // cell) * cell) for full, cell, side in sides)


def _jpeg_head(tables: bytes | None, *, ycbcr: bool) -> bytes:
    """SOI, an Adobe marker that says what the three components are, and the tables that all cells share.

    Without the marker libjpeg guesses: it takes RGB for YCbCr unless the components are named "R", "G", "B".
    """
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([ycbcr])
    return b"\xff\xd8" + adobe + (tables[2:-2] if tables else b"")


def runs(level: TiffLevel, cells: Sequence[int]) -> list[slice]:
    """Cut a list of cells where the next one does not follow in the file, or the bytes would be too many."""
    starts, counts = level.offsets[cells].tolist(), level.counts[cells].tolist()
    found, first, begin, end = [], 0, 0, 0
    for i, (start, count) in enumerate(zip(starts, counts, strict=True)):
        if not count:
            continue
        if end and not (end <= start <= end + RUN_GAP_BYTES and start + count - begin <= RUN_BYTES):
            found.append(slice(first, i))
            first, end = i, 0
        begin, end = (begin, start + count) if end else (start, start + count)
    return [*found, slice(first, len(cells))]


class CellDecoder:
    """Reads and decodes single cells of a file; may be called from several threads at once."""

    def __init__(self, path: Path, background: tuple[int, int, int]) -> None:
        self._file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._lock = threading.Lock()
        self._background = np.array(background, np.uint8)

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
        count = int(level.counts[cell])
        data = self._bytes("cell", level, int(level.offsets[cell]), count)
        self._decode(level, data, out)

    def decode_run(self, level: TiffLevel, cells: Sequence[int], outs: Sequence[Pixels]) -> list[bool]:
        """Decode cells that lie one after another in the file, with one read; tells which succeeded.

        A cell that fails is tried again by itself, up to twice: network disks fail for a moment.
        """
        starts, counts = level.offsets[cells].tolist(), level.counts[cells].tolist()
        begin = min((start for start, count in zip(starts, counts, strict=True) if count), default=0)
        end = max((start + count for start, count in zip(starts, counts, strict=True) if count), default=0)
        try:
            data = self._bytes("run", level, begin, end - begin)
        except OSError:
            return [self._again(level, cell, out) for cell, out in zip(cells, outs, strict=True)]
        done, head = [], len(level.head)
        for cell, out, start, count in zip(cells, outs, starts, counts, strict=True):
            first = start - begin if count else 0
            try:
                self._decode(level, data[first : first + head + count], out)
                done.append(True)
            except (OSError, ValueError):
                done.append(self._again(level, cell, out))
        return done

    def _again(self, level: TiffLevel, cell: int, out: Pixels) -> bool:
        for _ in range(2):
            try:
                self.decode(level, cell, out)
                return True
            except (OSError, ValueError) as error:
                log.debug("cell %d of the level of %s px: %s", cell, level.size, error)
        return False

    def _decode(self, level: TiffLevel, data: memoryview, out: Pixels) -> None:
        """Decode a cell that lies behind as many bytes as the level's head has: those are written over.

        In a run they are the end of the cell before, which has been decoded.
        """
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

    def _bytes(self, use: str, level: TiffLevel, offset: int, count: int) -> memoryview:
        """Bytes of the file behind room for the level's head, in memory that the thread's next call for it reuses."""
        head = len(level.head)
        rooms: dict[str, bytearray] = _local.__dict__
        if len(rooms.get(use, b"")) < head + count:
            rooms[use] = bytearray(max(head + count, 2 * RUN_BYTES))
        data = memoryview(rooms[use])[: head + count]
        if count:
            self._read(offset, data[head:])
        return data

    def _read(self, offset: int, out: memoryview) -> None:
        if hasattr(os, "preadv"):
            count = os.preadv(self._file, [out], offset)
        else:  # Windows
            with self._lock, os.fdopen(self._file, "rb", buffering=0, closefd=False) as file:
                file.seek(offset)
                count = file.readinto(out)
        if count != len(out):
            raise OSError(f"{count} of {len(out)} bytes at {offset}")

    def close(self) -> None:
        """Give back the file handle."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1


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
