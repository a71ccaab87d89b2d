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

    quarter = _reduced(tile, 4)
    red, green, blue = cv2.split(quarter)
    largest, smallest = cv2.max(cv2.max(red, green), blue), cv2.min(cv2.min(red, green), blue)
    chroma = cv2.subtract(largest, smallest).astype(np.float32)
    return (
        _focus(np.asarray(cv2.cvtColor(tile, cv2.COLOR_RGB2GRAY), np.uint8)),
        float(_ink(quarter).mean()),
        _densest(_reduced(quarter, 2)),
        float(quarter.mean()) / 255,
        float((chroma / np.maximum(largest, 1)).mean()),
    )


def _focus(grey: npt.NDArray[np.uint8]) -> float:
    """Ratio of the Laplacian's standard deviation at full and at quarter size.

    Sensor noise and the grain of JPEG live at the finest scale alone, so that is smoothed first.
    """
    import cv2

    fine = cv2.Laplacian(cv2.GaussianBlur(grey, (3, 3), 0), cv2.CV_16S)
    coarse = cv2.Laplacian(_reduced(grey, 4), cv2.CV_16S)
    spread = [float(cv2.meanStdDev(plane)[1][0, 0]) for plane in (fine, coarse)]
    return spread[0] / float(np.sqrt(spread[1] ** 2 + 16))  # 4 grey levels: next to nothing is no detail


def _densest(spots: Pixels) -> float:
    """Density of the third densest spot in its brightest, that is least dense, channel."""
    brightest = spots.max(2).ravel()
    return float(_DENSITY[np.sort(brightest)[min(FOLD_SPOTS, brightest.size) - 1]])


def _ink(rgb: Pixels) -> Mask:
    """Where ink is, in a tile of quarter size."""
    import cv2

    red, green, blue = (_DENSITY[plane] for plane in cv2.split(rgb))
    dense = np.maximum(np.maximum(red, green), blue) >= INK_DENSITY
    ink = np.zeros(dense.shape, np.bool_)
    if not dense.any():
        return ink
    rough = np.zeros(dense.shape, np.float32)
    for plane in cv2.split(rgb.astype(np.float32)):
        mean = cv2.blur(plane, (5, 5))
        np.maximum(rough, cv2.blur(plane * plane, (5, 5)) - mean * mean, out=rough)
    for name, hue in pen_hues(red, green, blue).items():
        ink |= hue & dense & (rough <= INK_ROUGHNESS[name] ** 2)
    return ink


def _reduced(image: Pixels, factor: int) -> Pixels:
    """Area-averaged by a whole factor along both axes."""
    import cv2

    size = (max(1, image.shape[1] // factor), max(1, image.shape[0] // factor))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
