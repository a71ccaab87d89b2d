"""OpenSlide: the reference for every vendor format that it knows."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np

from wsikit.errors import SceneError, TileReadError
from wsikit.geometry import Mpp
from wsikit.slides.base import BACKGROUND, Pixels, plausible_mpp, register_reader
from wsikit.slides.readers.tiffslide import refuse_unless_rgb


@register_reader(
    "openslide",
    priority=10,
    formats="Aperio, Hamamatsu, Leica, MIRAX, Philips, Sakura, Trestle, Ventana, Zeiss, DICOM, tiled TIFF",
    source="https://openslide.org (openslide-python, openslide-bin)",
    licence="LGPL-2.1",
)
class OpenSlideReader:
    """A slide through ``openslide-python``.

    A failed read leaves an OpenSlide handle in an error state in which every later read fails too,
    so that one corrupt tile would take the whole slide with it: the handle is opened anew instead.

    OpenSlide shows a tiled TIFF of one channel, or of 16 bits, as if it were RGB: those are refused here.
    """

    thread_safe = True
    scenes: tuple[str, ...] = ()

    def __init__(self, path: Path, *, scene: str | int | None = None) -> None:
        import openslide

        self._module, self._path, self._lock = openslide, path, threading.Lock()
        if scene is not None:
            raise SceneError(f"slide {path}: OpenSlide cannot choose a scene (asked for {scene!r})")
        self._slide = openslide.OpenSlide(str(path))
        properties = self._slide.properties
        self.vendor = properties.get("openslide.vendor", "unknown")
        if self.vendor == "generic-tiff":
            try:
                refuse_unless_rgb(path)
            except BaseException:
                self._slide.close()
                raise
        self.level_sizes = tuple(self._slide.level_dimensions)
        self.level_downsamples = tuple(self._slide.level_downsamples)
        self.recorded_mpp: Mpp | None = plausible_mpp(
            properties.get("openslide.mpp-x"), properties.get("openslide.mpp-y")
        )
        self.mpp_source = "openslide.mpp-x, openslide.mpp-y"
        background = properties.get("openslide.background-color")
        red, green, blue = (int(background[i : i + 2], 16) if background else BACKGROUND for i in (0, 2, 4))
        self.background = (red, green, blue)

    def read(self, xy_level0: tuple[int, int], size_px: tuple[int, int], level: int) -> Pixels:
        """RGB of a region; what was never scanned has the slide's background colour."""
        slide = self._slide
        try:
            rgba = np.asarray(slide.read_region(xy_level0, level, size_px))
        except self._module.OpenSlideError as error:
            self._reopen(slide)
            raise TileReadError(
                f"slide {self._path}: level {level}, {size_px[0]} x {size_px[1]} px at {xy_level0}: {error}"
            ) from error
        alpha = rgba[..., 3]
        if alpha.min() == 255:
            return np.ascontiguousarray(rgba[..., :3])
        share = alpha[..., None].astype(np.float32) / 255
        mixed = rgba[..., :3] * share + np.asarray(self.background, np.float32) * (1 - share)
        return np.rint(mixed).astype(np.uint8)

    def _reopen(self, failed: object) -> None:
        with self._lock:
            if self._slide is failed:  # else another thread has done it already
                # The old handle is left to the garbage collector: other threads may still read from it.
                self._slide = self._module.OpenSlide(str(self._path))

    def close(self) -> None:
        """Give back the file handle."""
        self._slide.close()
