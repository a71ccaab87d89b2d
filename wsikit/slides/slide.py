"""An open slide: its pyramid, its resolution, and its pixels."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType
from typing import cast

import numpy as np

from wsikit.errors import ConfigError
from wsikit.geometry import Mpp
from wsikit.slides.base import BACKGROUND, BatchReader, Pixels, Reader


class Slide:
    """One scanned image, opened by :func:`wsikit.open_slide`; close it, or use it in a ``with``.

    Attributes:
        path: The file.
        reader: Name of the reader that opened it ("openslide").
        refused: What each reader tried before said, by its name.
        vendor: Scanner family ("aperio").
        level_sizes: (width, height) in px of each level, level 0 first.
        level_downsamples: Level-0 px per level px, >= 1.
        mpp: Micrometres per level-0 pixel along x and y.
        mpp_source: Where that came from: a property of the file, or "given".
        scenes: All scenes / focal planes of the file where it has several.
        scene: The one that is read, or None where there is only one.
    """

    def __init__(
        self,
        path: Path,
        handle: Reader,
        *,
        reader: str,
        mpp: Mpp,
        mpp_source: str,
        scene: str | int | None = None,
        refused: dict[str, str] | None = None,
    ) -> None:
        self.path, self.reader, self.refused = path, reader, refused or {}
        self.mpp, self.mpp_source = mpp, mpp_source
        self.scene, self.scenes = scene, handle.scenes
        self.vendor = handle.vendor
        self.level_sizes = handle.level_sizes
        self.level_downsamples = handle.level_downsamples
        self._handle = handle
        self._lock = None if handle.thread_safe else threading.Lock()

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of level 0, px."""
        return self.level_sizes[0]

    @property
    def level_mpps(self) -> tuple[Mpp, ...]:
        """Micrometres per pixel of each level."""
        return tuple(self.mpp.scaled(d) for d in self.level_downsamples)

    def read_region(self, xy_level0: tuple[int, int], size_px: tuple[int, int], level: int = 0) -> Pixels:
        """Pixels of a rectangle of one level.

        Args:
            xy_level0: Top-left corner (x, y), level-0 px.
            size_px: (width, height) in px of that level.
            level: Index into the pyramid.

        Returns:
            RGB (height, width, 3) uint8. What lies outside the scanned area is white.

        Raises:
            ConfigError: No such level, or an empty size.
            TileReadError: The decoder failed; other regions can still be read.
        """
        if not 0 <= level < len(self.level_sizes):
            raise ConfigError(f"slide {self.path}: no level {level}; it has levels 0 to {len(self.level_sizes) - 1}")
        (width, height), down = size_px, self.level_downsamples[level]
        if width <= 0 or height <= 0:
            raise ConfigError(f"slide {self.path}: cannot read {width} x {height} px; both must be positive")
        x, y = xy_level0[0] / down, xy_level0[1] / down  # where the region starts, px of the level
        level_w, level_h = self.level_sizes[level]
        left, top = max(0, round(-x)), max(0, round(-y))
        right, bottom = min(width, level_w - round(x)), min(height, level_h - round(y))
        if (left, top, right, bottom) == (0, 0, width, height):
            return self._read(xy_level0, size_px, level)
        out = np.full((height, width, 3), BACKGROUND, np.uint8)
        if right > left and bottom > top:
            inside = (max(0, xy_level0[0]), max(0, xy_level0[1]))
            out[top:bottom, left:right] = self._read(inside, (right - left, bottom - top), level)
        return out

    def _read(self, xy_level0: tuple[int, int], size_px: tuple[int, int], level: int) -> Pixels:
        if self._lock is None:
            return self._handle.read(xy_level0, size_px, level)
        with self._lock:
            return self._handle.read(xy_level0, size_px, level)

    @property
    def batch_reader(self) -> BatchReader | None:
        """The reader, where it can read many tiles at once; see :func:`wsikit.slides.tiling.read_tiles`."""
        return cast(BatchReader, self._handle) if hasattr(self._handle, "read_tiles") else None

    def thumbnail(self, max_px: int = 1024) -> Pixels:
        """The whole slide with its longer side at most ``max_px``, area-averaged; RGB uint8.

        Parts that cannot be decoded are grey; :func:`wsikit.slides.overview.read_overview` tells which.
        """
        from wsikit.slides.overview import read_overview

        return read_overview(self, max_px=max_px).rgb

    def close(self) -> None:
        """Give back the file handle."""
        self._handle.close()

    def __enter__(self) -> Slide:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        w, h = self.size
        return f"Slide({self.path.name!r}, {w} x {h} px, mpp {self.mpp}, {len(self.level_sizes)} levels, {self.reader})"
