"""A guess at a slide's stain from the hues of its tissue: enough to find the odd one out, no more."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsikit.slides.base import Pixels

LEAST_SATURATION = 0.1
"""Paler pixels (fat, mucus, grey dust) have no hue worth the name."""

PINK_DEG, BROWN_DEG, BLUE_DEG = (265.0, 372.0), (12.0, 50.0), (185.0, 265.0)
"""Hues in degrees, from and below: eosin to haematoxylin beside it, DAB, haematoxylin alone and its blue kin."""


@dataclass(frozen=True)
class StainGuess:
    """What a slide's colours look like.

    Attributes:
        kind: "H&E", "IHC" (brown DAB on blue), "other", or "unknown" where there is too little colour.
        sure: Whether the hues leave little doubt. "other" is never sure: a negative IHC is plain blue too.
        pink: Share of the coloured tissue between pink and violet, 0 to 1.
        brown: Share that is brown.
        blue: Share that is blue.
    """

    kind: str
    sure: bool
    pink: float
    brown: float
    blue: float

    def __str__(self) -> str:
        return self.kind if self.sure or self.kind == "unknown" else f"{self.kind}?"


def guess_stain(rgb: Pixels, tissue: npt.NDArray[np.bool_]) -> StainGuess:
    """Guess a stain from a thumbnail.

    The bounds are set by hand on a dozen slides of several laboratories; pen marks, much blood or pigment,
    and rare stains mislead them. Nothing else in wsikit depends on the guess.

    Args:
        rgb: The slide at low resolution, (h, w, 3) uint8.
        tissue: Where its tissue is, (h, w) bool.

    Example:
        >>> pink = np.full((8, 8, 3), (220, 150, 190), np.uint8)
        >>> str(guess_stain(pink, np.ones((8, 8), bool)))
        'H&E'
    """
    import cv2

    pixels = rgb[tissue]  # (n, 3)
    if not len(pixels):
        return StainGuess("unknown", False, 0.0, 0.0, 0.0)
    unit = pixels[None].astype(np.float32) / 255  # of floats OpenCV gives the hue in degrees, the others 0 to 1
    hsv = np.asarray(cv2.cvtColor(unit, cv2.COLOR_RGB2HSV))[0]  # (n, 3)
    hues = hsv[hsv[:, 1] > LEAST_SATURATION, 0]
    if len(hues) < max(16, 0.02 * len(pixels)):
        return StainGuess("unknown", False, 0.0, 0.0, 0.0)
    # Degrees beyond 360 are the reds: pink goes on past the top of the circle.
    pink, brown, blue = (
        float((((hues - low) % 360) < high - low).mean()) for low, high in (PINK_DEG, BROWN_DEG, BLUE_DEG)
    )
    if pink >= 0.6 and brown < 0.05:
        return StainGuess("H&E", pink >= 0.85, pink, brown, blue)
    if brown >= 0.03 and brown + blue >= 0.6:
        return StainGuess("IHC", brown >= 0.1 and blue >= 0.1, pink, brown, blue)
    return StainGuess("other", False, pink, brown, blue)
