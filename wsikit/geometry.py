"""Points, sizes and grids, in pixels and micrometres. (x, y) and (width, height) everywhere."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

MPP_TOLERANCE = 0.01
"""Two resolutions that differ by no more than this fraction are the same one."""


class Mpp(NamedTuple):
    """Micrometres per pixel along x and y."""

    x: float
    y: float

    @property
    def mean(self) -> float:
        """The geometric mean: a square of side ``mean`` has the area of one pixel."""
        return math.sqrt(self.x * self.y)

    def scaled(self, factor: float) -> Mpp:
        """The resolution of a level that is ``factor`` times coarser."""
        return Mpp(self.x * factor, self.y * factor)

    def __str__(self) -> str:
        return f"{self.x:.4g}" if self.x == self.y else f"{self.x:.4g} x {self.y:.4g}"


def unequal(mpp: Mpp) -> bool:
    """Whether x and y differ by more than 1 %."""
    return abs(mpp.x / mpp.y - 1) > MPP_TOLERANCE


def grid_origins(extent: float, tile: float, stride: float) -> tuple[npt.NDArray[np.int32], int]:
    """Origins of the tiles that fit along one axis, and how many more would stick out at the end.

    Origin i is ``round(i * stride)``, computed afresh for each i: a sum of rounded strides
    would drift by up to half a pixel per tile.

    Args:
        extent: Length of the axis, level-0 px.
        tile: Length of a tile, level-0 px (need not be whole).
        stride: Distance of origins, level-0 px (need not be whole).

    Returns:
        Origins (n,) int32 of whole tiles, and the number of partial tiles dropped at the edge.

    Example:
        >>> grid_origins(1000, 256, 256)
        (array([  0, 256, 512], dtype=int32), 1)
    """
    if tile <= 0 or stride <= 0:
        raise ValueError(f"tile and stride must be positive, got {tile} and {stride}")
    positions = max(math.ceil(extent / stride), 0)
    origins = np.rint(np.arange(positions) * stride).astype(np.int64)
    origins = origins[origins < extent]
    whole = origins + math.ceil(tile - 1e-6) <= extent
    return origins[whole].astype(np.int32), int((~whole).sum())
