"""Whether two readers show the same pixels: a few regions of every level, compared when a file is opened."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from wsikit.errors import TileReadError
from wsikit.slides.base import Reader
from wsikit.slides.tiff_levels import TiffLevel

REGIONS = 3
"""Regions compared at level 0; each further level has one."""

_BETWEEN_PX = 1 / 512
"""A level-0 position this near to a pixel of a level is read by OpenSlide without interpolation."""


def check_agreement(reader: Reader, model: Reader, levels: Sequence[TiffLevel], name: str) -> None:
    """Compare a reader with a trusted one.

    The regions lie across the corners of cells, so that a cell in a wrong place is seen too, and
    where the file has most bytes: glass would agree in any colour space.

    Args:
        reader: The one to be checked.
        model: The one that is right.
        levels: Where the cells of each level are.
        name: Of the model, for the message.

    Raises:
        ValueError: Pixels differ, or no region of level 0, or of a level coded otherwise, can be read by both.
    """
    for number, level in enumerate(levels):
        compared, reason = 0, "nothing in it was scanned"
        for xy, size in _regions(level, model.level_sizes[0], model.level_downsamples[number]):
            try:
                theirs, ours = model.read(xy, size, number), reader.read(xy, size, number)
            except TileReadError as error:  # a damaged tile says nothing about the others
                reason = str(error)
                continue
            if not np.array_equal(ours, theirs):
                worst = int(np.abs(ours.astype(np.int16) - theirs).max())
                raise ValueError(f"level {number}, {size} px at {xy}: up to {worst} grey levels from what {name} shows")
            compared += 1
            if compared == (REGIONS if number == 0 else 1):
                break
        # A small lower level that is damaged throughout must not hand the whole slide to a reader that sees less of
        # the damage: coded as level 0 is, which agrees, it is read the same way.
        if not compared and level.counts.any() and (number == 0 or level.codec != levels[0].codec):
            raise ValueError(f"level {number}: no region could be compared with {name}: {reason}")


def _regions(
    level: TiffLevel, size_level0: tuple[int, int], down: float
) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Origins (level-0 px) and sizes (px of the level), the heaviest cells first, each region on up to four cells."""
    size = (min(level.cell_px[0], level.size[0]), min(level.cell_px[1], level.size[1]))
    good = [_exact_origins(level.size[i] - size[i], size_level0[i], down) for i in (0, 1)]
    by_weight = np.argsort(-level.counts, kind="stable")[:: max(1, len(level.counts) // 64)]
    for cell in by_weight.tolist():
        middle = (np.array(divmod(cell, level.grid[0])[::-1]) + 0.5) * level.cell_px * down
        x, y = (int(g[np.abs(g - m).argmin()]) for g, m in zip(good, middle, strict=True))
        yield (x, y), size


def _exact_origins(room: int, extent: int, down: float) -> npt.NDArray[np.int64]:
    """Level-0 positions on pixels of the level, with ``room`` px of the level to begin in."""
    positions = np.arange(extent)
    at = positions / down
    return positions[(np.abs(at - np.rint(at)) < _BETWEEN_PX) & (np.rint(at) <= room)]
