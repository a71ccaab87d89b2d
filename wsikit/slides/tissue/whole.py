"""The whole slide is tissue: for images that were cut out beforehand, and for grids without a filter."""

from __future__ import annotations

import numpy as np

from wsikit.slides.base import Pixels
from wsikit.slides.tissue_mask import Mask, register_segmenter


@register_segmenter("whole", summary="no filter: everything is tissue", mpp=32.0, reference="-")
class Whole:
    """Marks every pixel as tissue, glass included."""

    def segment(self, rgb: Pixels, mpp: float) -> Mask:
        """RGB (h, w, 3) -> (h, w), all True."""
        return np.ones(rgb.shape[:2], np.bool_)
