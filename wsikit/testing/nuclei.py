"""Pre-rendered cells: nuclei of every kind at 32 orientations, goblet vacuoles, red cells.

A sprite has coverage, and haematoxylin, eosin and red-cell density where it covers.
They are drawn once per process from a fixed seed and stamped wherever a layout wants one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from wsikit.testing.noise import Plane, tileable_noise

ANGLES = 32
"""Orientations of every kind, evenly over the half turn 0..pi (x axis first, y downwards)."""


@dataclass(frozen=True)
class Kind:
    """How a kind of cell looks; lengths are half axes in px of 0.5 um."""

    long_px: tuple[float, float]
    wide_px: tuple[float, float]
    haematoxylin: tuple[float, float]
    irregular: float = 0.05
    rim: float = 0.25
    chromatin: float = 0.12
    grain_px: float = 4.5
    nucleoli: tuple[int, int] = (0, 1)
    nucleolus_px: float = 1.2
    bend: float = 0.0
    halo: float = 0.0
    cytoplasm_px: float = 0.0
    cytoplasm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    eosin: float = 0.12
    variants: int = 6


KINDS: dict[str, Kind] = {
    "columnar": Kind((5.8, 8.4), (3.4, 4.7), (0.45, 0.72), irregular=0.06, chromatin=0.16, nucleoli=(0, 2), eosin=0.16),
    "pencil": Kind((7.5, 11.0), (2.6, 3.8), (0.50, 0.82), irregular=0.05, chromatin=0.15, eosin=0.16, variants=8),
    "basal": Kind((4.2, 6.6), (2.3, 3.6), (0.52, 0.88), irregular=0.14, chromatin=0.12, eosin=0.18),
    "lymphocyte": Kind(
        (3.9, 5.2), (3.6, 4.7), (0.66, 0.98), irregular=0.07, chromatin=0.22, grain_px=4.0, halo=0.4, variants=4
    ),
    "plasma": Kind(
        (4.2, 5.2), (3.6, 4.6), (0.60, 0.88), chromatin=0.26, grain_px=4.5, halo=0.25,
        cytoplasm_px=4.5, cytoplasm=(0.22, 0.24, 0.0), variants=4,
    ),
    "eosinophil": Kind(
        (3.2, 4.0), (2.6, 3.2), (0.70, 0.95), irregular=0.2, halo=0.1, cytoplasm_px=3.5, cytoplasm=(0.04, 0.40, 0.16),
        variants=3,
    ),
    "fibroblast": Kind(
        (6.5, 13.0), (1.5, 2.8), (0.46, 0.86), irregular=0.10, rim=0.12, bend=0.012, halo=0.22, variants=8
    ),
    "plump": Kind((6.5, 10.0), (3.0, 4.4), (0.36, 0.60), irregular=0.07, rim=0.3, nucleoli=(0, 2), bend=0.008),
    "muscle": Kind((9.0, 16.0), (1.9, 2.8), (0.42, 0.70), irregular=0.03, rim=0.15, bend=0.005, halo=0.15),
    "endothelial": Kind((6.0, 10.0), (1.4, 2.3), (0.55, 0.9), rim=0.1, bend=0.022, halo=0.1),
    "atypical-1": Kind(
        (5.8, 9.1), (4.4, 6.3), (0.36, 0.56), irregular=0.10, rim=0.48, chromatin=0.22, grain_px=6.5, nucleoli=(1, 2),
        nucleolus_px=1.5, eosin=0.155, variants=10,
    ),
    "atypical-2": Kind(
        (6.2, 10.6), (4.8, 7.3), (0.34, 0.58), irregular=0.13, rim=0.57, chromatin=0.26, grain_px=7.5, nucleoli=(1, 3),
        nucleolus_px=1.8, eosin=0.155, variants=12,
    ),
    "atypical-3": Kind(
        (6.2, 13.0), (5.3, 9.0), (0.30, 0.62), irregular=0.18, rim=0.66, chromatin=0.31, grain_px=8.5, nucleoli=(1, 4),
        nucleolus_px=2.1, eosin=0.155, variants=14,
    ),
    "hyperchromatic": Kind(
        (6.0, 11.5), (4.0, 7.0), (0.57, 0.90), irregular=0.20, rim=0.2, chromatin=0.22, grain_px=6.0, nucleoli=(0, 1),
        eosin=0.148, variants=12,
    ),
    "mitosis": Kind((6.0, 8.5), (2.0, 3.2), (1.15, 1.4), irregular=0.35, rim=0.0, chromatin=0.15, halo=0.8, variants=4),
    "apoptotic": Kind(
        (2.4, 3.6), (2.2, 3.2), (1.1, 1.4), irregular=0.1, halo=0.85, cytoplasm_px=2.5, cytoplasm=(0.1, 0.5, 0.0),
        variants=3,
    ),
    "red-cell": Kind(
        (4.4, 5.4), (3.8, 5.0), (0.0, 0.0), irregular=0.08, rim=0.0, chromatin=0.0, nucleoli=(0, 0), eosin=0.20,
        variants=3,
    ),
    "goblet": Kind(
        (13.5, 18.5), (6.4, 8.6), (0.03, 0.09), irregular=0.08, rim=1.6, chromatin=0.4, grain_px=5.0, nucleoli=(0, 0),
        eosin=0.05, variants=6,
    ),
}  # fmt: skip


Sprite: TypeAlias = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]
"""What a cell lets through, (S, S), and what it adds, (3, S, S)."""


@dataclass(frozen=True)
class SpriteBank:
    """All sprites of one process.

    Args:
        sprites: Each of odd side.
        first: Index of a kind's first sprite; its orientations vary slowest, its variants fastest.
        variants: How many variants each kind has.
    """

    sprites: tuple[Sprite, ...]
    first: dict[str, int]
    variants: dict[str, int]

    def pick(self, kind: str, angles: npt.NDArray[np.floating], rng: np.random.Generator) -> npt.NDArray[np.int32]:
        """Sprite indices (N,) of one kind, a random variant each, nearest to the angles (N,) in radians."""
        turn = np.rint(np.asarray(angles) / np.pi * ANGLES).astype(np.int64) % ANGLES
        variant = rng.integers(0, self.variants[kind], len(turn))
        return np.asarray(self.first[kind] + turn * self.variants[kind] + variant, np.int32)


def _draw(kind: Kind, name: str, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """All orientations and variants of a kind, (ANGLES * variants, S, S, 4)."""
    n = ANGLES * kind.variants

    def per_sprite(low: float, high: float) -> npt.NDArray[np.float32]:
        return rng.uniform(low, high, (n, 1, 1)).astype(np.float32)

    reach = int(np.ceil(kind.long_px[1] * (1 + 1.5 * kind.irregular) + kind.cytoplasm_px + 3))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.float32)[:, None]
    angle = np.repeat(np.arange(ANGLES) * np.pi / ANGLES, kind.variants).astype(np.float32)[:, None, None]
    angle = angle + per_sprite(-0.05, 0.05) + np.pi * (per_sprite(0, 1) > 0.5)
    u = np.cos(angle) * x + np.sin(angle) * y
    v = -np.sin(angle) * x + np.cos(angle) * y
    v = v - kind.bend * per_sprite(-1, 1) * u**2
    long_, wide = per_sprite(*kind.long_px), per_sprite(*kind.wide_px)
    phi = np.arctan2(v / wide, u / long_)
    outline = np.ones_like(u)
    for k, share in ((2, 0.5), (3, 0.8), (4, 0.4), (5, 0.25)):
        outline += kind.irregular * share * per_sprite(-1, 1) * np.cos(k * phi + per_sprite(0, 6.3))
    rho = np.hypot(u / long_, v / wide) / outline
    depth = (1 - rho) * wide  # px below the membrane, roughly
    inside = 1 / (1 + np.exp(-np.clip(depth / 0.35, -30, 30)))

    grain = tileable_noise(rng, 256, wavelength_px=kind.grain_px, sharpness=0.9)
    grain = grain + 0.5 * tileable_noise(rng, 256, wavelength_px=kind.grain_px * 2)
    at = rng.integers(0, 256, (n, 2))
    span = np.arange(2 * reach + 1)
    chromatin = grain[(at[:, :1] + span)[:, :, None] % 256, (at[:, 1:] + span)[:, None, :] % 256]
    relief = 1 + kind.chromatin * np.clip(chromatin, -1.6, 2.2)
    relief += kind.rim * np.exp(-((np.maximum(depth - 0.4, 0) / 1.1) ** 2))
    for i in range(kind.nucleoli[1]):
        present = rng.integers(kind.nucleoli[0], kind.nucleoli[1] + 1, (n, 1, 1)) > i
        r, a = np.sqrt(per_sprite(0, 0.35)), per_sprite(0, 6.3)
        du, dv = u - r * np.cos(a) * long_, v - r * np.sin(a) * wide
        size = kind.nucleolus_px * per_sprite(0.8, 1.2)
        relief += 0.8 * present * np.exp(-(du**2 + dv**2) / (2 * size**2))

    dye = per_sprite(*kind.haematoxylin) * np.maximum(relief, 0.25)
    out = np.zeros((n, 2 * reach + 1, 2 * reach + 1, 4), np.float32)
    if kind.cytoplasm_px:
        side = per_sprite(0, 6.3)
        cu, cv = u - 2.2 * np.cos(side), v - 2.2 * np.sin(side)
        body = np.hypot(cu / (long_ + kind.cytoplasm_px), cv / (wide + kind.cytoplasm_px * 0.7))
        cell = 1 / (1 + np.exp(-np.clip((1 - body) * wide / 0.5, -30, 30)))
        _over(out, cell, [c * (1 + 0.15 * np.clip(chromatin, -2, 2)) for c in kind.cytoplasm])
    if kind.halo:
        ring = kind.halo * np.exp(-(((depth + 1.1) / 1.0) ** 2)) * (depth < 0)
        _over(out, ring * (out[..., 0] < 0.5), [np.full_like(u, 0.03), np.full_like(u, 0.05), np.zeros_like(u)])
    red = np.zeros_like(u)
    eosin = np.full_like(u, kind.eosin)
    if name == "red-cell":
        pallor = 0.72 + 0.28 * np.clip(rho, 0, 1) ** 2
        red, eosin = 0.34 * per_sprite(0.8, 1.15) * pallor, eosin * pallor
    if name == "goblet":  # apical pole paler than the theca at the base
        eosin = eosin * relief
    _over(out, inside, [dye, eosin, red])
    return out


def _over(out: npt.NDArray[np.float32], cover: Plane, dyes: list[Plane]) -> None:
    """Lay dyes over what ``out`` holds already; ``out`` keeps coverage and straight (not premultiplied) dyes."""
    both = cover + out[..., 0] * (1 - cover)
    safe = np.maximum(both, 1e-6)
    for c, dye in enumerate(dyes, start=1):
        out[..., c] = (dye * cover + out[..., c] * out[..., 0] * (1 - cover)) / safe
    out[..., 0] = both


def _premultiplied(sprite: npt.NDArray[np.float32]) -> Sprite:
    """Cut to what it covers, channels first, ready for ``plane = plane * keep + add``."""
    reach = sprite.shape[0] // 2
    rows, cols = np.nonzero(sprite[..., 0] > 0.01)
    need = int(max(np.abs(rows - reach).max(initial=0), np.abs(cols - reach).max(initial=0)))
    cut = sprite[reach - need : reach + need + 1, reach - need : reach + need + 1]
    cut = np.moveaxis(cut, -1, 0)
    return np.ascontiguousarray(1 - cut[0]), np.ascontiguousarray(cut[1:] * cut[0])


@lru_cache(maxsize=1)
def sprite_bank() -> SpriteBank:
    """The bank of this process (drawn on first use, in about a second)."""
    sprites: list[Sprite] = []
    first: dict[str, int] = {}
    for i, (name, kind) in enumerate(KINDS.items()):
        first[name] = len(sprites)
        drawn = _draw(kind, name, np.random.default_rng([0x5921, i]))
        sprites.extend(_premultiplied(s) for s in drawn)
    return SpriteBank(tuple(sprites), first, {name: kind.variants for name, kind in KINDS.items()})


def stamp(stain: npt.NDArray[np.float32], xy_px: npt.NDArray[np.integer], index: npt.NDArray[np.integer]) -> None:
    """Lay sprites over a stain plane, in order, clipped at its edges.

    Args:
        stain: (3, h, w) densities, changed in place.
        xy_px: Centres (N, 2) in px of the plane; may lie outside.
        index: Sprites (N,) of :func:`sprite_bank`.
    """
    sprites = sprite_bank().sprites
    height, width = stain.shape[1:]
    for (cx, cy), i in zip(xy_px.tolist(), index.tolist(), strict=True):
        keep, add = sprites[i]
        side = len(keep)
        x0, y0 = cx - side // 2, cy - side // 2
        x1, y1 = x0 + side, y0 + side
        if x0 < 0 or y0 < 0 or x1 > width or y1 > height:
            if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
                continue
            part = np.s_[max(0, -y0) : side - max(0, y1 - height), max(0, -x0) : side - max(0, x1 - width)]
            keep, add = keep[part], add[:, part[0], part[1]]
            x0, y0 = max(0, x0), max(0, y0)
        here = stain[:, y0:y1, x0:x1]
        here *= keep
        here += add
