"""The three channels that a segmentation network is shown."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.slides.base import Pixels
from wsikit.slides.glass import Glass

HAEMATOXYLIN, EOSIN = (0.5626, 0.7201, 0.4062), (0.2159, 0.8012, 0.5581)
"""Optical density of (red, green, blue) per unit of stain."""

LEAST_RANGE = (0.3, 0.3, 0.15)
"""What full scale stands for on a slide with hardly any stain: eosin, haematoxylin, density (decadic)."""


def make_planes(kind: str, rgb: Pixels, glass: Glass, dense: npt.NDArray[np.bool_]) -> Pixels:
    """What a network sees of an overview.

    Args:
        kind: "rgb", or "eho": eosin, haematoxylin and mean optical density, from 0 on glass to 255 at
            the 98th percentile of what is stained. Glass is the local glass, so that a tinted slide
            begins at 0 too.
        rgb: (h, w, 3) uint8.
        glass: Its glass.
        dense: (h, w) bool, where there is anything at all on the glass.

    Returns:
        (h, w, 3) uint8.

    Reference:
        Eosin-haematoxylin-density planes: SHELL (laviolette-lab), which estimates the stain vectors on
        each slide (Macenko et al., ISBI 2009); here they are Macenko's reference vectors.
    """
    if kind == "rgb":
        return rgb
    unmix = np.linalg.pinv(np.array([EOSIN, HAEMATOXYLIN]))  # (3, 2): density -> concentrations
    weights = np.concatenate([unmix.T, np.full((1, 3), 1 / 3)])  # (3 planes, 3 channels)
    planes = np.zeros((3, *rgb.shape[:2]), np.float32)
    for channel in range(3):
        density: npt.NDArray[Any] = glass.density(rgb, channel) / np.float32(np.log(10))  # (h, w)
        for plane, weight in zip(planes, weights[:, channel], strict=True):
            plane += np.float32(weight) * density
    out = np.empty(rgb.shape, np.uint8)
    for k, plane in enumerate(planes):
        top = max(float(np.percentile(plane[dense], 98)), LEAST_RANGE[k]) if dense.any() else LEAST_RANGE[k]
        out[..., k] = np.clip(plane * (255 / top), 0, 255).astype(np.uint8)
    return out
