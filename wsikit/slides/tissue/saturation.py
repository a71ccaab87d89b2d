"""Tissue is where light comes through coloured: the spread of optical density over the channels.

A stain absorbs red, green and blue unequally; dust, bubbles, cover-glass edges, folds of the mounting
film and black pen absorb them alike. With D_c = ln(glass_c / I_c) the density of channel c against the
*local* glass, the evidence is

    colour = max_c D_c - min_c D_c        (smoothed over a few cells)

which unlike the saturation of HSV does not grow with darkness alone and does not see the tint of the
lamp. Thresholds come from the slide, within bounds that keep bare glass empty: Otsu's would always
find two classes, on bare glass as well as inside tissue that fills the picture.

Reference:
    van der Laak JAWM, Pahlplatz MMM, Hanselaar AGJM, de Wilde PCM. Hue-saturation-density (HSD) model
    for stain recognition in digital images from transmitted light microscopy. Cytometry
    2000;39:275-284. Hysteresis: Canny J, IEEE TPAMI 1986;8:679-698.
"""

from __future__ import annotations

import numpy as np

from wsikit.slides.base import Pixels
from wsikit.slides.glass import Glass, Plane, blurred, find_glass
from wsikit.slides.ink import find_ink, fine_structure
from wsikit.slides.regions import closed, opened, reaching, without_holes, without_specks
from wsikit.slides.tissue_mask import Mask, register_segmenter

FAINTEST, FAINTEST_SURE = 0.02, 0.05
"""Bounds of the lower threshold, ln units: below is the noise of glass, above pale stain would be lost."""


@register_segmenter(
    "saturation",
    summary="colour: optical density that differs between channels, against the local glass",
    mpp=8.0,
    reference="van der Laak et al., Cytometry 2000 (HSD); bounds and glass model: wsikit",
)
class Saturation:
    """Colour density against the local glass, with hysteresis.

    Args:
        faintest: Colour density that still counts beside surer tissue, ln units; default: from the slide.
        smallest_mm2: Smaller pieces are dropped as debris.
        largest_hole_mm2: Smaller holes (lumina, fat cells) are filled.
        remove_ink: Leave pen marks out.
    """

    def __init__(
        self,
        *,
        faintest: float | None = None,
        smallest_mm2: float = 0.02,
        largest_hole_mm2: float = 0.1,
        remove_ink: bool = True,
    ) -> None:
        self.faintest, self.remove_ink = faintest, remove_ink
        self.smallest_mm2, self.largest_hole_mm2 = smallest_mm2, largest_hole_mm2

    def segment(self, rgb: Pixels, mpp: float) -> Mask:
        """RGB (h, w, 3) uint8 at ``mpp`` um per pixel -> (h, w) bool, True = tissue."""
        glass = find_glass(rgb, mpp)
        structure = fine_structure(rgb, mpp)  # (h, w)
        never = glass.padding | find_ink(rgb, glass, structure, mpp) if self.remove_ink else glass.padding
        colour = colour_density(rgb, glass, mpp)  # (h, w)
        colour[never] = 0
        low = self.faintest if self.faintest is not None else faintest_stain(colour, glass)
        mask = reaching(colour > low, colour > 2 * low)
        # Smoothing found what is pale and carried the outline outward; the unsmoothed picture has it in place.
        mask &= closed(colour_density(rgb, glass, mpp, smooth_um=4.0) > low, 40.0, mpp)
        mask = opened(closed(mask, 40.0, mpp), 24.0, mpp)
        mask = reaching(mask, opened(mask, 50.0, mpp))  # a fibre is nowhere as wide as that
        mask = without_holes(mask, self.largest_hole_mm2, mpp) & ~never
        return without_smooth_parts(without_specks(mask, self.smallest_mm2, mpp), structure)


def colour_density(rgb: Pixels, glass: Glass, mpp: float, *, smooth_um: float = 15.0) -> Plane:
    """(h, w) float32: largest minus smallest density over the channels, ln units, smoothed.

    Colour that is a small part of the density is not counted: it is what noise and JPEG leave of a black
    pen. Nor is colour beside little density: that is glass of another tint (an air bubble), which passes
    one channel better and another worse, while a stain takes light from all.
    """
    highest = np.full(rgb.shape[:2], -np.inf, np.float32)
    lowest, total = np.full_like(highest, np.inf), np.zeros_like(highest)
    for channel in range(3):
        plane = glass.density(rgb, channel)
        plane[glass.padding] = 0
        plane = blurred(plane, max(smooth_um / mpp, 0.5))
        np.maximum(highest, plane, out=highest)
        np.minimum(lowest, plane, out=lowest)
        total += plane
    colour = highest - lowest
    mean = total / 3
    colour[(colour < 0.15 * mean) | (mean < 0.4 * colour)] = 0
    return np.asarray(colour, np.float32)


def faintest_stain(colour: Plane, glass: Glass) -> float:
    """The lower threshold of a slide, ln units: a fifth of its typical stain, above the noise of its glass."""
    stained = colour[colour > 2 * FAINTEST]
    if stained.size == 0:
        return FAINTEST
    return float(np.clip(0.2 * np.median(stained), FAINTEST, FAINTEST_SURE))


def without_smooth_parts(mask: Mask, structure: Plane) -> Mask:
    """Without small parts that show far less structure than the slide's tissue: iridescent bubbles, smears.

    Args:
        mask: (h, w) bool.
        structure: (h, w) of :func:`fine_structure`, grey levels.
    """
    import cv2

    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    area_px = stats[:, cv2.CC_STAT_AREA]
    if count < 3:
        return mask
    typical = float(np.median(structure[mask]))
    keep = np.ones(count, np.bool_)
    keep[0] = False
    for part in np.flatnonzero(area_px < 0.05 * area_px[1:].sum()):
        x, y, w, h = stats[part, :4]
        inside = labels[y : y + h, x : x + w] == part
        keep[part] &= np.median(structure[y : y + h, x : x + w][inside]) >= 0.35 * typical
    return np.asarray(keep[labels], np.bool_)
