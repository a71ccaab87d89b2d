"""Run a segmentation network over a picture in overlapping tiles and blend what it says."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from wsikit.errors import ConfigError
from wsikit.slides.base import Pixels
from wsikit.slides.networks.files import Forward
from wsikit.slides.networks.recipes import Recipe

Plane = npt.NDArray[np.float32]


def tissue_probability(planes: Pixels, look: npt.NDArray[np.bool_], forward: Forward, recipe: Recipe) -> Plane:
    """Probability of tissue by a network.

    Args:
        planes: (h, w, 3) uint8, what the network is shown.
        look: (h, w) bool. Tiles without a single True are not run, and their probability is 0.
        forward: The network.
        recipe: How it is fed and read.

    Returns:
        (h, w) float32, 0 to 1; where tiles overlap by an eighth they are blended linearly.
    """
    height, width = planes.shape[:2]
    tile, overlap = recipe.tile_px, recipe.tile_px // 8
    ramp = np.minimum(1, np.minimum(np.arange(tile) + 0.5, tile - np.arange(tile) - 0.5) / overlap)
    window = np.outer(ramp, ramp).astype(np.float32)  # (tile, tile)
    total, weight = np.zeros((height, width), np.float32), np.zeros((height, width), np.float32)
    for y in tile_starts(height, tile, overlap):
        for x in tile_starts(width, tile, overlap):
            where = (slice(y, min(y + tile, height)), slice(x, min(x + tile, width)))
            rows, cols = look[where].shape
            weight[where] += window[:rows, :cols]
            if look[where].any():
                total[where] += (window * _on_tile(planes[where], forward, recipe))[:rows, :cols]
    return total / weight


def tile_starts(length: int, tile: int, overlap: int) -> list[int]:
    """First px of tiles that cover ``length`` evenly, each overlapping the next by at least ``overlap``.

    Example:
        >>> tile_starts(1000, 512, 64)
        [0, 244, 488]
    """
    if length <= tile:
        return [0]
    steps = math.ceil((length - tile) / (tile - overlap))
    return [round(i * (length - tile) / steps) for i in range(steps + 1)]


def _on_tile(planes: Pixels, forward: Forward, recipe: Recipe) -> Plane:
    """(tile, tile) float32 probability; what a picture lacks to a whole tile is mirrored."""
    import cv2

    tile = recipe.tile_px
    rows, cols = planes.shape[:2]
    planes = np.asarray(cv2.copyMakeBorder(planes, 0, tile - rows, 0, tile - cols, cv2.BORDER_REFLECT), np.uint8)
    x = (planes.astype(np.float32) / 255 - np.array(recipe.mean, np.float32)) / np.array(recipe.std, np.float32)
    logits = forward(np.ascontiguousarray(x.transpose(2, 0, 1)))  # (classes, tile, tile)
    if logits.ndim != 3 or logits.shape[1] < tile or logits.shape[2] < tile:
        raise ConfigError(
            f"segmentation network: output of shape {logits.shape} for a tile of {tile} px; "
            f"expected (classes, {tile}, {tile}): logits of the input's size"
        )
    return class_probability(logits[:, :tile, :tile], recipe.tissue_classes)


def class_probability(logits: npt.NDArray[np.float32], classes: Sequence[int]) -> Plane:
    """Probability (h, w) of some classes together.

    Args:
        logits: (classes, h, w): a softmax is taken, or the logistic function where there is one class only.
        classes: Indices; empty: all but 0, or the only one.
    """
    count = len(logits)
    if classes and (max(classes) >= count and not (count == 1 and tuple(classes) == (1,))):
        raise ConfigError(f"segmentation network: tissue_classes={tuple(classes)}, but it has {count} output channels")
    if count == 1:
        inside: Plane = (1 / (1 + np.exp(-np.clip(logits[0], -60, 60)))).astype(np.float32)
        return 1 - inside if tuple(classes) == (0,) else inside
    shares = np.exp(logits - logits.max(axis=0))
    chosen = list(classes) or list(range(1, count))
    return np.asarray(shares[chosen].sum(axis=0) / shares.sum(axis=0), np.float32)
