"""Marks of felt pens on a slide: coloured or black, and without the structure that tissue has.

By colour alone a blue pen cannot be told from a Giemsa stain, nor a red one from blood. But ink lies
on the cover glass, far from the focal plane, and shows no cells: at 8 um per pixel the fine structure
of tissue is 10 to 30 grey levels strong, that of ink 1 to 5. So ink is what has a pen's hue *and* is
smooth; where that hue is also a stain's on this slide, it must besides lie on bare glass.

Reference:
    Hues: the pens in the filters of Schreiber BJ et al., deep-histopath (IBM CODAIT, 2018). The
    smoothness criterion is ours.
"""

from __future__ import annotations

import numpy as np

from wsikit.slides.base import Pixels
from wsikit.slides.glass import Glass, Mask, Plane, blurred
from wsikit.slides.regions import disc, grown, reaching, without_specks

SMOOTH_LEVELS = 6.0
"""Fine structure of ink, at most, grey levels (root mean square)."""

LEAST_DENSITY = 0.25
"""Density (natural log) of a stroke's core in its darkest channel."""

SMALLEST_MM2 = 0.02
"""Area of a stroke's core, at least."""

REACH_UM = 250.0
"""How far the blurred rim of a stroke may extend from its core."""

STAIN_SHARE = 0.5
"""A hue of which more than this share shows structure is also a stain's (a stroke's rim shows some)."""


def fine_structure(rgb: Pixels, mpp: float) -> Plane:
    """Strength of structure finer than about 30 um, (h, w), grey levels (root mean square, largest channel)."""
    fine, around = max(16 / mpp, 1.0), max(30 / mpp, 2.0)
    power = np.zeros(rgb.shape[:2], np.float32)
    for channel in range(3):
        plane = rgb[..., channel].astype(np.float32)
        plane -= blurred(plane, fine)
        np.maximum(power, blurred(plane * plane, around), out=power)
    return np.sqrt(power)


def find_ink(rgb: Pixels, glass: Glass, structure: Plane, mpp: float) -> Mask:
    """Where pen marks are.

    Args:
        rgb: (h, w, 3) uint8 overview.
        glass: Its glass.
        structure: (h, w) of :func:`fine_structure`.
        mpp: Micrometres per pixel.

    Returns:
        (h, w) bool. Ink over tissue is found only where it hides the tissue's structure.
    """
    red, green, blue = (blurred(glass.density(rgb, c), max(12 / mpp, 0.8)) for c in range(3))
    darkest = np.maximum(np.maximum(red, green), blue)
    if not (darkest >= LEAST_DENSITY).any():
        return np.zeros(rgb.shape[:2], np.bool_)
    # On a slide out of focus nothing is crisp: there, only what is much smoother than the rest is ink.
    crisp = float(np.percentile(structure[darkest >= LEAST_DENSITY], 95))
    smooth = structure <= min(SMOOTH_LEVELS, 0.35 * crisp)
    ink = np.zeros(rgb.shape[:2], np.bool_)
    for name, hue in pen_hues(red, green, blue).items():
        dense = hue & (darkest >= LEAST_DENSITY) & ~glass.padding
        core = without_specks(dense & smooth, SMALLEST_MM2, mpp)
        if not core.any():
            continue
        is_stain = (dense & ~smooth).sum() > STAIN_SHARE * dense.sum()
        if is_stain or name == "red":
            core = _lying_on_glass(core, darkest, mpp)
        near = hue & (darkest >= 0.04) & grown(core, REACH_UM, mpp)
        ink |= grown(reaching(near, core), 16.0, mpp)
    return ink


def pen_hues(red: Plane, green: Plane, blue: Plane) -> dict[str, Mask]:
    """Which pixels have the hue of each kind of pen, from their densities (natural log).

    Haematoxylin, eosin and DAB absorb green or blue most and lie outside of blue, green and black;
    methylene blue, aniline blue and blood lie inside, which is why smoothness must be asked as well.
    """
    mean = (red + green + blue) / 3
    chroma = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    vivid = chroma >= 0.3 * mean
    return {
        "black": ~vivid & (mean > 0.05),
        "blue": vivid & (blue <= green) & (red >= 0.9 * green),
        "green": vivid & (green < 0.95 * red) & (green < 0.95 * blue),
        "red": vivid & (red < 0.3 * green) & (blue > 0.75 * green),
    }


def _lying_on_glass(core: Mask, darkest: Plane, mpp: float) -> Mask:
    """Parts of a core that are surrounded by glass: smooth red in tissue is blood, smooth blue is mucin."""
    import cv2

    count, labels = cv2.connectedComponents(core.astype(np.uint8), connectivity=8)
    wide = cv2.dilate(labels.astype(np.float32), disc(REACH_UM, mpp)).astype(np.int32)
    ring = (wide > 0) & ~grown(core, REACH_UM / 2, mpp)
    around = np.bincount(wide[ring], minlength=count)
    on_glass = np.bincount(wide[ring & (darkest < 0.06)], minlength=count)
    keep = on_glass >= 0.6 * np.maximum(around, 1)
    keep[0] = False
    return np.asarray(keep[labels], np.bool_)
