"""Values of tiles drawn where the tiles lie: a score as a heatmap, features as colours."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.figures.overlay import Picture

Numbers = npt.NDArray[np.floating[Any]]


def draw_tile_map(
    rgb: Picture, tiles_xywh: Numbers, colours: npt.NDArray[np.uint8], *, opacity: float = 0.6
) -> Picture:
    """A thumbnail with each tile tinted in its colour.

    Args:
        rgb: The thumbnail, (h, w, 3) uint8.
        tiles_xywh: (N, 4): left, top, width, height of each tile, px of the thumbnail. Where tiles
            overlap, colours are averaged.
        colours: (N, 3) uint8.
        opacity: Of the tint, 0 to 1.
    """
    height, width = rgb.shape[:2]
    total, times = np.zeros((height, width, 3)), np.zeros((height, width, 1))
    corners = np.rint(np.concatenate([tiles_xywh[:, :2], tiles_xywh[:, :2] + tiles_xywh[:, 2:]], axis=1)).astype(int)
    for (x0, y0, x1, y1), colour in zip(np.maximum(corners, 0).tolist(), colours, strict=True):
        total[y0:y1, x0:x1] += colour
        times[y0:y1, x0:x1] += 1
    weight = np.where(times > 0, opacity, 0.0)
    mixed = rgb * (1 - weight) + total / np.maximum(times, 1) * weight
    return np.asarray(np.rint(mixed), np.uint8)


def score_colours(scores: Numbers, *, low: float = 0.0, high: float = 1.0, palette: str = "RdYlBu_r") -> Picture:
    """A colour for each score, (N,) -> (N, 3) uint8; blue is low, red is high."""
    import matplotlib

    span = np.clip((np.asarray(scores, np.float64) - low) / (high - low), 0, 1)
    return np.asarray(np.rint(matplotlib.colormaps[palette](span)[:, :3] * 255), np.uint8)


def feature_colours(x: Numbers) -> Picture:
    """A colour for each feature, (N, D) -> (N, 3) uint8: its first three principal components, by rank.

    Tiles that look alike to the encoder have like colours. Ranks spread the colours evenly, whatever
    the components' distributions.
    """
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    x = np.asarray(x, np.float64)
    few = min(3, *x.shape)
    components = PCA(few, random_state=0, svd_solver="full").fit_transform(StandardScaler().fit_transform(x))
    ranks = components.argsort(axis=0).argsort(axis=0) / max(len(x) - 1, 1)
    colours = np.full((len(x), 3), 0.5)
    colours[:, :few] = 0.1 + 0.85 * ranks
    return np.asarray(np.rint(colours * 255), np.uint8)
