"""Tissue is where the picture is complicated: local entropy of its fine detail, whatever the stain.

Cells, fibres and lumina make the fine detail of tissue take many values within a tenth of a millimetre.
Glass takes one; a gradient, a smear and the inside of a pen stroke take one after the slow course is
taken out; an edge takes two or three. So with p_k the share of bin k of the detail in a window,

    H = - sum_k p_k log2 p_k      [bit]

lies above 3 on tissue of every stain and below 2 elsewhere, and needs no colour: silver stains, faded
slides and carbon are found as well. H says where tissue is; how dense the pixel is against the local
glass then says where exactly it ends. A line reaches the entropy of tissue along its length only, and
is recognised by its width.

Reference:
    Song Y, Cisternino F, Mekke JM et al. An automatic entropy method to efficiently mask histology
    whole-slide images. Sci Rep 2023;13:4321. The detail (instead of grey) image, the width test and
    the outline are ours.
"""

from __future__ import annotations

import numpy as np

from wsikit.slides.base import Pixels
from wsikit.slides.glass import Plane, blurred, find_glass, largest_density
from wsikit.slides.ink import find_ink, fine_structure
from wsikit.slides.regions import closed, grown, opened, reaching, without_holes, without_specks
from wsikit.slides.tissue_mask import Mask, register_segmenter

BINS = 25
"""Bins of the detail, the middle one around zero."""

DETAIL_UM, WINDOW_UM = 20.0, 100.0
"""What is coarser than the first is not detail; the second is the side of the window."""

BOLD_LEVELS = 10.0
"""Fine structure, grey levels, that makes up for low entropy over a wide area: walls of fat cells are few but bold."""


@register_segmenter(
    "entropy",
    summary="structure: local entropy of fine detail, independent of the stain",
    mpp=8.0,
    reference="Song et al., Sci Rep 2023 (EntropyMasker); on detail instead of grey levels: wsikit",
)
class Entropy:
    """Local entropy of fine detail, outlined by density.

    Args:
        sure_bits: Entropy above which a place is tissue.
        faint_bits: Entropy that still counts beside such a place.
        smallest_mm2: Smaller pieces are dropped as debris.
        largest_hole_mm2: Smaller holes (lumina, fat cells) are filled.
        remove_ink: Leave out pen marks that hide the tissue under them.
    """

    def __init__(
        self,
        *,
        sure_bits: float = 3.0,
        faint_bits: float = 2.2,
        smallest_mm2: float = 0.02,
        largest_hole_mm2: float = 0.1,
        remove_ink: bool = True,
    ) -> None:
        self.sure_bits, self.faint_bits, self.remove_ink = sure_bits, faint_bits, remove_ink
        self.smallest_mm2, self.largest_hole_mm2 = smallest_mm2, largest_hole_mm2

    def segment(self, rgb: Pixels, mpp: float) -> Mask:
        """RGB (h, w, 3) uint8 at ``mpp`` um per pixel -> (h, w) bool, True = tissue."""
        glass = find_glass(rgb, mpp)
        density, structure = largest_density(rgb, glass, mpp), fine_structure(rgb, mpp)  # (h, w) each
        never = glass.padding | find_ink(rgb, glass, structure, mpp) if self.remove_ink else glass.padding
        bits = detail_entropy(rgb, mpp, bin_levels=bin_width(structure, density, glass.noise))
        bits[never] = 0
        # A line looks complicated across the width of the window and no further; tissue is wider than that.
        core = opened(bits > self.sure_bits, 0.75 * WINDOW_UM, mpp)
        faint = closed(bits > self.faint_bits, 0.6 * WINDOW_UM, mpp)
        core |= opened(faint & (structure > BOLD_LEVELS), 1.5 * WINDOW_UM, mpp)
        mask = grown(core, 1.2 * WINDOW_UM, mpp) & faint
        mask &= closed(density > 0.03, 40.0, mpp)
        mask = opened(closed(mask, 40.0, mpp), 24.0, mpp)
        mask = without_holes(reaching(mask, core), self.largest_hole_mm2, mpp) & ~never
        return without_specks(mask, self.smallest_mm2, mpp)


def bin_width(structure: Plane, density: Plane, noise: float) -> float:
    """Width of a bin, grey levels: wider than the scanner's noise, finer than what tissue varies by.

    Args:
        structure: (h, w) of :func:`wsikit.slides.ink.fine_structure`.
        density: (h, w) of :func:`wsikit.slides.glass.largest_density`.
        noise: Standard deviation of bare glass, grey levels.
    """
    dense = density > 0.1
    crisp = float(np.percentile(structure[dense], 90)) if dense.any() else 32.0
    finest = max(2.0, 1.5 * noise)
    return float(np.clip(crisp / 8, finest, max(4.0, finest)))


def detail_entropy(rgb: Pixels, mpp: float, *, bin_levels: float) -> Plane:
    """(h, w) float32: entropy of the fine detail of the darkest channel in a window, bits.

    Args:
        rgb: (h, w, 3) uint8.
        mpp: Micrometres per pixel.
        bin_levels: Width of a bin, grey levels.
    """
    import cv2

    plane = rgb.min(axis=2).astype(np.float32)  # every stain is strong in the channel that it darkens most
    plane -= blurred(plane, max(DETAIL_UM / mpp, 1.0))
    bins = np.clip(np.rint(plane / bin_levels) + BINS // 2, 0, BINS - 1).astype(np.uint8)
    window_px = max(5, round(WINDOW_UM / mpp) | 1)
    bits = np.zeros(bins.shape, np.float32)
    for k in range(BINS):
        share = cv2.blur((bins == k).astype(np.float32), (window_px, window_px))
        np.maximum(share, 1e-6, out=share)
        bits -= share * np.log2(share)
    return bits
