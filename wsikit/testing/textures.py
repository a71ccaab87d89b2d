"""Tileable stain textures of what lies between the cells: collagen, loose stroma, muscle, fat, mucin.

Each is (1024, 1024, 2), haematoxylin and eosin densities, with its grain along x. They are drawn
once per process from a fixed seed; slides differ by how they warp, mix and stain them.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from wsikit.testing.noise import Plane, tileable_noise

SIZE_PX = 1024
KINDS = ("lamina", "collagen", "muscle", "fat", "mucin", "necrosis")
"""Order of the tissue types wherever they are numbered."""


def _warp(field: Plane, dx: Plane, dy: Plane) -> Plane:
    import cv2

    y, x = np.mgrid[0 : field.shape[0], 0 : field.shape[1]].astype(np.float32)
    return np.asarray(cv2.remap(field, x + dx, y + dy, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP), np.float32)


def _step(x: Plane, soft: float) -> Plane:
    return np.asarray(1 / (1 + np.exp(-np.clip(x / soft, -30, 30))), np.float32)


def _noise(rng: np.random.Generator, wavelength: float, stretch: float = 1.0, sharpness: float = 1.0) -> Plane:
    return tileable_noise(rng, SIZE_PX, wavelength_px=wavelength, stretch=stretch, sharpness=sharpness)


def _fibres(rng: np.random.Generator, *, crimp: float, gaps: float, fine: float, gap_px: float) -> Plane:
    """(density, gap) of wavy fibres along x with clefts between them."""
    wave_y = np.float32(crimp) * (_noise(rng, 70, 0.7) + np.float32(0.45) * _noise(rng, 26, 0.8))
    wave_x = np.float32(6) * _noise(rng, 90)
    zero = np.zeros_like(wave_y)
    strands = np.abs(_warp(_noise(rng, 9 * fine, 9), zero, wave_y))
    hair = _warp(_noise(rng, 4.5 * fine, 10), zero, wave_y)
    bundle = _warp(_noise(rng, 34, 4, 0.7), wave_x, wave_y)
    cleft = _warp(_noise(rng, gap_px, 7, 0.8), wave_x, wave_y)
    density = 1.0 + 0.17 * hair - 0.34 * np.exp(-((strands / 0.22) ** 2)) + 0.16 * bundle
    open_ = _step(np.asarray(cleft + 0.35 * bundle - gaps, np.float32), 0.10)
    edge = np.exp(-(((cleft + 0.35 * bundle - gaps + 0.14) / 0.12) ** 2))
    return np.stack([density + 0.30 * edge, open_]).astype(np.float32)


def _cells(rng: np.random.Generator, count: int) -> tuple[Plane, Plane]:
    """Voronoi cells with jitter: distance to the wall in px, and a number per cell."""
    import cv2
    from scipy.spatial import cKDTree

    half = SIZE_PX // 2
    side = round(count**0.5)
    grid = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2)
    points = (grid + rng.uniform(0.05, 0.95, grid.shape)) / side * half
    tree = cKDTree(points, boxsize=half)
    y, x = np.mgrid[0:half, 0:half]
    wobble = 5 * tileable_noise(rng, half, wavelength_px=60), 5 * tileable_noise(rng, half, wavelength_px=60)
    at = np.stack([x + wobble[0], y + wobble[1]], -1) % half
    distance, index = tree.query(at.reshape(-1, 2), k=2)
    wall = (distance[:, 1] - distance[:, 0]).reshape(half, half).astype(np.float32)
    number = (index[:, 0] % 97 / 97).reshape(half, half).astype(np.float32)
    size = (SIZE_PX, SIZE_PX)
    return (
        np.asarray(cv2.resize(wall, size, interpolation=cv2.INTER_CUBIC), np.float32),
        np.asarray(cv2.resize(number, size, interpolation=cv2.INTER_NEAREST), np.float32),
    )


@lru_cache(maxsize=1)
def textures() -> tuple[npt.NDArray[np.float32], ...]:
    """One (1024, 1024, 2) stain texture for each of :data:`KINDS`."""
    rng = np.random.default_rng(0x7E47)

    density, gap = _fibres(rng, crimp=5, gaps=1.25, fine=1.0, gap_px=20)
    collagen = np.stack([0.055 * density + 0.03, 0.25 * density], -1) * (1 - 0.96 * gap[..., None])

    density, gap = _fibres(rng, crimp=3, gaps=1.75, fine=0.9, gap_px=15)
    muscle = np.stack([0.11 * density + 0.03, 0.28 * density], -1) * (1 - 0.93 * gap[..., None])

    # loose stroma: a felt of short fibres, a third of it open
    density, gap = _fibres(rng, crimp=3, gaps=1.0, fine=0.8, gap_px=13)
    holes = _step(_noise(rng, 17, 1.5, 0.8) - 0.9, 0.15)
    clear = 1 - (1 - 0.93 * gap) * (1 - 0.9 * holes)
    lamina = np.stack([0.08 * density + 0.02, 0.19 * density], -1) * (1 - 0.95 * clear[..., None])

    wall, number = _cells(rng, 36)
    thickness = 1.6 + 1.0 * _noise(rng, 120)
    wall = wall + 0.8 * _noise(rng, 8)
    membrane = np.exp(-((np.maximum(wall - 0.4, 0) / np.clip(thickness, 0.8, 4)) ** 2))
    haze = 0.015 * (number > 0.7) * (1 + 0.4 * _noise(rng, 40))
    fat = np.stack([0.10 * membrane + 0.3 * haze, 0.30 * membrane * (1 + 0.25 * _noise(rng, 7)) + haze], -1)

    strands = np.abs(_warp(_noise(rng, 40, 1.6, 0.6), 8 * _noise(rng, 50), 8 * _noise(rng, 50)))
    web = np.exp(-((strands / 0.10) ** 2)) * np.clip(0.6 + 0.6 * _noise(rng, 60), 0, 1.6)
    foam = _noise(rng, 5)
    mucin = np.stack([0.10 + 0.02 * foam + 0.13 * web, 0.045 + 0.01 * foam + 0.06 * web], -1)

    clump = _noise(rng, 10, 1, 0.6)
    dust = _step(_noise(rng, 5.5, 1, 0.9) - 2.0, 0.15)
    necrosis = np.stack([0.10 + 0.03 * clump + 0.55 * dust, 0.30 + 0.09 * clump], -1)
    necrosis *= 1 - 0.8 * _step(_noise(rng, 24, 1, 0.7) - 1.3, 0.15)[..., None]

    return tuple(
        np.ascontiguousarray(np.maximum(t, 0), np.float32) for t in (lamina, collagen, muscle, fat, mucin, necrosis)
    )


@lru_cache(maxsize=1)
def cytoplasm_grain() -> Plane:
    """Granular unit-mean texture (1024, 1024) of cytoplasm."""
    rng = np.random.default_rng(0xC470)
    grain = 1 + 0.10 * _noise(rng, 6) + 0.07 * _noise(rng, 16, 1, 0.7) + 0.05 * _noise(rng, 3)
    return np.ascontiguousarray(grain, np.float32)


@lru_cache(maxsize=1)
def ragged_edge() -> Plane:
    """Offsets (1024, 1024) in px by which fine structure moves the outline of tissue."""
    rng = np.random.default_rng(0xED6E)
    return np.ascontiguousarray(5 * _noise(rng, 90, 1, 0.8) + 2.2 * _noise(rng, 22, 1, 0.9), np.float32)
