"""Texture without weights: the embedded encoder for tests, first looks and machines without a hub.

A tile is separated into haematoxylin and eosin (Ruifrok and Johnston 2001), each taken down a binomial
pyramid (Burt and Adelson 1983). Four kinds of counts describe it:

* rotation-invariant uniform local binary patterns of both stains on four octaves (Ojala et al. 2002);
* how dense or pale a spot each pixel is the middle of (the Laplacian, in seven bins), counted apart on
  lumen, stroma and nuclei, so chromatin is not averaged with collagen;
* moments of the same Laplacian on five octaves: energy, skewness and tail of each band, as in the
  statistics of natural textures (Portilla and Simoncelli 2000);
* the joint histogram of the two stains, per pixel and at a quarter of the resolution.

Counts enter as square roots of frequencies, so a linear model compares them by Hellinger distance
(Arandjelovic and Zisserman 2012). All but the last few operations are on whole numbers: a tile has the
same feature on every machine, device and thread count.

Edges of bins were chosen by hand on the design half of the shared patches; nothing is fitted
(``benchmarks/texture_encoder.py`` has the split and the results).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from wsikit.encoders import texture_counts as tc
from wsikit.encoders.card import EncoderCard, Features, check_tiles
from wsikit.encoders.registry import register_encoder
from wsikit.encoders.stain_planes import STAIN_VECTORS, UNIT

if TYPE_CHECKING:
    import torch

UNIFORM = 10
"""Classes of a local binary pattern: 0 to 8 neighbours above in one arc, and all the rest."""

SPOTS = (len(tc.GATE_EDGES) + 1) * (len(tc.SPOT_EDGES) + 1)
JOINTS = tc.JOINT_BINS**2
MOMENTS = ("energy", "skewness", "tail")

MIN_TILE_PX = 16

_ROWS = 64
"""Tiles whose counts (33 kB each) are held at once."""

CARD = EncoderCard(
    name="texture",
    dim=tc.PATTERN_LEVELS * tc.PLANES * (UNIFORM + SPOTS)
    + tc.LEVELS * tc.PLANES * len(MOMENTS)
    + len(tc.JOINT_LEVELS) * JOINTS,
    tile_px=None,
    mpp=None,
    mean=None,
    std=None,
    licence="as wsikit",
    source="wsikit",
    citation="Ruifrok 2001; Ojala 2002, doi:10.1109/TPAMI.2002.1017623; Portilla 2000, doi:10.1023/A:1026553619983",
    summary="stain-separated local patterns on five octaves; no weights, no download",
    devices=("cpu", "cuda"),
    pretraining=(),
)


def feature_names() -> list[str]:
    """What each of the D columns is: ``haematoxylin 1/2 pattern 3``, ``eosin 1/4 spot 10``, ..."""
    names = []
    stains = ("haematoxylin", "eosin")
    for kind, size in (("pattern", UNIFORM), ("spot", SPOTS)):
        for level in range(tc.PATTERN_LEVELS):
            names += [f"{stain} 1/{2**level} {kind} {i}" for stain in stains for i in range(size)]
    for level in range(tc.LEVELS):
        names += [f"{stain} 1/{2**level} {moment}" for stain in stains for moment in MOMENTS]
    for level in tc.JOINT_LEVELS:
        names += [f"joint 1/{2**level} {i // tc.JOINT_BINS} {i % tc.JOINT_BINS}" for i in range(JOINTS)]
    return names


@register_encoder(CARD)
def texture(*, device: str = "cpu") -> TextureEncoder:
    """The texture encoder; ``device`` is where patterns are counted, and changes no bit of the result."""
    return TextureEncoder(device)


class TextureEncoder:
    """Local patterns of separated stains as a vector.

    Args:
        device: ``cpu`` counts with NumPy and OpenCV in one thread; a CUDA device with torch.
    """

    card = CARD
    identity: Mapping[str, Any] = {
        "algorithm": "texture",
        "version": 1,
        "stain_vectors": [list(vector) for vector in STAIN_VECTORS],
        "stain_unit": UNIT,
        "levels": tc.LEVELS,
        "pattern_levels": tc.PATTERN_LEVELS,
        "joint_levels": list(tc.JOINT_LEVELS),
        "gate_edges": list(tc.GATE_EDGES),
        "spot_edges": list(tc.SPOT_EDGES),
        "joint_bins": [tc.JOINT_STEP, tc.JOINT_BINS],
    }

    def __init__(self, device: str = "cpu") -> None:
        self._device: torch.device | None = None
        if device != "cpu":
            from wsikit.encoders.network import usable_device

            self._device = usable_device(CARD.name, device)

    def encode(self, pixels: npt.NDArray[np.uint8]) -> Features:
        """(N, H, W, 3) uint8 RGB, sides of 16 px and more -> (N, 350) float32; see ``feature_names``."""
        check_tiles(CARD.name, pixels, min_px=MIN_TILE_PX)
        features = np.empty((len(pixels), CARD.dim), np.float32)
        if self._device is None:
            for start in range(0, len(pixels), _ROWS):
                rows = slice(start, start + _ROWS)
                features[rows] = features_of_counts(tc.count_patterns(pixels[rows]))
        else:
            from wsikit.encoders.texture_counts_torch import count_patterns_torch

            features[...] = features_of_counts(count_patterns_torch(pixels, self._device))
        return features


def features_of_counts(counts: tc.Counts) -> npt.NDArray[np.float64]:
    """Counts (N, HISTOGRAMS, 256) -> features (N, D)."""
    n = len(counts)
    by_plane = counts[:, : -len(tc.JOINT_LEVELS)].reshape(n, tc.LEVELS, tc.PLANES, tc.KINDS, 256)
    patterns = by_plane[:, : tc.PATTERN_LEVELS, :, tc.PATTERN] @ uniform_classes()  # (N, 4, 2, 10)
    spots = by_plane[:, : tc.PATTERN_LEVELS, :, tc.SPOT_BY_STAIN, :SPOTS]  # (N, 4, 2, 21)
    joint = counts[:, -len(tc.JOINT_LEVELS) :, :JOINTS]  # (N, 2, 36)
    parts = [
        _root_frequencies(patterns),
        _root_frequencies(spots),
        _moments(by_plane[:, :, :, tc.SPOT]),  # (N, 5, 2, 3)
        _root_frequencies(joint),
    ]
    return np.concatenate([part.reshape(n, int(np.prod(part.shape[1:]))) for part in parts], axis=1)


@cache
def uniform_classes() -> npt.NDArray[np.float64]:
    """One-hot (256, 10): local binary pattern -> its rotation-invariant uniform class.

    Ojala T, Pietikainen M, Maenpaa T. Multiresolution gray-scale and rotation invariant texture
    classification with local binary patterns. IEEE TPAMI 2002;24:971-987, eq. 9: patterns with at
    most two changes round the circle by their number of ones, all others together.
    """
    patterns = np.arange(256)
    changes = patterns ^ ((patterns << 1 | patterns >> 7) & 255)
    classes = np.where(np.bitwise_count(changes) <= 2, np.bitwise_count(patterns), UNIFORM - 1)
    return np.eye(UNIFORM)[classes]


def _root_frequencies(counts: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Square roots of the shares along the last axis; zeros where nothing was counted."""
    root: npt.NDArray[np.float64] = np.sqrt(counts / np.maximum(counts.sum(axis=-1, keepdims=True), 1))
    return root


def _moments(counts: npt.NDArray[np.uint32]) -> npt.NDArray[np.float64]:
    """Histograms of the Laplacian (..., 256) -> log energy, skewness and log tail weight (..., 3).

    One squared grey level is added to every variance: below that a band is noise of the scanner and
    of JPEG, and on a flat tile all three are 0.
    """
    exact = counts.astype(np.float64)  # sums of whole numbers below 2**53: exact in any order
    total = np.maximum(exact.sum(axis=-1), 1)
    values = np.arange(256.0) - 128
    second, third, fourth = (exact @ values**power / total for power in (2, 3, 4))
    return np.stack(
        [np.log1p(second) / 2, third / (second + 1) ** 1.5, np.log((fourth + 1) / (second + 1) ** 2)], axis=-1
    )
