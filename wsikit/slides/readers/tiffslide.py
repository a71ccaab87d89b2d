"""tiffslide: pure Python, for TIFF files that OpenSlide refuses (untiled, odd compressions)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wsikit.errors import NotBrightfieldError, SceneError, TileReadError
from wsikit.slides.base import Pixels, plausible_mpp, register_reader


@register_reader(
    "tiffslide",
    priority=20,
    formats="TIFF of any layout, OME-TIFF with one image",
    source="https://github.com/Bayer-Group/tiffslide",
    licence="BSD-3-Clause",
)
class TiffSlideReader:
    """A slide through ``tiffslide``, refused unless its pixels are 8-bit RGB.

    tiffslide shows a fluorescence file's first channels as if they were red, green and blue, so the
    photometric tag of the file is asked first. It is not thread safe.
    """

    thread_safe = False
    scenes: tuple[str, ...] = ()

    def __init__(self, path: Path, *, scene: str | int | None = None) -> None:
        import tiffslide

        if scene is not None:
            raise SceneError(f"slide {path}: tiffslide cannot choose a scene (asked for {scene!r})")
        refuse_unless_rgb(path)
        _refuse_unstitched(path)
        self._path = path
        self._slide = tiffslide.TiffSlide(str(path))
        properties = self._slide.properties
        self.vendor = str(properties.get("tiffslide.vendor") or "generic-tiff")
        self.level_sizes = tuple((int(w), int(h)) for w, h in self._slide.level_dimensions)
        self.level_downsamples = tuple(float(d) for d in self._slide.level_downsamples)
        x = properties.get("tiffslide.mpp-x")
        self.recorded_mpp = plausible_mpp(x, properties.get("tiffslide.mpp-y") or x)
        self.mpp_source = "tiffslide.mpp-x, tiffslide.mpp-y"

    def read(self, xy_level0: tuple[int, int], size_px: tuple[int, int], level: int) -> Pixels:
        """RGB of a region."""
        try:
            region = self._slide.read_region(xy_level0, level, size_px, as_array=True)
        except Exception as error:  # tifffile, imagecodecs and zarr each raise kinds of their own
            raise TileReadError(
                f"slide {self._path}: level {level}, {size_px[0]} x {size_px[1]} px at {xy_level0}: {error}"
            ) from error
        return np.ascontiguousarray(region[..., :3], dtype=np.uint8)

    def close(self) -> None:
        """Give back the file handle."""
        self._slide.close()


def _refuse_unstitched(path: Path) -> None:
    import tifffile

    with tifffile.TiffFile(path) as tif:
        if tif.is_bif:  # only OpenSlide moves its tiles to where they belong
            raise ValueError("tiles of a Ventana BIF may overlap, and tiffslide does not stitch them")


def refuse_unless_rgb(path: Path) -> None:
    """Raise NotBrightfieldError where the main image of a TIFF is not 8-bit RGB."""
    import tifffile

    with tifffile.TiffFile(path) as tif:
        series = tif.series[0]
        page = series.keyframe
        colour = getattr(page.photometric, "name", "unknown")
        if series.dtype != np.uint8 or page.samplesperpixel not in (3, 4):
            raise NotBrightfieldError(
                f"slide {path}: not a bright-field RGB scan: its main image has shape {series.shape} "
                f"(axes {series.axes}), {series.dtype}, photometric {colour}, which is how fluorescence and "
                "single-channel images are kept; wsikit reads 8-bit RGB"
            )
