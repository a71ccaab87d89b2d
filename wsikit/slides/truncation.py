"""Files that end before their contents do: an interrupted copy opens in some readers, with parts missing."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

from wsikit.errors import TruncatedSlideError

TIFF_STARTS = {
    b"II*\0": ("<", False), b"MM\0*": (">", False), b"II+\0": ("<", True), b"MM\0+": (">", True),
}  # fmt: skip
"""First four bytes -> byte order for ``struct``, and whether it is a BigTIFF."""


def refuse_truncated(path: Path) -> None:
    """Raise TruncatedSlideError where a TIFF points beyond its own end; other formats are left to their readers.

    Scanners write the image directories of a TIFF before, between and after the pixels, so a copy
    that was cut off may lose its lower levels, or its last rows of tiles, and still open.

    Raises:
        TruncatedSlideError: A directory, or the pixels of one, lies beyond the end of the file.
    """
    with path.open("rb") as handle:
        start = TIFF_STARTS.get(handle.read(4))
        if start is None:
            return
        size = path.stat().st_size
        if path.suffix.lower() != ".ndpi":  # Hamamatsu has 64-bit offsets in 32-bit TIFF: the chain cannot be followed
            _follow_directories(handle, path, size, *start)
    _check_pixels(path, size)


def _follow_directories(handle: BinaryIO, path: Path, size: int, order: str, big: bool) -> None:
    # Classic: 2-byte count, 12-byte entries, 4-byte offsets; BigTIFF: 8, 20 and 8.
    offset_type, count_type, entry_bytes = ("Q", "Q", 20) if big else ("I", "H", 12)

    def read(where: int, kind: str) -> int:
        count = struct.calcsize(kind)
        handle.seek(where)
        data = handle.read(count)
        if len(data) < count:
            raise _error(path, size, f"a directory is expected at byte {where:,}")
        return int(struct.unpack(order + kind, data)[0])

    offset, seen = read(8 if big else 4, offset_type), set[int]()
    while offset and offset not in seen:
        seen.add(offset)
        entries = read(offset, count_type)
        offset = read(offset + struct.calcsize(count_type) + entries * entry_bytes, offset_type)


def _check_pixels(path: Path, size: int) -> None:
    import tifffile

    with tifffile.TiffFile(path) as tif:
        for page in tif.pages:
            end = max((o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=False) if n), default=0)
            if end > size:
                raise _error(path, size, f"pixels are expected up to byte {end:,}")


def _error(path: Path, size: int, what: str) -> TruncatedSlideError:
    return TruncatedSlideError(f"slide {path}: cut off: the file has {size:,} bytes, and {what}; copy it again")
