"""What a tile looks like, as numbers: sharp or not, ink, folds, brightness, saturation.

They are kept as data beside the features; what is too blurred or too inky is decided when reading.
Every measure is of one tile alone, and of the tile as it was scanned.

Reference:
    Focus: the energy of the Laplacian, Pech-Pacheco JL et al., Diatom autofocusing in brightfield
    microscopy, ICPR 2000; the ratio of two scales, which stain and contrast leave alone, is ours.
    Folds: doubled tissue is dark whatever the channel; others subtract intensity from saturation
    (Palokangas S et al., Segmentation of folds in tissue section images, EMBC 2007).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from wsikit.errors import ConfigError
from wsikit.slides.base import Pixels
from wsikit.slides.glass import Mask
from wsikit.slides.ink import pen_hues
from wsikit.slides.resample import scratch

WHITE = 245.0
"""Level of bare glass: a tile alone does not show its slide's."""

INK_DENSITY = 0.25
"""Density (natural log) of ink in its darkest channel, at least."""

INK_ROUGHNESS = {"blue": 12.0, "red": 12.0, "green": 30.0, "black": 30.0}
"""Grey levels (standard deviation over 20 px) of ink, at most. Giemsa and blood have the hue of blue and
red ink but show cells; no common stain is green or grey."""

FOLD_SPOTS = 3
"""The density of a tile's third densest spot is its measure of folds: one or two may be dust."""

_DENSITY: npt.NDArray[np.float32] = (-np.log(np.maximum(np.arange(256), 1) / WHITE)).astype(np.float32)

QUALITY_NAMES = ("focus", "pen", "fold", "brightness", "saturation")
"""Columns of :func:`tile_quality`. A measure whose meaning changes gets another name: stores keep old ones."""


def tile_quality(tiles: Pixels) -> npt.NDArray[np.float32]:
    """Quality measures of tiles.

    Args:
        tiles: RGB (N, H, W, 3) uint8, at least 8 px a side.

    Returns:
        (N, 5) float32, columns as in :data:`QUALITY_NAMES`:

        - ``focus``: fine over coarse detail. Sharp tissue has about 0.17 to 0.35, tissue out of focus
          less than 0.14, whatever its stain; bare glass shows noise and has no meaningful value.
        - ``pen``: share of the tile that has the hue of a felt pen and is smoother than tissue.
        - ``fold``: how dense the densest spots of 8 px are in their brightest channel, natural log. Doubled
          tissue, black ink and pigment stand out among the tiles *of their slide*: what is usual follows
          the strength of the stain.
        - ``brightness``: mean over all pixels and channels, 0 to 1.
        - ``saturation``: mean of (largest - smallest channel) / largest, 0 to 1.

    Raises:
        ConfigError: Not RGB tiles, or tiles of less than 8 px.

    Example:
        >>> grey = np.full((1, 64, 64, 3), 51, np.uint8)
        >>> [round(float(value), 2) for value in tile_quality(grey)[0]]
        [0.0, 1.0, 1.57, 0.2, 0.0]
    """
    if tiles.ndim != 4 or tiles.shape[3] != 3 or tiles.dtype != np.uint8 or min(tiles.shape[1:3]) < 8:
        raise ConfigError(
            f"tiles of shape {tiles.shape} and dtype {tiles.dtype}; expected uint8 RGB (N, H, W, 3) of 8 px or more"
        )
    out = np.empty((len(tiles), len(QUALITY_NAMES)), np.float32)
    for row, tile in zip(out, tiles, strict=True):
        row[:] = _measures(tile)
    return out


def _measures(tile: Pixels) -> tuple[float, float, float, float, float]:
    import cv2

    quarter = _halved(_halved(tile))
    red, green, blue = cv2.split(quarter)
    largest, smallest = cv2.max(cv2.max(red, green), blue), cv2.min(cv2.min(red, green), blue)
    chroma = cv2.subtract(largest, smallest).astype(np.float32)
    grey = cv2.cvtColor(tile, cv2.COLOR_RGB2GRAY, dst=scratch("grey", tile.shape[:2], np.uint8))
    return (
        _focus(np.asarray(grey, np.uint8)),
        float(_ink(quarter).mean()),
        _densest(_halved(quarter)),
        sum(cv2.mean(quarter)[:3]) / (3 * 255),
        float((chroma / np.maximum(largest, 1)).mean()),
    )


def _focus(grey: npt.NDArray[np.uint8]) -> float:
    """Ratio of the Laplacian's standard deviation at full and at quarter size.

    Sensor noise and the grain of JPEG live at the finest scale alone, so that is smoothed first.
    """
    import cv2

    smooth = cv2.GaussianBlur(grey, (3, 3), 0, dst=scratch("smooth", grey.shape, np.uint8))
    spread = [_laplacian_spread(np.asarray(plane, np.uint8)) for plane in (smooth, _halved(_halved(grey)))]
    return spread[0] / float(np.sqrt(spread[1] ** 2 + 16))  # 4 grey levels: next to nothing is no detail


def _laplacian_spread(plane: npt.NDArray[np.uint8]) -> float:
    """Root mean square of the Laplacian: its mean is zero but for what the border does."""
    import cv2

    laplacian = cv2.Laplacian(plane, cv2.CV_16S, dst=scratch(f"laplacian {plane.shape}", plane.shape, np.int16))
    return float(np.sqrt(cv2.norm(laplacian, cv2.NORM_L2SQR) / plane.size))


def _densest(spots: Pixels) -> float:
    """Density of the third densest spot in its brightest, that is least dense, channel."""
    import cv2

    red, green, blue = cv2.split(spots)
    brightest = np.asarray(cv2.max(cv2.max(red, green), blue)).ravel()
    third = min(FOLD_SPOTS, brightest.size) - 1
    return float(_DENSITY[np.partition(brightest, third)[third]])


def _ink(rgb: Pixels) -> Mask:
    """Where ink is, in a tile of quarter size."""
    import cv2

    red, green, blue = (np.asarray(plane, np.float32) for plane in cv2.split(cv2.LUT(rgb, _DENSITY)))
    dense = np.maximum(np.maximum(red, green), blue) >= INK_DENSITY
    ink = np.zeros(dense.shape, np.bool_)
    hues = {name: hue & dense for name, hue in pen_hues(red, green, blue).items()} if dense.any() else {}
    if not any(hue.any() for hue in hues.values()):
        return ink
    rough = np.zeros(dense.shape, np.float32)
    for plane in cv2.split(rgb):
        mean = np.asarray(cv2.boxFilter(plane, cv2.CV_32F, (5, 5)))
        np.maximum(rough, cv2.sqrBoxFilter(plane, cv2.CV_32F, (5, 5)) - mean * mean, out=rough)
    for name, hue in hues.items():
        ink |= hue & (rough <= INK_ROUGHNESS[name] ** 2)
    return ink


def _halved(image: Pixels) -> Pixels:
    """Averaged by two along both axes: OpenCV has a fast kernel for two, and none for four."""
    import cv2

    size = (max(1, image.shape[1] // 2), max(1, image.shape[0] // 2))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
