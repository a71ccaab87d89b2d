"""The plan of a slide: where tissue lies, of what type, where the lesion is, which way the fibres run.

Everything here is on a coarse grid of :data:`GRID_PX` level-0 px; the renderer interpolates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsikit.testing.noise import Plane, smooth_field
from wsikit.testing.textures import KINDS

GRID_PX = 16
"""Level-0 px per cell of every map of the plan, and of the truth that is stored."""

LAMINA, COLLAGEN, MUSCLE, FAT, MUCIN, NECROSIS = range(len(KINDS))


@dataclass(frozen=True)
class Anatomy:
    """Coarse maps of one slide, each (rows, columns) with a cell of ``GRID_PX`` px.

    Args:
        size_px: Side of the square slide.
        inside: About how many px a place lies inside the outline of tissue; negative on glass.
        kind: Index into ``textures.KINDS`` where there is tissue.
        lesion: About how many px inside the lesion; negative outside.
        lymph: How dense the lymphocytes are, 0 to 1.
        bleeding: How dense the loose red cells are, 0 to 1.
        uv: (rows, columns, 2) texture coordinates in px; fibres run along constant v.
        thickness: (rows, columns, 2) factors on haematoxylin and eosin: section and staining are uneven.
        fragment: Number of the fragment nearest by.
        axis: Direction in radians along each fragment.
    """

    size_px: int
    inside: Plane
    kind: npt.NDArray[np.uint8]
    lesion: Plane
    lymph: Plane
    bleeding: Plane
    uv: npt.NDArray[np.float32]
    thickness: npt.NDArray[np.float32]
    fragment: npt.NDArray[np.uint8]
    axis: npt.NDArray[np.float64]

    @property
    def tissue(self) -> npt.NDArray[np.bool_]:
        """Where there is tissue."""
        return np.asarray(self.inside > 0)

    @property
    def fibre_angle(self) -> Plane:
        """Direction of the fibres in radians, x axis first, y downwards."""
        dv_dy, dv_dx = np.gradient(self.uv[..., 1])
        return np.asarray(np.arctan2(-dv_dx, dv_dy), np.float32)


def _signed_px(mask: npt.NDArray[np.bool_]) -> Plane:
    import cv2

    if mask.all() or not mask.any():
        return np.full(mask.shape, 1e4 if mask.any() else -1e4, np.float32)
    inner = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)
    outer = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5)
    # half a cell: the outline runs between cells
    signed = np.where(mask, inner - 0.5, 0.5 - outer).astype(np.float32) * GRID_PX
    smooth = np.asarray(cv2.GaussianBlur(signed, (0, 0), 0.7), np.float32)
    # smoothing eats the small and fills the hollow: move the outline so that the area stays
    ranked = np.sort(smooth.ravel())[::-1]
    area = int(mask.sum())
    return np.asarray(smooth - 0.5 * (ranked[area - 1] + ranked[area]), np.float32)


def _threshold_for(field: Plane, cells: int) -> float:
    """The value above which ``cells`` cells of the field lie."""
    cells = min(max(cells, 0), field.size)
    if cells == 0:
        return float("inf")
    return float(np.partition(field.ravel(), field.size - cells)[field.size - cells])


@dataclass(frozen=True)
class _Ribbons:
    distance: Plane  # px to the nearest centre line
    side: Plane  # px across it, with a sign
    along: Plane  # px along it
    width: Plane  # half width of that ribbon
    fragment: npt.NDArray[np.uint8]
    axis: npt.NDArray[np.float64]


def _ribbons(rng: np.random.Generator, size_px: int, cells: int, tissue_fraction: float) -> _Ribbons:
    """Curved strips of tissue: a few small ones on a biopsy slide, one or two long ones on a large slide."""
    small = size_px <= 5000
    count = int(rng.integers(1, 4)) if small else int(rng.integers(1, 3))
    shape = (cells, cells)
    y, x = ((np.mgrid[0:cells, 0:cells] + 0.5) * GRID_PX).astype(np.float32)
    side0, along0 = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    far, one = np.full(shape, 1e9, np.float32), np.ones(shape, np.float32)
    best = _Ribbons(far, side0, along0, one, np.zeros(shape, np.uint8), np.zeros(count))
    tilt = rng.uniform(0, np.pi)
    for i in range(count):
        offset = (i - (count - 1) / 2) * size_px / max(count, 2) * rng.uniform(0.75, 1.0)
        angle = tilt + rng.uniform(-0.3, 0.3)
        along = np.array([np.cos(angle), np.sin(angle)])
        across = np.array([-np.sin(tilt), np.cos(tilt)])
        middle = size_px / 2 + across * offset + along * rng.uniform(-0.08, 0.08) * size_px
        length = size_px * (rng.uniform(0.16, 0.36) if small else rng.uniform(0.30, 0.38))
        half = size_px * rng.uniform(0.13, 0.2) / (count**0.5)
        if not small:  # as wide as its share of the tissue asks for, so that the layers fit
            half = max(600.0, tissue_fraction * size_px**2 / count / (4.4 * length))
        bend = rng.uniform(-0.35, 0.35) * length
        t = np.linspace(-1, 1, 25)
        line = middle + t[:, None] * along * length + (t[:, None] ** 2 - 0.4) * np.array([-along[1], along[0]]) * bend
        start = 0.0
        for j in range(len(line) - 1):
            p, d = line[j], line[j + 1] - line[j]
            step = float(np.hypot(*d))
            s = ((x - p[0]) * d[0] + (y - p[1]) * d[1]) / step**2
            side = (d[0] * (y - p[1]) - d[1] * (x - p[0])) / step
            held = np.clip(s, 0, 1)
            distance = np.hypot(side, (s - held) * step).astype(np.float32)
            nearer = distance / half < best.distance / best.width
            best.distance[nearer], best.side[nearer] = distance[nearer], side[nearer]
            # beyond its ends the strip runs straight on
            on = np.clip(s, 0 if j else None, 1 if j < len(line) - 2 else None)
            best.along[nearer] = (start + on * step)[nearer]
            best.width[nearer], best.fragment[nearer] = half, i
            start += step
        best.axis[i] = angle
    return best


def plan_anatomy(rng: np.random.Generator, size_px: int, *, tissue_fraction: float, lesion_fraction: float) -> Anatomy:
    """Draw the plan of a slide.

    Args:
        rng: Source of randomness.
        size_px: Side of the square slide at level 0.
        tissue_fraction: Share of the slide that is tissue.
        lesion_fraction: Share of the tissue that is lesion; hit to one grid cell.
    """
    import cv2

    cells = -(-size_px // GRID_PX)
    shape = (cells, cells)

    def field(wavelength_px: float, octaves: int = 1) -> Plane:
        return smooth_field(rng, shape, wavelength_px / GRID_PX, octaves=octaves)

    band = _ribbons(rng, size_px, cells, tissue_fraction)
    edge = (np.minimum(np.arange(cells), np.arange(cells)[::-1]) * GRID_PX).astype(np.float32)
    border = np.minimum(edge[:, None], edge[None])
    rough = np.minimum(0.16 * band.width, 110) * field(800, 2) + 26 * field(190, 2)
    if size_px > 5000:  # a section's outline swings wide, too
        rough = rough + 0.10 * band.width * field(3500)
    outline = 1 - (band.distance - rough) / band.width
    tear = np.maximum(np.abs(field(900, 2)) - 0.015, -0.015) * 14  # thin cracks through the tissue
    outline -= 0.9 * (np.clip(260 - border, 0, None) / 220) ** 2  # tissue keeps clear of the border, and bends off it
    outline = np.where(border < 24, -9.0, np.minimum(outline, tear + 0.35)).astype(np.float32)
    mask = outline >= _threshold_for(np.asarray(outline, np.float32), round(tissue_fraction * cells * cells))
    inside = _signed_px(mask)

    # layers from the lumen outwards: mucosa, a thin muscle, submucosa with fat, the muscle coat
    depth = band.width + band.side + 170 * field(600, 2)
    mucosa = rng.uniform(650, 1000) if size_px <= 5000 else rng.uniform(0.2, 0.28) * 2 * band.width
    kind = np.full(shape, LAMINA, np.uint8)
    kind[depth > mucosa] = MUSCLE
    kind[depth > mucosa + 60] = COLLAGEN
    kind[(depth > mucosa + 130) & (field(520, 2) > 0.75)] = FAT
    submucosa = np.maximum(780, 0.6 * band.width)
    kind[depth > mucosa + submucosa + 200 * field(900)] = MUSCLE
    kind[depth > np.maximum(1.9 * band.width, mucosa + submucosa + 900) + 130 * field(700)] = FAT
    patch = field(330, 2)
    kind[(patch > 2.0) & (kind == LAMINA)] = MUCIN
    kind[(patch < -2.1) & (kind == LAMINA)] = NECROSIS
    kind[(field(420, 2) > 1.15) & (kind == LAMINA)] = COLLAGEN

    lesion = _plant(rng, mask & (kind == LAMINA), inside, lesion_fraction, field)

    disorder = np.clip(lesion / 100 + 0.5, 0, 1)
    u = band.along + 60 * field(420)
    v = band.side + (60 + 30 * disorder) * field(450) + (16 + 22 * disorder) * field(170)
    thick = 0.08 * field(1100) + 0.055 * field(260)
    lymph = np.clip((field(520, 2) - 1.75) * 3, 0, 1) * (kind != FAT) * (kind != MUSCLE)
    return Anatomy(
        size_px=size_px,
        inside=inside,
        kind=kind,
        lesion=lesion,
        lymph=np.asarray(cv2.GaussianBlur(lymph.astype(np.float32), (0, 0), 0.8), np.float32),
        bleeding=np.asarray(np.clip((field(300, 2) - 1.5) * 1.5, 0, 1), np.float32),
        uv=np.stack([u, v], -1).astype(np.float32),
        thickness=np.exp(np.stack([thick + 0.09 * field(700), thick + 0.09 * field(700)], -1)).astype(np.float32),
        fragment=band.fragment,
        axis=band.axis,
    )


def _plant(
    rng: np.random.Generator,
    seeds: npt.NDArray[np.bool_],
    inside: Plane,
    fraction: float,
    field: object,
) -> Plane:
    """Grow the lesion from one to three foci until it has its share of the tissue; px inside it."""
    assert callable(field)
    foci = int(rng.choice([1, 2, 3], p=[0.55, 0.3, 0.15]))
    near = 130 * field(420, 3)  # always drawn: the rest of the plan must not depend on the extent
    tissue = inside > 0
    # it spreads along the surface, so its tiles hold as much glass as others do
    near -= 0.9 * np.minimum(inside, 300)
    seeds = seeds & (inside < 160) if (seeds & (inside < 160)).any() else seeds
    ys, xs = np.nonzero(seeds if seeds.any() else tissue)
    at = rng.random(foci)
    wanted = round(fraction * int(tissue.sum()))
    if wanted == 0 or not len(ys):
        return np.full(tissue.shape, -1e4, np.float32)
    y, x = np.mgrid[0 : tissue.shape[0], 0 : tissue.shape[1]]
    reach = np.full(tissue.shape, -1e9, np.float32)
    for k, t in enumerate(at):
        i = int(t * len(ys))
        reach = np.maximum(reach, -np.hypot(y - ys[i], x - xs[i]) * GRID_PX - 150 * k)
    grow = np.where(tissue, reach + near, -1e9).astype(np.float32)
    mask = grow >= _threshold_for(grow, wanted)
    return _signed_px(mask & tissue)
