"""The look of a site: its stains, its scanner, and how optical densities become the bytes of a pixel."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]

OD_STEP = 0.01
"""Optical density of one step of the colour table: 256 steps reach 2.55."""

_RED_CELLS = (0.10, 0.80, 0.80)  # absorbance of haemoglobin on top of eosin, R, G, B


@dataclass(frozen=True)
class Site:
    """One hospital's stains and scanner.

    Args:
        name: As it stands in ``cohort.csv``.
        haematoxylin: Optical density of unit stain in R, G, B.
        eosin: Likewise.
        strength: Multiplies haematoxylin and eosin: how long the bath was.
        white: The scanner's white point, R, G, B.
        gamma: Exponent of the scanner's tone curve.
        blur_px: Standard deviation of the optics at 0.5 um per px.
        sharpen: Strength of the scanner's unsharp mask.
        noise: Standard deviation of the sensor noise in grey values.
        quality: JPEG quality.
    """

    name: str
    haematoxylin: tuple[float, float, float]
    eosin: tuple[float, float, float]
    strength: tuple[float, float]
    white: tuple[int, int, int]
    gamma: float
    blur_px: float
    sharpen: float
    noise: float
    quality: int


def site(index: int, *, seed: int = 0) -> Site:
    """The ``index``-th of an endless row of sites; the first four are written down, the rest drawn.

    Example:
        >>> site(0).name
        'site-00'
    """
    known = (
        ((0.62, 0.70, 0.30), (0.10, 0.90, 0.40), (1.00, 1.00), (243, 243, 243), 1.00, 0.55, 0.9, 1.6, 82),
        ((0.56, 0.72, 0.38), (0.16, 0.86, 0.52), (1.08, 1.12), (245, 243, 246), 0.95, 0.65, 1.1, 2.0, 78),
        ((0.66, 0.68, 0.24), (0.07, 0.92, 0.30), (0.94, 0.90), (240, 241, 239), 1.05, 0.75, 0.7, 1.3, 86),
        ((0.60, 0.74, 0.32), (0.12, 0.88, 0.46), (1.15, 0.95), (247, 246, 247), 0.98, 0.60, 1.3, 2.2, 75),
    )
    if index < len(known):
        h, e, strength, white, gamma, blur, sharpen, noise, quality = known[index]
        return Site(f"site-{index:02d}", h, e, strength, white, gamma, blur, sharpen, noise, quality)
    rng = np.random.default_rng([seed, index, 0x517E])
    t, s = rng.uniform(0, 1, 2)
    grey = int(rng.integers(238, 248))
    return Site(
        f"site-{index:02d}",
        (0.66 - 0.1 * t, 0.68 + 0.05 * t, 0.24 + 0.14 * t),
        (0.07 + 0.09 * s, 0.92 - 0.06 * s, 0.30 + 0.22 * s),
        (float(rng.uniform(0.88, 1.18)), float(rng.uniform(0.88, 1.15))),
        (grey, grey + int(rng.integers(-1, 2)), grey + int(rng.integers(-2, 2))),
        float(rng.uniform(0.93, 1.07)),
        float(rng.uniform(0.5, 0.8)),
        float(rng.uniform(0.6, 1.3)),
        float(rng.uniform(1.2, 2.3)),
        int(rng.integers(74, 88)),
    )


@lru_cache(maxsize=8)
def colour_table(
    place: Site, strength: tuple[float, float] = (1.0, 1.0), contrast: tuple[float, float] = (1.0, 1.0)
) -> Pixels:
    """RGB (65536, 3) of every pair of densities: row ``256 * haematoxylin + eosin`` in steps of ``OD_STEP``.

    Beer-Lambert: transmitted light falls with 10 to the minus of the summed densities;
    then the scanner's tone curve and white point.

    Args:
        place: Stains and scanner.
        strength: This slide's haematoxylin and eosin relative to its site's.
        contrast: Exponents of the two dyes' uptake about a density of 0.35: a long bath that was
            well washed out leaves dark nuclei in pale cytoplasm, a short one the opposite.
    """
    steps = np.arange(256, dtype=np.float32) * OD_STEP
    taken = [0.35 * (steps / 0.35) ** np.float32(c) for c in contrast]
    h = taken[0][:, None, None] * np.asarray(place.haematoxylin, np.float32) * place.strength[0] * strength[0]
    e = taken[1][None, :, None] * np.asarray(place.eosin, np.float32) * place.strength[1] * strength[1]
    light = np.power(10.0, -(h + e)) ** place.gamma
    # stray light: a scanner's black is never 0
    rgb = (0.035 + 0.965 * light) * np.asarray(place.white, np.float32)
    return np.clip(np.rint(rgb), 0, 255).astype(np.uint8).reshape(-1, 3)


def develop(stain: npt.NDArray[np.float32], table: Pixels) -> Pixels:
    """RGB (h, w, 3) from the densities of haematoxylin, eosin and red cells, (3, h, w)."""
    import cv2

    h, e, red = (cv2.convertScaleAbs(np.maximum(s, 0), alpha=1 / OD_STEP) for s in stain)  # rounds, saturates at 255
    index = (h.astype(np.uint16) << 8) | e
    rgb = np.take(table, index, axis=0)
    ys, xs = np.nonzero(red > 2)
    if len(ys):
        density = red[ys, xs, None].astype(np.float32) * OD_STEP * np.asarray(_RED_CELLS, np.float32)
        rgb[ys, xs] = np.rint(rgb[ys, xs] * np.power(10.0, -density)).astype(np.uint8)
    return np.asarray(rgb, np.uint8)


@lru_cache(maxsize=4)
def _grain(repeats: int) -> npt.NDArray[np.float32]:
    """Noise that repeats every 512 px, side by side so that a view is one slice of it."""
    grain = np.random.default_rng(0x6E01).standard_normal((512, 512, 3), dtype=np.float32)
    return np.tile(grain, (repeats, repeats, 1))


def scan(rgb: Pixels, place: Site, xy_px: tuple[int, int]) -> Pixels:
    """What the scanner makes of a view (h, w, 3) at ``xy_px``: optics, sensor noise, unsharp mask."""
    import cv2

    h, w = rgb.shape[:2]
    seen = cv2.GaussianBlur(rgb, (0, 0), place.blur_px)
    x, y = xy_px[0] % 512, xy_px[1] % 512
    noise = _grain(2 + max(h, w) // 512)[y : y + h, x : x + w]
    softer = cv2.GaussianBlur(rgb, (0, 0), place.blur_px + 0.8)
    sharp = cv2.addWeighted(seen, 1 + place.sharpen, softer, -place.sharpen, 0, dtype=cv2.CV_32F)
    out = np.asarray(sharp, np.float32) + noise * np.float32(place.noise)
    return np.asarray(cv2.convertScaleAbs(np.maximum(out, 0)), np.uint8)
