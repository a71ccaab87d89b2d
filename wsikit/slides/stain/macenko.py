"""Macenko: the two stains are the extreme directions of the plane that the densities lie in.

Reference:
    Macenko M, Niethammer M, Marron JS et al. A method for normalizing histology slides for
    quantitative analysis. ISBI 2009. Checked against ``torchstain`` 1.4.1 (tests/golden/stain).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from wsikit.slides.base import Pixels
from wsikit.slides.stain_norm import LEAST_DENSITY, LEAST_PIXELS, LIGHT, Densities, density, register_stain

if TYPE_CHECKING:
    import torch

TARGET_STAINS = ((0.5626, 0.7201, 0.4062), (0.2159, 0.8012, 0.5581))
"""Density of R, G, B of haematoxylin and of eosin: the reference image of the authors' code."""

TARGET_STRENGTH = (1.9705, 1.0308)
"""99th percentile of haematoxylin and eosin there."""

MOST_GAIN = 3.0
"""A stain is made at most so many times stronger or weaker: a slide with next to no eosin gets no invented one."""


@register_stain("macenko", summary="stain directions from the plane of densities", reference="Macenko 2009, ISBI")
class Macenko:
    """Stains from the singular vectors of the densities, concentrations by least squares."""

    def fit(self, rgb: Pixels) -> dict[str, Any]:
        """Stain vectors (2, 3), haematoxylin first, and the strength (2,) of each; {} where there is one stain only."""
        dyes = density(rgb)
        coloured = dyes[(dyes >= LEAST_DENSITY).all(axis=1)]
        if len(coloured) < LEAST_PIXELS:
            return {}
        centred = coloured - coloured.mean(axis=0)
        covariance = np.einsum("pi,pj->ij", centred, centred) / (len(centred) - 1)  # einsum: no threads, fixed order
        values, vectors = np.linalg.eigh(covariance)
        if not values[1] > 1e-6:
            return {}
        plane = vectors[:, 1:] * np.where(vectors[:, 1:].sum(axis=0) < 0, -1, 1)  # (3, 2), pointing to more dye
        along = np.einsum("pi,ik->pk", coloured, plane)
        angles = np.arctan2(along[:, 1], along[:, 0])
        ends = np.percentile(angles, [1, 99], method="nearest")
        stains = np.einsum("ik,ek->ei", plane, np.stack([np.cos(ends), np.sin(ends)], axis=1))  # (2, 3)
        stains = stains[np.argsort(-stains[:, 0])]  # haematoxylin takes more of the red
        if not (stains.max(axis=1) > 0).all() or np.linalg.norm(np.cross(*stains)) < 0.05:
            return {}
        return {"stains": stains, "strength": strength(np.einsum("ps,si->pi", dyes, np.linalg.pinv(stains)))}

    def map(self, rgb: torch.Tensor, parameters: Mapping[str, Any]) -> torch.Tensor:
        """Densities through one 3 x 3 matrix: unmix, scale each stain, mix with the target's vectors."""
        import torch

        unmix = np.linalg.pinv(np.array(parameters["stains"]))  # (3, 2)
        matrix = (unmix * gains(parameters["strength"])) @ np.array(TARGET_STAINS)  # (3, 3): density -> density
        dyes = -torch.log((rgb + 1) / LIGHT)
        red, green, blue = dyes.unbind(-1)
        columns = [red * float(m[0]) + green * float(m[1]) + blue * float(m[2]) for m in matrix.T]
        return LIGHT * torch.exp(-torch.stack(columns, -1))


def strength(amounts: Densities) -> npt.NDArray[np.float64]:
    """99th percentile of each stain's amount (P, 2) -> (2,)."""
    return np.asarray(np.percentile(amounts, 99, axis=0, method="nearest"))


def gains(strengths: Any) -> npt.NDArray[np.float64]:
    """What brings strengths (2,) to the target's, within ``MOST_GAIN``."""
    ratio = np.array(TARGET_STRENGTH) / np.maximum(np.asarray(strengths, np.float64), 1e-6)
    return np.asarray(ratio.clip(1 / MOST_GAIN, MOST_GAIN))
