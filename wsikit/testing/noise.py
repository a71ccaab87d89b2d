"""Smooth random fields: tileable ones for texture, low-resolution ones for the layout of tissue."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Plane: TypeAlias = npt.NDArray[np.float32]
"""One value per pixel, (H, W)."""


def tileable_noise(
    rng: np.random.Generator,
    size_px: int,
    *,
    wavelength_px: float,
    stretch: float = 1.0,
    sharpness: float = 1.0,
) -> Plane:
    """Band-passed Gaussian noise of zero mean and unit variance that repeats without a seam.

    Args:
        rng: Source of randomness.
        size_px: Side of the square.
        wavelength_px: Typical distance of two maxima across the grain.
        stretch: How many times longer the grain is along x than along y.
        sharpness: Width of the band is the inverse of this; 0.5 adds finer and coarser grain.
    """
    half = size_px // 2 + 1
    # drawn in the frequency domain: one transform instead of two
    white = rng.standard_normal((2, size_px, half), dtype=np.float32)
    fy = np.fft.fftfreq(size_px).astype(np.float32)[:, None] * wavelength_px
    fx = np.fft.rfftfreq(size_px).astype(np.float32)[None] * (stretch * wavelength_px)
    power = fy**2 + fx**2
    power[0, 0] = 1
    # over the frequency: equal power per octave of a plane
    band = np.exp(-((np.log(power) * (0.5 * sharpness)) ** 2)) / np.sqrt(power)
    band[0, 0] = 0
    field = np.fft.irfft2(band * (white[0] + 1j * white[1]), s=(size_px, size_px))
    return np.asarray(field / field.std(), np.float32)


def smooth_field(
    rng: np.random.Generator, shape: tuple[int, int], wavelength: float, *, octaves: int = 1, gain: float = 0.5
) -> Plane:
    """Noise of about unit variance that varies over ``wavelength`` cells, with finer octaves added.

    Args:
        rng: Source of randomness.
        shape: (height, width) of the result.
        wavelength: In cells of the result.
        octaves: Each next one is half as long and ``gain`` times as strong.
        gain: Strength of an octave relative to the one before.
    """
    import cv2

    total = np.zeros(shape, np.float32)
    power = 0.0
    for k in range(octaves):
        step = max(1.0, wavelength / 2 / 2**k)
        coarse = rng.standard_normal((int(shape[0] / step) + 4, int(shape[1] / step) + 4)).astype(np.float32)
        full = (int(coarse.shape[1] * step), int(coarse.shape[0] * step))
        fine = cv2.resize(coarse, full, interpolation=cv2.INTER_CUBIC)
        dy, dx = (int(v) for v in rng.integers(0, max(1, int(2 * step)), 2))
        total += gain**k * fine[dy : dy + shape[0], dx : dx + shape[1]]
        power += float(gain ** (2 * k))
    return np.asarray(total / np.sqrt(0.6 * power), np.float32)


def sample(field: npt.NDArray[Any], xy_px: npt.NDArray[Any], grid_px: float) -> npt.NDArray[np.float32]:
    """Values (N,) of a low-resolution field at points (N, 2) given in full-resolution px (nearest cell)."""
    ij = np.clip((np.asarray(xy_px) / grid_px).astype(np.int64), 0, (field.shape[1] - 1, field.shape[0] - 1))
    return np.asarray(field[ij[:, 1], ij[:, 0]], np.float32)
