"""Where every gland, vessel and cell of a slide is, from its anatomy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.testing.anatomy import COLLAGEN, FAT, GRID_PX, LAMINA, MUCIN, MUSCLE, NECROSIS, Anatomy
from wsikit.testing.glands import Gland, Points, atypical, crypt, vessel
from wsikit.testing.noise import sample, smooth_field
from wsikit.testing.nuclei import SpriteBank

_SCALE = 4
"""The mask of glands, which keeps loose cells out of them, has one px per 4 level-0 px."""

_CELLS: dict[int, tuple[float, dict[str, float]]] = {
    LAMINA: (0.60, {"lymphocyte": 0.30, "plasma": 0.27, "fibroblast": 0.23, "plump": 0.115, "eosinophil": 0.025,
                    "endothelial": 0.06}),
    COLLAGEN: (0.11, {"fibroblast": 0.74, "plump": 0.08, "lymphocyte": 0.09, "endothelial": 0.05, "plasma": 0.04}),
    MUSCLE: (0.13, {"muscle": 0.90, "fibroblast": 0.06, "lymphocyte": 0.04}),
    FAT: (0.012, {"fibroblast": 0.6, "lymphocyte": 0.3, "endothelial": 0.1}),
    MUCIN: (0.025, {"lymphocyte": 0.6, "plump": 0.2, "apoptotic": 0.2}),
    NECROSIS: (0.12, {"apoptotic": 0.6, "lymphocyte": 0.25, "eosinophil": 0.15}),
}  # fmt: skip
"""Share of 11 px cells of the lattice that hold a cell, and of which kinds."""


@dataclass(frozen=True)
class Layout:
    """All that is drawn on a slide over its texture.

    Args:
        glands: In drawing order.
        gland_box: (G, 4) x0, y0, x1, y1 of each, with room for its cells.
        xy: Centres (N, 2) of the loose cells.
        sprite: Sprite of each (N,).
    """

    glands: list[Gland]
    gland_box: npt.NDArray[np.int32]
    xy: npt.NDArray[np.int32]
    sprite: npt.NDArray[np.int32]


def _lattice(
    rng: np.random.Generator, size_px: int, angle: float, step_x: float, step_y: float, jitter: float
) -> Points:
    """Points of a jittered hexagonal lattice turned by ``angle`` that cover the square slide."""
    nx, ny = int(size_px * 1.5 / step_x) + 2, int(size_px * 1.5 / step_y) + 2
    i, j = np.meshgrid(np.arange(nx) - nx / 2, np.arange(ny) - ny / 2)
    p = np.stack([(i + 0.5 * (np.arange(ny)[:, None] % 2)) * step_x, j * step_y], -1).reshape(-1, 2)
    p = p + rng.uniform(-jitter, jitter, p.shape) * (step_x, step_y)
    c, s = np.cos(angle), np.sin(angle)
    p = p @ np.array([[c, s], [-s, c]]) + size_px / 2
    inside = ((p > 0) & (p < size_px)).all(1)
    return np.asarray(p[inside])


def plan_layout(rng: np.random.Generator, anatomy: Anatomy, bank: SpriteBank, *, grade: float) -> Layout:
    """Place glands, vessels and loose cells.

    Args:
        rng: Source of randomness.
        anatomy: The slide's maps.
        bank: Cells to choose from.
        grade: 0 to 1, how anaplastic the lesion is.
    """
    glands = _normal(rng, anatomy, bank) + _lesional(rng, anatomy, bank, grade)
    owner = _owners(glands, anatomy.size_px)
    _drop_covered(glands, owner)
    vessels = _vessels(rng, anatomy, bank, owner > 0)
    occupied = (owner > 0) | (_owners(vessels, anatomy.size_px) > 0)
    glands += vessels
    xy, sprite = _loose_cells(rng, anatomy, bank, occupied, grade)
    boxes = [(*g.outline.min(0) - 24, *g.outline.max(0) + 24) for g in glands]
    box = np.asarray(boxes, np.float64).reshape(-1, 4).round().astype(np.int32)
    return Layout(glands, box, xy, sprite)


def _normal(rng: np.random.Generator, anatomy: Anatomy, bank: SpriteBank) -> list[Gland]:
    shape = anatomy.kind.shape
    goblet_field = smooth_field(rng, shape, 500 / GRID_PX, octaves=2)
    active = smooth_field(rng, shape, 600 / GRID_PX, octaves=2)
    out: list[Gland] = []
    for f, axis in enumerate(anatomy.axis):
        long_cut = float(np.clip(rng.lognormal(0.22, 0.25), 1.0, 2.3))
        wide = rng.uniform(47, 58)
        angle = axis + np.pi / 2 + rng.uniform(-0.25, 0.25)
        points = _lattice(rng, anatomy.size_px, angle, 2.16 * wide * long_cut, 1.88 * wide, 0.11)
        g, a = sample(goblet_field, points, GRID_PX), sample(active, points, GRID_PX)
        good = (
            (sample(anatomy.fragment, points, GRID_PX) == f)
            & (sample(anatomy.kind, points, GRID_PX) == LAMINA)
            & (sample(anatomy.inside, points, GRID_PX) > 0.72 * wide)
            & (sample(anatomy.lesion, points, GRID_PX) < -25)
            & (sample(anatomy.lymph, points, GRID_PX) < 0.6)
            & (rng.random(len(points)) < 0.96)
        )
        for p, gob, act in zip(points[good], g[good], a[good], strict=True):
            rows = 1 + int(act > 0.35) + int(act > 0.95)
            out.append(
                crypt(
                    rng, bank, p, wide * rng.uniform(0.82, 1.08), long_cut * rng.uniform(0.85, 1.1),
                    angle + rng.normal(0, 0.12),
                    goblets=float(np.clip(0.62 + 0.3 * gob, 0.1, 0.95)) * (1.0, 0.35, 0.12)[rows - 1], rows=rows,
                )
            )  # fmt: skip
    return out


def _lesional(rng: np.random.Generator, anatomy: Anatomy, bank: SpriteBank, grade: float) -> list[Gland]:
    out: list[Gland] = []
    # each lesion has its own tint, either side of the normal glands': colour does not give it away
    tint_h, tint_e = rng.normal(0.03, 0.05), rng.normal(-0.004, 0.04)
    openness, dark = float(rng.uniform(0.05, 0.72)), float(rng.beta(0.5, 1.7))
    shape = anatomy.kind.shape
    # and within it places with fewer glands in more stroma, darker or paler ones
    sparse = smooth_field(rng, shape, 330 / GRID_PX)
    uneven_h, uneven_e = (smooth_field(rng, shape, 300 / GRID_PX) for _ in range(2))
    for f, axis in enumerate(anatomy.axis):
        points = _lattice(rng, anatomy.size_px, axis + rng.uniform(-0.5, 0.5), 104, 90, 0.3)
        points = points[rng.permutation(len(points))]
        kind = sample(anatomy.kind, points, GRID_PX)
        good = (
            (sample(anatomy.fragment, points, GRID_PX) == f)
            & (sample(anatomy.inside, points, GRID_PX) > 26)
            & (sample(anatomy.lesion, points, GRID_PX) > 0)
            & (kind != NECROSIS)
        )
        thin = sample(sparse, points, GRID_PX)
        solid = (kind == LAMINA) & (thin < 0.75)
        keep = good & (rng.random(len(points)) < np.where(solid, 0.96, np.where(kind == MUCIN, 0.3, 0.62)))
        dh, de = 0.04 * sample(uneven_h, points, GRID_PX), 0.028 * sample(uneven_e, points, GRID_PX)
        tilt = sample(anatomy.fibre_angle, points, GRID_PX)
        for p, s, t, h, e in zip(points[keep], solid[keep], tilt[keep], dh[keep], de[keep], strict=True):
            wide = float(np.clip(rng.lognormal(np.log(38 if s else 26), 0.36), 13, 100))
            level = 1 + int(rng.random() < 2 * grade) + int(rng.random() < 2 * grade - 1)
            angle = t + rng.normal(0, 0.5)
            long = float(rng.uniform(1.0, 1.8))
            tint = float(np.clip(tint_h + h, -0.06, 0.16)), float(np.clip(tint_e + e, -0.08, 0.1))
            some = float(np.clip(dark + rng.normal(0, 0.15), 0, 1))
            out.append(atypical(rng, bank, p, wide, long, angle, grade=level, tint=tint, openness=openness, dark=some))
    out.sort(key=lambda g: -float(np.ptp(g.outline, axis=0).sum()))  # small ones on top
    return out


def _vessels(
    rng: np.random.Generator, anatomy: Anatomy, bank: SpriteBank, occupied: npt.NDArray[np.bool_]
) -> list[Gland]:
    points = _lattice(rng, anatomy.size_px, 0.0, 130, 130, 0.45)
    kind, inside = sample(anatomy.kind, points, GRID_PX), sample(anatomy.inside, points, GRID_PX)
    chance = np.choose(kind.astype(int), [0.30, 0.20, 0.10, 0.08, 0.0, 0.0])
    use = (inside > 25) & (rng.random(len(points)) < chance)
    tilt = sample(anatomy.fibre_angle, points, GRID_PX)
    out: list[Gland] = []
    for p, k, t in zip(points[use], kind[use], tilt[use], strict=True):
        wide = float(np.clip(rng.lognormal(np.log(9 if k == LAMINA else 13), 0.5), 6, 60))
        found = vessel(rng, bank, p, wide, float(rng.uniform(1.0, 2.8)), t + rng.normal(0, 0.4))
        if not _at(occupied, found.outline).any():
            out.append(found)
    return out


def _owners(glands: list[Gland], size_px: int) -> npt.NDArray[np.int32]:
    """Which gland (from 1) is on top, one px per ``_SCALE`` level-0 px; 0 where none is."""
    import cv2

    owner = np.zeros((size_px // _SCALE + 1,) * 2, np.int32)
    for i, gland in enumerate(glands, start=1):
        contour = np.rint(gland.outline * (16 / _SCALE)).astype(np.int32)
        cv2.fillPoly(owner, [contour], i, shift=4)
        cv2.polylines(owner, [contour], True, i, 2, shift=4)
    return owner


def _at(owner: npt.NDArray[Any], xy: npt.NDArray[Any]) -> npt.NDArray[Any]:
    ij = np.clip((xy / _SCALE).astype(int), 0, len(owner) - 1)
    return np.asarray(owner[ij[:, 1], ij[:, 0]])


def _drop_covered(glands: list[Gland], owner: npt.NDArray[np.int32]) -> None:
    """Take away the cells of a gland that another gland lies on."""
    for i, gland in enumerate(glands, start=1):
        seen = _at(owner, gland.xy) == i
        gland.xy, gland.sprite = gland.xy[seen], gland.sprite[seen]


def _loose_cells(
    rng: np.random.Generator, anatomy: Anatomy, bank: SpriteBank, occupied: npt.NDArray[np.bool_], grade: float
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    step = 11.0
    n = int(anatomy.size_px / step)
    points = np.stack(np.meshgrid(np.arange(n), np.arange(n)), -1).reshape(-1, 2) * step + step / 2
    points = points[sample(anatomy.inside, points, GRID_PX) > 4]
    points = points + rng.uniform(-4.4, 4.4, points.shape)
    kind = sample(anatomy.kind, points, GRID_PX).astype(int)
    lymph = sample(anatomy.lymph, points, GRID_PX)
    lesion = sample(anatomy.lesion, points, GRID_PX) > 0
    bleeding = sample(anatomy.bleeding, points, GRID_PX)
    free = ~_at(occupied, points)

    density = np.array([_CELLS[k][0] for k in range(len(_CELLS))])[kind]
    density = np.maximum(density * np.exp(rng.normal(0, 0.15)), 0.80 * lymph)
    density = np.where(lesion & np.isin(kind, (COLLAGEN, MUSCLE)), density * 1.55, density)
    chosen = free & (rng.random(len(points)) < density)
    red = (
        free
        & ~chosen
        & (rng.random(len(points)) < (0.45 * bleeding + 0.013 * lesion) * np.isin(kind, (LAMINA, COLLAGEN)))
    )
    points_red = points[red]
    points, kind, lymph, lesion = points[chosen], kind[chosen], lymph[chosen], lesion[chosen]

    fibre = sample(anatomy.fibre_angle, points, GRID_PX)
    loose = kind == LAMINA
    angle = fibre + rng.normal(0, 1, len(points)) * np.where(loose, 0.6, np.where(lesion, 0.4, 0.16))
    names = sorted({name for _, share in _CELLS.values() for name in share})
    shares = np.array([[_CELLS[k][1].get(name, 0.0) for name in names] for k in range(len(_CELLS))])
    which = (rng.random(len(points))[:, None] > np.cumsum(shares[kind], 1)).sum(1).clip(0, len(names) - 1)
    which = np.where(rng.random(len(points)) < lymph, names.index("lymphocyte"), which)
    level = 1 + int(grade > 0.33) + int(grade > 0.66)
    stray = lesion & (rng.random(len(points)) < 0.18)
    sprite = np.zeros(len(points), np.int32)
    for i, name in enumerate([*names, f"atypical-{level}"]):
        here = (which == i) & ~stray if i < len(names) else stray
        sprite[here] = bank.pick(name, angle[here], rng)
    red_sprites = bank.pick("red-cell", rng.uniform(0, 3.1, len(points_red)), rng)
    xy = np.rint(np.concatenate([points_red, points])).astype(np.int32)
    return xy, np.concatenate([red_sprites, sprite])
