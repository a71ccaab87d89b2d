"""Which pyramid level to read for a resolution, and how its pixels become a tile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wsikit.errors import UpsamplingError
from wsikit.geometry import MPP_TOLERANCE, Mpp

MAX_UPSAMPLING = 0.05
"""A slide coarser than the target by more than this fraction is refused."""


@dataclass(frozen=True)
class LevelChoice:
    """A level and what is done with its pixels.

    Attributes:
        level: Index into the pyramid.
        downsample: Level-0 px per px of that level.
        read_px: (width, height) to read for one tile, px of that level.
        achieved_mpp: Micrometres per pixel of the finished tile.
        resampler: "none" (pixels as scanned), "area" (to coarser), "dct" (to coarser, first by 1/2, 1/4 or 1/8
            in the JPEG decoder) or "cubic" (up to 5 % finer).
    """

    level: int
    downsample: float
    read_px: tuple[int, int]
    achieved_mpp: Mpp
    resampler: str


def choose_level(
    mpp: Mpp, level_downsamples: Sequence[float], *, target_mpp: float, tile_px: int, name: str = ""
) -> LevelChoice:
    """The level for tiles of ``tile_px`` at ``target_mpp``.

    A level within 1 % of the target is read as it is. Otherwise the coarsest level that is finer
    than the target is read and area-averaged; a level 0 up to 5 % too coarse is interpolated.

    Raises:
        UpsamplingError: Level 0 is coarser than the target by more than 5 %.
    """
    for level, down in enumerate(level_downsamples):
        here = mpp.scaled(down)
        if all(abs(m / target_mpp - 1) <= MPP_TOLERANCE for m in here):
            return LevelChoice(level, down, (tile_px, tile_px), here, "none")
    if max(mpp) / target_mpp > 1 + MAX_UPSAMPLING:
        raise UpsamplingError(
            f"slide {name}: scanned at {mpp} um per pixel, coarser than the requested {target_mpp:g}; "
            f"enlarging by more than 5 % would invent detail; ask for --target-mpp {max(mpp):.4g} or coarser"
        )
    finer = [i for i, down in enumerate(level_downsamples) if max(mpp.scaled(down)) <= target_mpp]
    level = max(finer, key=lambda i: level_downsamples[i], default=0)
    down = level_downsamples[level]
    here = mpp.scaled(down)
    read_px = (max(1, round(tile_px * target_mpp / here.x)), max(1, round(tile_px * target_mpp / here.y)))
    achieved = Mpp(here.x * read_px[0] / tile_px, here.y * read_px[1] / tile_px)
    return LevelChoice(level, down, read_px, achieved, "area" if finer else "cubic")


def shrink_of(choice: LevelChoice, tile_px: int) -> int:
    """By how much the JPEG decoder scales for a choice: 1, or 2, 4, 8 where the resampler is "dct".

    The region that is then left to average is never smaller than the tile.
    """
    if choice.resampler != "dct":
        return 1
    return max(shrink for shrink in (1, 2, 4, 8) if shrink == 1 or min(choice.read_px) / tile_px >= shrink * 0.999)
