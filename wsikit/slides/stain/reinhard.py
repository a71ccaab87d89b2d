"""Reinhard: mean and spread of lightness and of both colour axes become those of the target.

Reference:
    Reinhard E, Ashikhmin M, Gooch B, Shirley P. Color transfer between images. IEEE CG&A 2001;21:34-41; in
    CIE Lab (D65) as is usual in pathology. Checked against ``torchstain`` 1.4.1 (tests/golden/stain).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from wsikit.slides.base import Pixels
from wsikit.slides.stain_norm import register_stain

if TYPE_CHECKING:
    import torch

TARGET_MEAN, TARGET_SPREAD = (47.1, 29.1, -12.7), (19.3, 12.0, 9.9)
"""L, a, b of the tissue of OpenSlide's CMU-1-Small-Region.svs (CC0), all tiles of 256 px with half their area on it."""

MOST_GAIN = 3.0
"""A spread is made at most so many times wider or narrower."""

_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
_WHITE = (0.95047, 1.0, 1.08883)


@register_stain("reinhard", summary="mean and spread of Lab", reference="Reinhard 2001, 10.1109/38.946629")
class Reinhard:
    """Statistics of the tissue in Lab, matched channel by channel."""

    def fit(self, rgb: Pixels) -> dict[str, Any]:
        """Mean (3,) and spread (3,) of L, a, b."""
        import torch

        lab = to_lab(torch.from_numpy(rgb).double()).numpy()
        return {"mean": lab.mean(axis=0), "spread": lab.std(axis=0, ddof=1)}

    def map(self, rgb: torch.Tensor, parameters: Mapping[str, Any]) -> torch.Tensor:
        """Lab, shifted and stretched, and back."""
        import torch

        spread = np.maximum(parameters["spread"], 1e-6)
        gain = (np.array(TARGET_SPREAD) / spread).clip(1 / MOST_GAIN, MOST_GAIN)
        shift = np.array(TARGET_MEAN) - gain * np.array(parameters["mean"])
        new = to_lab(rgb) * torch.tensor(gain).to(rgb) + torch.tensor(shift).to(rgb)
        return from_lab(new)


def to_lab(rgb: torch.Tensor) -> torch.Tensor:
    """SRGB levels (..., 3), 0 to 255, as CIE L, a, b (D65)."""
    import torch

    level = rgb / 255
    linear = torch.where(level > 0.04045, ((level + 0.055) / 1.055) ** 2.4, level / 12.92)
    xyz = _through(linear, np.array(_XYZ) / np.array(_WHITE)[:, None])
    root = torch.where(xyz > 0.008856, xyz.clamp(min=1e-9) ** (1 / 3), 7.787 * xyz + 16 / 116)
    x, y, z = root.unbind(-1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def from_lab(lab: torch.Tensor) -> torch.Tensor:
    """The inverse of :func:`to_lab`; colours outside of sRGB leave the range of 0 to 255."""
    import torch

    lightness, a, b = lab.unbind(-1)
    y = (lightness + 16) / 116
    root = torch.stack([y + a / 500, y, y - b / 200], -1)
    xyz = torch.where(root > 0.2068966, root**3, (root - 16 / 116) / 7.787)
    linear = _through(xyz, np.linalg.inv(np.array(_XYZ)) * np.array(_WHITE)).clamp(min=0)
    return 255 * torch.where(linear > 0.0031308, 1.055 * linear.clamp(min=1e-9) ** (1 / 2.4) - 0.055, 12.92 * linear)


def _through(planes: torch.Tensor, matrix: Any) -> torch.Tensor:
    """(..., 3) through a 3 x 3 matrix, term by term: the same bits in every batch."""
    import torch

    first, second, third = planes.unbind(-1)
    return torch.stack([first * float(m[0]) + second * float(m[1]) + third * float(m[2]) for m in matrix], -1)
