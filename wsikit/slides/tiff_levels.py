"""The tiles of a TIFF pyramid as the file keeps them: where their bytes are, and in which code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

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
