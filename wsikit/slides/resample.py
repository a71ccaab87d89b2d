"""From the pixels that were read to the pixels of a tile."""

from __future__ import annotations

from wsikit.slides.base import Pixels


def resample(region: Pixels, out: Pixels, how: str) -> None:
    """Fill ``out`` (tile_px, tile_px, 3) from a region of another size.

    Args:
        region: (h, w, 3) uint8.
        out: Where the tile goes, uint8.
        how: A value of :attr:`wsikit.slides.level.LevelChoice.resampler`. "none" copies; "area" averages
            exactly; "dct" averages what the JPEG decoder has left to do; "cubic" interpolates.
    """
    if how == "none" or region.shape == out.shape:
        out[:] = region
        return
    import cv2

    cv2.resize(region, out.shape[1::-1], dst=out, interpolation=cv2.INTER_CUBIC if how == "cubic" else cv2.INTER_AREA)
