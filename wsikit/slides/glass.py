"""The colour of the bare glass at every place of a slide, so that density is counted from there.

Glass is never quite white: lamps yellow, mounting medium and stain tint it, and the tint drifts by
several percent across a slide and jumps at the rim of an air bubble. A density measured against one
white would take that drift for stain. So the glass is looked for: what is bright, nearly colourless,
and without structure over a good area; its colour is then spread under the tissue.

Reference:
    Optical density against the local incident light: Beer-Lambert, as used by Ruifrok AC, Johnston
    DA, Anal Quant Cytol Histol 2001;23:291-299. Filling by normalised convolution: Knutsson H,
    Westin C-F, CVPR 1993.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsikit.slides.base import Pixels

Plane = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

BLOCK_UM = 250.0
"""Side of the blocks that each get one glass colour."""

DIMMEST_GLASS = 150
"""Brightest channel of the dimmest glass that scanners show, of 255."""

DEEPEST_TINT = 0.28
"""Largest ln ratio of two channels that is still a tint of glass (yellowed mounts reach 0.17)."""

DENSEST_DRIFT = 0.13
"""Largest ln ratio, in any channel, of glass as the smooth course of the lamp has it to a block taken for glass."""

DEFAULT_GLASS = 245.0
"""Taken where a slide shows no glass at all, grey level."""

BLACK = 24
"""Brightest channel of what a scanner writes where it did not scan, at most."""


@dataclass(frozen=True)
class Glass:
    """What a slide looks like without tissue.

    Attributes:
        log_blocks: (rows, cols, 3) float32, ln of the glass's grey level in R, G, B, one value per block.
        found: Whether any glass was seen; else ``log_blocks`` is the default white.
        noise: Standard deviation of bare glass, grey levels; 0 where none was seen.
        padding: (h, w) bool, places that were never scanned: constant black or constant pure white.
    """

    log_blocks: Plane
    found: bool
    noise: float
    padding: Mask

    def log_level(self, channel: int) -> Plane:
        """(h, w) float32, ln of the glass's grey level in one channel, interpolated between blocks."""
        import cv2

        height, width = self.padding.shape
        blocks = np.ascontiguousarray(self.log_blocks[..., channel])
        return np.asarray(cv2.resize(blocks, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)

    def density(self, rgb: Pixels, channel: int) -> Plane:
        """(h, w) float32 optical density (natural log) of one channel against the local glass."""
        table = np.log(np.arange(256, dtype=np.float32) + 1)
        return self.log_level(channel) - table[rgb[..., channel]]


def find_glass(rgb: Pixels, mpp: float) -> Glass:
    """Estimate the glass of an overview.

    Args:
        rgb: (h, w, 3) uint8.
        mpp: Micrometres per pixel.

    Returns:
        The glass's colour everywhere, and what was never scanned.
    """
    height, width = rgb.shape[:2]
    padding = find_padding(rgb, mpp)
    deviation = local_deviation(rgb)
    flat = _largest_parts(_looks_like_glass(rgb, deviation) & ~padding, mpp)
    # Small images get smaller blocks: with at least a dozen a side a drift can still be followed.
    block_px = max(4, min(round(BLOCK_UM / mpp), min(height, width) // 12))
    shape = (max(1, round(height / block_px)), max(1, round(width / block_px)))
    colours, weights = _block_means(rgb, flat, shape)  # (rows, cols, 3), (rows, cols)
    if not weights.any():
        white = np.full((*shape, 3), np.log(DEFAULT_GLASS + 1), np.float32)
        return Glass(white, False, 0.0, padding)
    kept = _without_pale_tissue(colours, weights)
    return Glass(_spread(colours, kept), True, float(np.median(deviation[flat])), padding)


def largest_density(rgb: Pixels, glass: Glass, mpp: float) -> Plane:
    """(h, w) float32: density against the local glass in the darkest channel, ln units, smoothed over 10 um."""
    density = np.maximum(np.maximum(glass.density(rgb, 0), glass.density(rgb, 1)), glass.density(rgb, 2))
    density[glass.padding] = 0
    return blurred(density, max(10 / mpp, 0.7))


def blurred(plane: Plane, sigma_px: float) -> Plane:
    """A plane (h, w) smoothed by a Gaussian."""
    import cv2

    return np.asarray(cv2.GaussianBlur(plane, (0, 0), sigma_px), np.float32)


def find_padding(rgb: Pixels, mpp: float) -> Mask:
    """Where nothing was scanned: constant white 255, or black over more than 0.05 mm2.

    Dark pigment and folded tissue are black too, but in small patches and never without any light.
    """
    import cv2

    lowest, highest = rgb.min(axis=2), rgb.max(axis=2)
    window = np.ones((5, 5), np.uint8)
    white = cv2.dilate(cv2.erode((lowest == 255).astype(np.uint8), window), window) > 0
    black = (highest <= BLACK).astype(np.uint8)
    if not black.any():
        return np.asarray(white, np.bool_)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(black, connectivity=4)
    large = stats[:, cv2.CC_STAT_AREA] * mpp**2 >= 0.05e6
    large[0] = False
    return np.asarray(white | large[labels], np.bool_)


def _looks_like_glass(rgb: Pixels, deviation: Plane) -> Mask:
    """Bright, nearly colourless, and smooth in every channel; (h, w)."""
    lowest, highest = rgb.min(axis=2), rgb.max(axis=2)
    tint = np.log((highest.astype(np.float32) + 1) / (lowest.astype(np.float32) + 1))
    bright = (highest >= DIMMEST_GLASS) & (tint <= DEEPEST_TINT)
    if not bright.any():
        return np.zeros(rgb.shape[:2], np.bool_)
    # The noise of a scanner sets what "smooth" can mean, within reason.
    smooth = float(np.clip(3 * np.percentile(deviation[bright], 10), 2.0, 4.5))
    return np.asarray(bright & (deviation <= smooth), np.bool_)


def local_deviation(rgb: Pixels, window_px: int = 5) -> Plane:
    """(h, w) standard deviation in a square window, the largest of the three channels, grey levels."""
    import cv2

    largest = np.zeros(rgb.shape[:2], np.float32)
    for channel in range(3):
        plane = rgb[..., channel].astype(np.float32)
        mean = cv2.blur(plane, (window_px, window_px))
        square = cv2.blur(plane * plane, (window_px, window_px))
        np.maximum(largest, square - mean * mean, out=largest)
    return np.sqrt(largest)


def _largest_parts(mask: Mask, mpp: float) -> Mask:
    """Parts of at least 0.3 mm2; where none is as large, those above a fifth of the largest and 0.005 mm2 (a lumen)."""
    import cv2

    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    if count < 2:
        return mask
    area_px = stats[:, cv2.CC_STAT_AREA].copy()
    area_px[0] = 0
    keep = area_px * mpp**2 >= max(min(0.3e6, 0.2 * area_px.max() * mpp**2), 0.005e6)
    return np.asarray(keep[labels], np.bool_)


def _block_means(rgb: Pixels, mask: Mask, shape: tuple[int, int]) -> tuple[Plane, Plane]:
    """Mean ln colour (rows, cols, 3) of the masked pixels of each block, and their share (rows, cols)."""
    import cv2

    size = (shape[1], shape[0])
    share = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    table = np.log(np.arange(256, dtype=np.float32) + 1)
    means = np.zeros((*shape, 3), np.float32)
    for channel in range(3):
        level = np.where(mask, table[rgb[..., channel]], np.float32(0))
        means[..., channel] = cv2.resize(level, size, interpolation=cv2.INTER_AREA)
    weights = np.where(share >= 0.1, share, 0).astype(np.float32)
    return (means / np.maximum(share, 1e-6)[..., None]).astype(np.float32), weights


def _without_pale_tissue(colours: Plane, weights: Plane) -> Plane:
    """Weights (rows, cols) with blocks zeroed that are much darker than the glass around them should be.

    Begins at the brightest blocks and follows the lamp's fall-off (a quadratic in x and y, refitted as
    blocks join), so that a vignette is followed to its corners while a pale smooth tissue is a step.
    """
    rows, cols = weights.shape
    y, x = np.meshgrid(np.linspace(-1, 1, rows), np.linspace(-1, 1, cols), indexing="ij")
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1).reshape(-1, 6)  # (blocks, 6)
    flat = colours.reshape(-1, 3).astype(np.float64)
    expected = np.broadcast_to(_weighted_quantile(colours, weights, 0.95), flat.shape)
    weight = weights.reshape(-1).astype(np.float64)
    for _ in range(6):
        kept = np.where((expected - flat).max(axis=1) <= DENSEST_DRIFT, weight, 0)
        if np.count_nonzero(kept) < 24:
            break
        # The ridge keeps the slope low where the glass that was seen does not settle it.
        normal = terms.T @ (kept[:, None] * terms) + np.diag([0, *(0.02 * kept.sum(),) * 5])
        expected = terms @ np.linalg.solve(normal, terms.T @ (kept[:, None] * flat))
    return kept.reshape(rows, cols).astype(np.float32)


def _weighted_quantile(values: Plane, weights: Plane, q: float) -> Plane:
    """Quantile per channel of (rows, cols, 3), each block counted by its weight; (3,)."""
    out = np.empty(3, np.float32)
    for channel in range(3):
        order = np.argsort(values[..., channel], axis=None, kind="stable")
        cumulative = np.cumsum(weights.reshape(-1)[order])
        at = int(np.searchsorted(cumulative, q * cumulative[-1]))
        out[channel] = values[..., channel].reshape(-1)[order[min(at, order.size - 1)]]
    return out


def _spread(colours: Plane, weights: Plane) -> Plane:
    """Fill blocks without glass from their neighbours, the nearest counting most; (rows, cols, 3)."""
    field = np.empty_like(colours)
    field[:] = (colours * weights[..., None]).sum((0, 1)) / weights.sum()
    sigma = float(max(colours.shape[:2]))
    while sigma >= 0.7:
        total = blurred(weights, sigma)
        local = blurred(colours * weights[..., None], sigma).reshape(field.shape) / np.maximum(total, 1e-6)[..., None]
        trust = np.clip(total / 0.15, 0, 1)[..., None]  # full where a seventh of the neighbourhood is glass
        field = (trust * local + (1 - trust) * field).astype(np.float32)
        sigma /= 2
    return field
