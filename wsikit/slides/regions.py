"""Shapes of regions in a mask, with sizes in micrometres and square millimetres, not in pixels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]


def disc(radius_um: float, mpp: float) -> npt.NDArray[np.uint8]:
    """A round structuring element, (2 r + 1, 2 r + 1) uint8; at least 3 x 3."""
    import cv2

    radius_px = max(1, round(radius_um / mpp))
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius_px + 1, 2 * radius_px + 1)), np.uint8)


def closed(mask: Mask, radius_um: float, mpp: float) -> Mask:
    """With gaps narrower than two radii bridged. What lies beyond the image's edge bridges nothing."""
    return _morph("MORPH_CLOSE", mask, radius_um, mpp)


def opened(mask: Mask, radius_um: float, mpp: float) -> Mask:
    """Without parts narrower than two radii; an image's edge does not count as the end of a part."""
    return _morph("MORPH_OPEN", mask, radius_um, mpp)


def grown(mask: Mask, radius_um: float, mpp: float) -> Mask:
    """Grown by a radius."""
    import cv2

    return np.asarray(cv2.dilate(mask.astype(np.uint8), disc(radius_um, mpp)), np.bool_)


def without_specks(mask: Mask, smallest_mm2: float, mpp: float) -> Mask:
    """Without connected parts (8 neighbours) smaller than an area."""
    import cv2

    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    keep = stats[:, cv2.CC_STAT_AREA] * mpp**2 >= smallest_mm2 * 1e6
    keep[0] = False
    return np.asarray(keep[labels], np.bool_)


def without_holes(mask: Mask, largest_mm2: float, mpp: float) -> Mask:
    """With holes (4 neighbours) up to an area filled. What touches the image's edge is no hole."""
    import cv2

    count, labels, stats, _ = cv2.connectedComponentsWithStats((~mask).astype(np.uint8), connectivity=4)
    fill = stats[:, cv2.CC_STAT_AREA] * mpp**2 <= largest_mm2 * 1e6
    fill[0] = True
    for side in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        fill[np.unique(side[side > 0])] = False
    return np.asarray(fill[labels] if count > 1 else mask, np.bool_)


def reaching(mask: Mask, seeds: Mask) -> Mask:
    """The connected parts (8 neighbours) of ``mask`` that hold at least one pixel of ``seeds``."""
    import cv2

    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    keep = np.zeros(count, np.bool_)
    keep[np.unique(labels[seeds & mask])] = True
    keep[0] = False
    return np.asarray(keep[labels], np.bool_)


def _morph(kind: str, mask: Mask, radius_um: float, mpp: float) -> Mask:
    import cv2

    return np.asarray(cv2.morphologyEx(mask.astype(np.uint8), getattr(cv2, kind), disc(radius_um, mpp)), np.bool_)
