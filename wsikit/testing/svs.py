"""Write a real pyramidal, JPEG-tiled, Aperio-style SVS, in one pass over its rows.

OpenSlide opens the file as vendor ``aperio``; tiffslide and tifffile read the same pixels.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Pixels: TypeAlias = npt.NDArray[np.uint8]
RowSource: TypeAlias = Pixels | Callable[[int, int], Pixels] | Iterable[Pixels]
"""A whole image (H, W, 3), a function ``(y0, y1) -> rows (y1 - y0, W, 3)``, or rows of any height in order."""

THUMBNAIL_PX = 768
"""Longest side of the thumbnail page, as ScanScope writes it."""

_SUBSAMPLING = {"444": (1, 1), "422": (2, 1), "420": (2, 2)}


def encode_jpeg(rgb: Pixels, *, quality: int, subsampling: str) -> bytes:
    """One baseline YCbCr JPEG with its own tables, from RGB (h, w, 3)."""
    import simplejpeg  # type: ignore[import-untyped, unused-ignore]

    data: bytes = simplejpeg.encode_jpeg(
        np.ascontiguousarray(rgb), quality=quality, colorspace="RGB", colorsubsampling=subsampling, fastdct=False
    )
    return data


class _Level:
    """One pyramid level being filled from above: encodes its tiles and hands averaged rows downwards."""

    def __init__(
        self, size_px: tuple[int, int], factor: int, tile_px: int, jpeg: Callable[[Pixels], bytes] | None, keep: bool
    ) -> None:
        self.width, self.height = size_px
        self.factor = factor  # rows and columns of the level above per row and column here
        self.tile_px, self.jpeg = tile_px, jpeg
        self.tiles: list[bytes] = []
        self.kept: list[Pixels] | None = [] if keep else None
        self.child: _Level | None = None
        self._waiting: list[Pixels] = []  # rows of this level that do not fill a row of tiles yet
        self._above: list[Pixels] = []  # rows of the level above that do not fill a row here yet
        self._rows = 0

    def _shrink(self, rows: Pixels) -> Pixels:
        f = self.factor
        block = rows[: len(rows) // f * f, : self.width * f]
        sums = np.zeros((len(block) // f, self.width, 3), np.uint32)
        for dy in range(f):
            for dx in range(f):
                sums += block[dy::f, dx::f]
        return ((sums + f * f // 2) // (f * f)).astype(np.uint8)

    def take_above(self, rows: Pixels) -> None:
        """Area-average rows of the level above and keep what does not fill a row yet."""
        rows = np.concatenate([*self._above, rows]) if self._above else rows
        whole = len(rows) // self.factor * self.factor
        self._above = [rows[whole:].copy()] if whole < len(rows) else []
        if whole and self._rows < self.height:
            self.take(self._shrink(rows[:whole])[: self.height - self._rows])

    def take(self, rows: Pixels) -> None:
        """Accept the next rows of this level."""
        self._rows += len(rows)
        if self.kept is not None:
            self.kept.append(rows.copy())
        if self.child is not None:
            self.child.take_above(rows)
        if self.jpeg is not None:
            self._waiting.append(rows)
            if sum(map(len, self._waiting)) >= self.tile_px or self._rows == self.height:
                self._encode()

    def _encode(self) -> None:
        assert self.jpeg is not None
        t = self.tile_px
        rows = np.concatenate(self._waiting) if len(self._waiting) > 1 else self._waiting[0]
        end = self._rows == self.height
        for y in range(0, len(rows) if end else len(rows) // t * t, t):
            for x in range(0, self.width, t):
                tile = rows[y : y + t, x : x + t]
                if tile.shape[:2] != (t, t):
                    tile = np.pad(tile, ((0, t - tile.shape[0]), (0, t - tile.shape[1]), (0, 0)), mode="edge")
                self.tiles.append(self.jpeg(tile))
        self._waiting = [] if end else [rows[len(rows) // t * t :].copy()]


def _bands(source: RowSource, size_px: tuple[int, int], rows: int) -> Iterator[Pixels]:
    width, height = size_px
    done = 0
    if callable(source):
        given: Iterable[Pixels] = (source(y, min(y + rows, height)) for y in range(0, height, rows))
    elif isinstance(source, np.ndarray):
        given = (source[y : y + rows] for y in range(0, height, rows))
    else:
        given = source
    for band in given:
        if band.ndim != 3 or band.shape[1:] != (width, 3) or band.dtype != np.uint8:
            raise ValueError(f"rows from {done}: {band.dtype} {band.shape}, expected uint8 (n, {width}, 3)")
        done += len(band)
        yield band
    if done != height:
        raise ValueError(f"the source gave {done} rows, expected {height}")


def write_svs(
    path: str | os.PathLike[str],
    source: RowSource,
    *,
    size_px: tuple[int, int] | None = None,
    mpp: float = 0.5,
    magnification: float | None = 20,
    tile_px: int = 256,
    quality: int = 85,
    subsampling: Literal["444", "422", "420"] = "420",
    levels: tuple[int, ...] = (1, 4, 16),
    vendor_text: str = "Aperio Image Library v12.0.15",
    properties: Mapping[str, str] | None = None,
    include_mpp: bool = True,
    texts: Mapping[int, str] | None = None,
    label: Pixels | None = None,
    macro: Pixels | None = None,
) -> Path:
    """Write an Aperio-style SVS from an image or from its rows; memory is a few row bands.

    Pages are in ScanScope's order: level 0, thumbnail (strips), further levels, label, macro.
    Lower levels are area averages. Nothing in the file depends on time or host: equal
    input gives equal bytes. The file appears under its name only when it is whole.

    Args:
        path: Where to write; an existing file is replaced.
        source: RGB uint8 image (H, W, 3), a function ``(y0, y1) -> (y1 - y0, W, 3)`` called once
            per ``tile_px`` rows from top to bottom, or an iterable of such rows.
        size_px: (width, height); needed unless ``source`` is an array.
        mpp: Micrometres per level-0 pixel.
        magnification: The nominal label ``AppMag``; None leaves it out.
        tile_px: Side of the square tiles of every level.
        quality: JPEG quality, 1 to 100.
        subsampling: JPEG chroma subsampling.
        levels: Downsample of each level; starts with 1, each a whole multiple of the one before.
        vendor_text: First line of every page's description; OpenSlide looks for "Aperio" at its start.
        properties: Further ``key = value`` entries of the description.
        include_mpp: False leaves ``MPP`` out, as some scans do.
        texts: ASCII tags that every page gets, by their TIFF code (315 is the artist).
        label: RGB image of the paper label.
        macro: RGB overview image of the whole glass.

    Returns:
        The path written.

    Raises:
        ValueError: Rows of a wrong shape or number, or levels that are no chain of multiples.

    Example:
        >>> import numpy as np
        >>> rgb = np.full((300, 400, 3), 240, np.uint8)
        >>> write_svs("/tmp/blank.svs", rgb, levels=(1, 4)).name
        'blank.svs'
    """
    import tifffile

    path = Path(path)
    if size_px is None:
        if not isinstance(source, np.ndarray):
            raise ValueError(f"{path.name}: size_px=(width, height) is needed when the source is not an array")
        size_px = (source.shape[1], source.shape[0])
    width, height = size_px
    if levels[0] != 1 or any(b <= a or b % a for a, b in itertools.pairwise(levels)):
        raise ValueError(f"{path.name}: levels {levels}, expected 1 first and each a whole multiple of the one before")

    def jpeg(rgb: Pixels) -> bytes:
        return encode_jpeg(rgb, quality=quality, subsampling=subsampling)

    chain, thumb_level = _chain(size_px, levels, tile_px, jpeg)
    tail = {} if magnification is None else {"AppMag": f"{magnification:g}"}
    if include_mpp:
        tail["MPP"] = f"{mpp:.6g}"
    tail.update(properties or {})
    keys = "".join(f"|{key} = {value}" for key, value in tail.items())
    whole = f"{width}x{height}"

    def level_tiles() -> Iterator[bytes]:
        for band in _bands(source, (width, height), tile_px):
            chain[0].take(band)
            yield from chain[0].tiles
            chain[0].tiles.clear()

    # `rgb` is what Aperio calls the content; the tag must say YCbCr, which is what the JPEG holds
    common: dict[str, Any] = {
        "photometric": "ycbcr", "compression": "jpeg", "subsampling": _SUBSAMPLING[subsampling],
        "software": False, "metadata": None, "contiguous": False, "dtype": np.uint8,
        "extratags": [(code, 2, 0, text, False) for code, text in (texts or {}).items()],
    }  # fmt: skip
    part = path.with_name(f".{path.name}.part")
    try:
        with tifffile.TiffWriter(part, bigtiff=width * height > 4_000_000_000) as tif:
            tif.write(
                level_tiles(),
                shape=(height, width, 3),
                tile=(tile_px, tile_px),
                description=f"{vendor_text}\r\n{whole} [0,0 {whole}] ({tile_px}x{tile_px}) JPEG/RGB Q={quality}{keys}",
                **common,
            )
            small = _thumbnail(thumb_level)
            th, tw = small.shape[:2]
            tif.write(
                iter([jpeg(small)]),
                shape=small.shape,
                rowsperstrip=th,
                description=f"{vendor_text}\r\n{whole} -> {tw}x{th} - {keys}",
                **common,
            )
            for level in chain[1 : len(levels)]:
                tif.write(
                    iter(level.tiles),
                    shape=(level.height, level.width, 3),
                    tile=(tile_px, tile_px),
                    description=(
                        f"{vendor_text}\r\n{whole} [0,0 {whole}] ({tile_px}x{tile_px}) "
                        f"-> {level.width}x{level.height} JPEG/RGB Q={quality}{keys}"
                    ),
                    **common,
                )
            for name, image, kind in (("label", label, 1), ("macro", macro, 9)):
                if image is not None:
                    h, w = image.shape[:2]
                    tif.write(
                        iter([jpeg(image)]),
                        shape=(h, w, 3),
                        rowsperstrip=h,
                        subfiletype=kind,
                        description=f"{vendor_text}\r\n{name} {w}x{h}",
                        **common,
                    )
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _chain(
    size_px: tuple[int, int], levels: tuple[int, ...], tile_px: int, jpeg: Callable[[Pixels], bytes]
) -> tuple[list[_Level], _Level]:
    """Levels linked from fine to coarse, and the one the thumbnail is cut from (maybe beyond the last)."""
    sizes = [(max(1, size_px[0] // d), max(1, size_px[1] // d)) for d in levels]
    factors = [1, *(b // a for a, b in itertools.pairwise(levels))]
    if max(sizes[-1]) > 2 * THUMBNAIL_PX:
        factors.append(-(-max(sizes[-1]) // (2 * THUMBNAIL_PX)))
        sizes.append((max(1, sizes[-1][0] // factors[-1]), max(1, sizes[-1][1] // factors[-1])))
    keep = max((i for i, s in enumerate(sizes) if max(s) >= THUMBNAIL_PX // 2), default=0)
    chain = [
        _Level(s, f, tile_px, jpeg if i < len(levels) else None, i == keep)
        for i, (s, f) in enumerate(zip(sizes, factors, strict=True))
    ]
    for fine, coarse in itertools.pairwise(chain):
        fine.child = coarse
    return chain, chain[keep]


def _thumbnail(level: _Level) -> Pixels:
    import cv2

    assert level.kept is not None
    rgb = np.concatenate(level.kept)
    scale = THUMBNAIL_PX / max(rgb.shape[:2])
    if scale < 1:
        size = (max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale)))
        rgb = np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
    return rgb
