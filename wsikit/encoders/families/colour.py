"""Colour statistics alone: the baseline that every table of results carries.

A result that an encoder does not beat these 49 numbers by is a result about staining.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.encoders.card import EncoderCard, Features, check_tiles
from wsikit.encoders.registry import register_encoder
from wsikit.encoders.stain_planes import STAIN_VECTORS, UNIT, split_channels, stain_planes

PLANES = ("red", "green", "blue", "chroma", "haematoxylin", "eosin", "red-blue")
QUANTILES_PERCENT = (5, 25, 50, 75, 95)
STATISTICS = ("mean", "std", *(f"q{q:02d}" for q in QUANTILES_PERCENT))

CARD = EncoderCard(
    name="colour",
    dim=len(PLANES) * len(STATISTICS),
    tile_px=None,
    mpp=None,
    mean=None,
    std=None,
    licence="as wsikit",
    source="wsikit",
    citation="stain vectors: Macenko et al. 2009, ISBI",
    summary="colour and stain statistics; the baseline to beat",
    pretraining=(),
)


def feature_names() -> list[str]:
    """What each of the D columns is: ``red mean``, ``red std``, ``red q05``, ..."""
    return [f"{plane} {statistic}" for plane in PLANES for statistic in STATISTICS]


@register_encoder(CARD)
def colour() -> ColourEncoder:
    """The colour baseline; it has no options."""
    return ColourEncoder()


class ColourEncoder:
    """Mean, standard deviation and quantiles of colour and stain planes, in units of full scale (0 to 1).

    Everything is read off integer histograms, so a row has the same bits at any thread count and
    in any batch. Chroma is max - min of (R, G, B); red-blue is half their difference about mid-grey.
    """

    card = CARD
    identity: Mapping[str, Any] = {
        "algorithm": "colour",
        "version": 1,
        "planes": list(PLANES),
        "statistics": list(STATISTICS),
        "stain_vectors": [list(vector) for vector in STAIN_VECTORS],
        "stain_unit": UNIT,
    }

    def encode(self, pixels: npt.NDArray[np.uint8]) -> Features:
        """(N, H, W, 3) uint8 RGB of any size -> (N, 49) float32; see ``feature_names``."""
        check_tiles(CARD.name, pixels)
        counts = np.empty((len(pixels), len(PLANES), 256))
        for row, tile in zip(counts, pixels, strict=True):
            _histograms(tile, row)
        return _statistics(counts).reshape(len(pixels), CARD.dim).astype(np.float32)


def _histograms(tile: npt.NDArray[np.uint8], counts: npt.NDArray[np.float64]) -> None:
    """Fill ``counts`` (7, 256) with the histograms of the planes of one tile (H, W, 3)."""
    import cv2

    red, green, blue = split_channels(tile)
    chroma = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    haematoxylin, eosin = stain_planes(red, green, blue)
    opponent = (red >> 1) + np.uint8(128) - (blue >> 1)  # 1 to 255
    for plane, image in enumerate((red, green, blue, chroma, haematoxylin, eosin, opponent)):
        counts[plane] = cv2.calcHist([image], [0], None, [256], [0, 256]).ravel()


def _statistics(counts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Histograms (N, P, 256) -> (N, P, 7): mean, std and quantiles over 255.

    Sums of whole numbers below 2**53 are exact in float64 in any order of summation.
    """
    levels = np.arange(256.0)
    total = counts.sum(axis=2)  # (N, P)
    first = (counts * levels).sum(axis=2)
    second = (counts * levels**2).sum(axis=2)
    mean = first / total
    std = np.sqrt(np.maximum(second * total - first**2, 0)) / total
    cumulative = 100 * counts.cumsum(axis=2)
    quantiles = [(cumulative >= q * total[..., None]).argmax(axis=2) for q in QUANTILES_PERCENT]
    return np.stack([mean, std, *quantiles], axis=2) / 255.0
