"""Haematoxylin and eosin as 8-bit planes, in integer arithmetic.

Beer-Lambert: optical density is linear in the amount of stain, OD = -log10(I / 255), so two stains
separate by the pseudo-inverse of their 2 x 3 matrix of OD vectors. Each plane is a sum of three
look-ups in int16 tables, so it has the same bits on every machine, thread count and device.

Reference:
    Ruifrok AC, Johnston DA. Quantification of histochemical staining by color deconvolution.
    Anal Quant Cytol Histol 2001;23:291-299. The vectors are the H&E reference of Macenko M et al.,
    A method for normalizing histology slides for quantitative analysis, ISBI 2009.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

Plane = npt.NDArray[np.uint8]
"""(H, W) uint8."""

STAIN_VECTORS = ((0.5626, 0.7201, 0.4062), (0.2159, 0.8012, 0.5581))
"""OD of (red, green, blue) per unit of haematoxylin, of eosin."""

UNIT = 100
"""Grey levels per unit of stain concentration: 2.55 units reach the top of a plane."""

FRACTION_BITS = 5  # of the int16 tables; 2.55 units * 100 * 2**5 stays far below 2**15


@cache
def stain_tables() -> npt.NDArray[np.int16]:
    """(2, 3, 256) int16: what each level of each channel adds to haematoxylin and eosin, in 1/32 grey level."""
    intensity = np.maximum(np.arange(256), 1) / 255.0  # level 0 would be infinitely dense
    density = -np.log10(intensity)  # (256,)
    unmix = np.linalg.pinv(np.array(STAIN_VECTORS))  # (3, 2): OD -> concentrations
    tables: npt.NDArray[np.int16] = np.rint(unmix.T[:, :, None] * density * UNIT * 2**FRACTION_BITS).astype(np.int16)
    tables.setflags(write=False)
    return tables


def split_channels(tile: npt.NDArray[np.uint8]) -> tuple[Plane, Plane, Plane]:
    """RGB (H, W, 3) -> its three channels, each contiguous."""
    import cv2

    red, green, blue = (np.asarray(plane, np.uint8) for plane in cv2.split(np.ascontiguousarray(tile)))
    return red, green, blue


def stain_planes(
    red: Plane, green: Plane, blue: Plane, out: npt.NDArray[np.uint8] | None = None
) -> npt.NDArray[np.uint8]:
    """Haematoxylin and eosin of an image given as three planes, ``UNIT`` levels per unit of stain.

    Args:
        red: (H, W) uint8, as are the others.
        green: See ``red``.
        blue: See ``red``.
        out: Written to and returned, where a caller keeps the memory for it.

    Returns:
        (2, H, W) uint8.
    """
    import cv2

    if out is None:
        out = np.empty((2, *red.shape), np.uint8)
    term = np.empty(red.shape, np.int16)
    total = np.empty(red.shape, np.int16)
    for plane, tables in zip(out, stain_tables(), strict=True):
        cv2.LUT(red, tables[0], dst=total)
        for channel, table in ((green, tables[1]), (blue, tables[2])):
            cv2.LUT(channel, table, dst=term)
            total += term
        total >>= FRACTION_BITS
        np.clip(total, 0, 255, out=total)
        plane[...] = total
    return out
