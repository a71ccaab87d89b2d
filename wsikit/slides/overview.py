"""The whole slide at low resolution, read in blocks, with what could not be decoded marked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from wsikit.errors import ConfigError, TileReadError
from wsikit.slides.base import Pixels

if TYPE_CHECKING:
    from wsikit.slides.slide import Slide

BLOCK_PX = 2048
"""Side of one read, px of the level: bounds memory on files without a pyramid."""

SMALLEST_BLOCK_PX = 128
"""A block that fails is read again in quarters down to this side, so that one bad tile costs little."""

UNREADABLE = 128
"""Grey value of what could not be decoded."""


@dataclass(frozen=True)
class Overview:
    """A slide at low resolution.

    Attributes:
        rgb: (h, w, 3) uint8.
        readable: (h, w) bool, False where the decoder failed.
        downsample: Level-0 px per overview px along (x, y).
    """

    rgb: Pixels
    readable: npt.NDArray[np.bool_]
    downsample: tuple[float, float]


def overview_size(
    slide: Slide, *, max_px: int | None = None, mpp: float | None = None, limit_px: int = 8192
) -> tuple[int, int]:
    """(width, height) of an overview, px; see :func:`read_overview`."""
    if (max_px is None) == (mpp is None):
        raise ConfigError("an overview takes either max_px or mpp")
    width, height = slide.size
    factor = max(width, height) / max_px if max_px is not None else (mpp or 0.0) / slide.mpp.mean
    factor = max(factor, 1.0, max(width, height) / limit_px)
    return max(1, round(width / factor)), max(1, round(height / factor))


def read_overview(
    slide: Slide, *, max_px: int | None = None, mpp: float | None = None, limit_px: int = 8192
) -> Overview:
    """Read a whole slide, area-averaged, never enlarged.

    Args:
        slide: The slide.
        max_px: Length of the longer side, or
        mpp: resolution in micrometres per pixel (coarser if a side would pass ``limit_px``).
        limit_px: Longest side with ``mpp``.
    """
    import cv2

    width, height = slide.size
    out_w, out_h = overview_size(slide, max_px=max_px, mpp=mpp, limit_px=limit_px)
    factor = min(width / out_w, height / out_h)
    level = max(
        (i for i, d in enumerate(slide.level_downsamples) if d <= factor * 1.01),
        key=lambda i: slide.level_downsamples[i],
    )
    level_w, level_h = slide.level_sizes[level]
    rgb = np.empty((out_h, out_w, 3), np.uint8)
    readable = np.ones((out_h, out_w), np.bool_)
    # Blocks are cut along whole overview pixels, so that every output pixel is averaged from its own block only.
    step = max(1, math.floor(BLOCK_PX * min(out_w / level_w, out_h / level_h)))
    for row in range(0, out_h, step):
        for col in range(0, out_w, step):
            end_row, end_col = min(row + step, out_h), min(col + step, out_w)
            x0, x1 = round(col * level_w / out_w), round(end_col * level_w / out_w)
            y0, y1 = round(row * level_h / out_h), round(end_row * level_h / out_h)
            block, ok = _read_block(slide, level, x0, y0, x1 - x0, y1 - y0)
            size = (end_col - col, end_row - row)
            if (block.shape[1], block.shape[0]) != size:
                block = np.asarray(cv2.resize(block, size, interpolation=cv2.INTER_AREA), np.uint8)
                if not ok.all():
                    ok = cv2.resize(ok.astype(np.uint8) * 255, size, interpolation=cv2.INTER_AREA) == 255
                else:
                    ok = np.ones(size[::-1], np.bool_)
            rgb[row:end_row, col:end_col] = block
            readable[row:end_row, col:end_col] = ok
    return Overview(rgb, readable, (width / out_w, height / out_h))


def _read_block(slide: Slide, level: int, x: int, y: int, w: int, h: int) -> tuple[Pixels, npt.NDArray[np.bool_]]:
    """A block of a level at (x, y), px of the level, and which of its pixels were decoded."""
    down = slide.level_downsamples[level]
    try:
        block = slide.read_region((round(x * down), round(y * down)), (w, h), level)
        return block, np.ones((h, w), np.bool_)
    except TileReadError:
        block = np.full((h, w, 3), UNREADABLE, np.uint8)
        ok = np.zeros((h, w), np.bool_)
        if max(w, h) > SMALLEST_BLOCK_PX:
            mid_w, mid_h = math.ceil(w / 2), math.ceil(h / 2)
            for dx, part_w in ((0, mid_w), (mid_w, w - mid_w)):
                for dy, part_h in ((0, mid_h), (mid_h, h - mid_h)):
                    if part_w and part_h:
                        part = _read_block(slide, level, x + dx, y + dy, part_w, part_h)
                        where = (slice(dy, dy + part_h), slice(dx, dx + part_w))
                        block[where], ok[where] = part
        return block, ok
