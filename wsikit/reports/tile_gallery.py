"""The tiles of a slide that a map puts first, as pictures in a row."""

from __future__ import annotations

import numpy as np

from wsikit.errors import TileReadError, WsikitError
from wsikit.figures.overlay import Picture
from wsikit.reports.heatmap import SlideTiles
from wsikit.slides.open import open_slide
from wsikit.slides.slide import Slide

TILES, SIDE_PX, GAP_PX = 8, 112, 4
"""Tiles in the row, side of each and space between two."""


def draw_top_tiles(tiles: SlideTiles, *, count: int = TILES) -> Picture | None:
    """The tiles of a slide with the most attention, the first one left.

    Args:
        tiles: Of one slide, with attention.
        count: How many, where there are so many.

    Returns:
        RGB uint8 on white; None without attention, or where the slide's file is not at hand: the heatmap says why.
        A tile that cannot be decoded is crossed out.
    """
    path, size = tiles.slide.path, tuple(tiles.facts["size_level0_px"])
    if path is None or tiles.attention is None:
        return None
    best = np.argsort(-tiles.attention, kind="stable")[:count]
    side = tuple(float(length) for length in tiles.facts["tile_level0_px"])
    try:
        mpp, scene = tuple(tiles.facts["mpp"]), tiles.facts.get("scene")
        with open_slide(path, mpp=mpp, scene=scene, allow_unequal_mpp=True) as slide:
            if slide.size != size:
                return None
            pictures = [_tile(slide, (int(x), int(y)), (side[0], side[1])) for x, y in tiles.coords[best]]
    except WsikitError:  # the slide does not open
        return None
    gap = np.full((SIDE_PX, GAP_PX, 3), 255, np.uint8)
    row = [part for picture in pictures for part in (picture, gap)]
    return np.concatenate(row[:-1], axis=1)


def _tile(slide: Slide, xy_level0: tuple[int, int], side_level0: tuple[float, float]) -> Picture:
    """One tile of ``SIDE_PX``, from the coarsest level that has as many pixels of it."""
    import cv2

    enough = [i for i, down in enumerate(slide.level_downsamples) if min(side_level0) / down >= SIDE_PX]
    level = max(enough, key=lambda i: slide.level_downsamples[i], default=0)
    down = slide.level_downsamples[level]
    size = (max(1, round(side_level0[0] / down)), max(1, round(side_level0[1] / down)))
    try:
        pixels = slide.read_region(xy_level0, size, level)
    except TileReadError:
        crossed = np.full((SIDE_PX, SIDE_PX, 3), 230, np.uint8)
        cv2.line(crossed, (0, 0), (SIDE_PX, SIDE_PX), (120, 120, 120), 2)
        cv2.line(crossed, (0, SIDE_PX), (SIDE_PX, 0), (120, 120, 120), 2)
        return crossed
    how = cv2.INTER_AREA if min(size) >= SIDE_PX else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(pixels, (SIDE_PX, SIDE_PX), interpolation=how), np.uint8)
