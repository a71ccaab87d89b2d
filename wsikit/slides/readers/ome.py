"""OME-TIFF with one image, through tifffile: its lower levels and its resolution, which OpenSlide does not see."""

from __future__ import annotations

from wsikit.slides.base import register_reader
from wsikit.slides.readers.ome_scenes import OmeScenesReader


@register_reader(
    "ome",
    priority=8,  # after direct_tiff, for which it is the model; before OpenSlide, which shows level 0 only
    formats="OME-TIFF with one image",
    source="https://github.com/cgohlke/tifffile",
    licence="BSD-3-Clause",
)
class OmeReader(OmeScenesReader):
    """The only image of an OME-TIFF, with the levels that it keeps in SubIFDs.

    To OpenSlide it is a generic TIFF: one level, and no resolution unless the TIFF tags have it, too.

    Raises:
        SceneError: A scene was asked for.
        ValueError: Not an OME-TIFF with one image of 8-bit RGB that records its PhysicalSizeX and PhysicalSizeY.
    """

    several = False
