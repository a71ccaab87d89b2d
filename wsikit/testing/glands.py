"""Glands and vessels as outlines with the cells that line them.

A normal crypt has one row of nuclei at its base, all pointing to the lumen, and goblet cells
above them. An atypical gland is irregular, often cribriform, and its large uneven nuclei lie
at every depth and angle. A vessel has flat cells along a wall and red cells within.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from wsikit.testing.nuclei import SpriteBank

Points = npt.NDArray[np.float64]


LESION_RIM = (0.06, 0.285)
"""Haematoxylin and eosin of the outline of the lesion's glands, and of no others."""


@dataclass
class Gland:
    """One closed structure, in level-0 px.

    Args:
        outline: (P, 2) x, y.
        lumina: Outlines of its openings.
        tone: Haematoxylin and eosin density of its cytoplasm.
        lumen_tone: Likewise of what fills the openings.
        rim: Likewise of the membrane around it.
        cleft: First point and number of points of the outline along which it has shrunk from the stroma.
        xy: Centres (N, 2) of its cells.
        sprite: Sprite of each cell (N,).
    """

    outline: Points
    lumina: list[Points]
    tone: tuple[float, float]
    lumen_tone: tuple[float, float]
    rim: tuple[float, float] = (0.06, 0.30)
    cleft: tuple[int, int] = (0, 0)
    xy: npt.NDArray[np.int32] = field(default_factory=lambda: np.zeros((0, 2), np.int32))
    sprite: npt.NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))

    def _add(self, xy: Points, sprite: npt.NDArray[np.int32]) -> None:
        self.xy = np.concatenate([self.xy, np.rint(xy).astype(np.int32)])
        self.sprite = np.concatenate([self.sprite, sprite])


def blob(
    rng: np.random.Generator, centre: Points, long_px: float, wide_px: float, angle: float, irregular: float
) -> Points:
    """A closed smooth outline (48, 2): an ellipse bent by its first harmonics."""
    phi = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    k = np.arange(2, 6)
    size = irregular * rng.uniform(-1, 1, 4) / k**0.6
    r = 1 + (size[:, None] * np.cos(k[:, None] * phi + rng.uniform(0, 6.3, 4)[:, None])).sum(0)
    x, y = long_px * r * np.cos(phi), wide_px * r * np.sin(phi)
    c, s = np.cos(angle), np.sin(angle)
    return np.stack([centre[0] + c * x - s * y, centre[1] + s * x + c * y], 1)


def _along(outline: Points, spacing: float, depth: float, rng: np.random.Generator) -> tuple[Points, Points]:
    """Points about ``spacing`` apart, ``depth`` px inside an outline, and the direction inwards in radians."""
    closed = np.concatenate([outline, outline[:1]])
    step = np.hypot(*np.diff(closed, axis=0).T)
    arc = np.concatenate([[0], np.cumsum(step)])
    n = max(3, int(arc[-1] / spacing))
    # at depth d the ring is shorter: fewer cells fit
    n = max(3, int(n * max(0.2, 1 - 2 * np.pi * depth / arc[-1])))
    at = (np.arange(n) + rng.uniform(-0.3, 0.3, n) + rng.uniform()) / n * arc[-1] % arc[-1]
    x, y = np.interp(at, arc, closed[:, 0]), np.interp(at, arc, closed[:, 1])
    ahead = (at + 2) % arc[-1]
    tx, ty = np.interp(ahead, arc, closed[:, 0]) - x, np.interp(ahead, arc, closed[:, 1]) - y
    inwards = np.arctan2(tx, -ty)  # outlines run clockwise as seen on screen
    return np.stack([x + depth * np.cos(inwards), y + depth * np.sin(inwards)], 1), inwards


def crypt(
    rng: np.random.Generator, bank: SpriteBank, centre: Points, wide_px: float, elongation: float, angle: float,
    *, goblets: float, rows: int,
) -> Gland:  # fmt: skip
    """A normal gland: ``goblets`` is the share of goblet cells, ``rows`` of nuclei 1 to 3 (3 = regenerating)."""
    long_px = wide_px * elongation
    outline = blob(rng, centre, long_px, wide_px, angle, 0.07)
    deep = min(wide_px * 0.9, rng.uniform(40, 50) + 3 * rows)
    shrink = (long_px - deep) / long_px, (wide_px - deep) / wide_px
    lumen = blob(rng, centre, long_px * shrink[0], wide_px * max(shrink[1], 0.1), angle, 0.22)
    dark = 0.07 * (rows - 1)
    gland = Gland(
        outline,
        [lumen],
        (float(rng.uniform(0.13, 0.21) + dark), float(rng.uniform(0.13, 0.19))),
        (0.0, 0.01) if rng.random() < 0.5 else (float(rng.uniform(0.0, 0.08)), float(rng.uniform(0.01, 0.08))),
        cleft=(int(rng.integers(0, 48)), int(rng.integers(6, 26)) if rng.random() < 0.16 else 0),
    )
    if goblets > 0.3:
        mid = 11 + (deep - 8) * 0.5
        xy, inwards = _along(outline, 11.5, mid, rng)
        use = rng.random(len(xy)) < goblets
        xy = xy + rng.normal(0, 1.5, xy.shape)
        gland._add(xy[use], bank.pick("goblet", inwards[use], rng))
    elif goblets > 0:
        xy, inwards = _along(outline, 15, deep * 0.62, rng)
        use = rng.random(len(xy)) < goblets
        gland._add(xy[use], bank.pick("goblet", inwards[use], rng))
    for row in range(rows):
        kind = "pencil" if rows > 1 else "columnar" if goblets < 0.6 else "basal"
        depth = (7.5 if kind == "basal" else 9.5) + 8.5 * row
        xy, inwards = _along(outline, 9.6 if kind == "basal" else 9.4, depth, rng)
        push = rng.normal(0, 1.3 if kind == "basal" else 2.4, len(xy))
        xy = xy + push[:, None] * np.stack([np.cos(inwards), np.sin(inwards)], 1)
        turn = np.pi / 2 if kind == "basal" else 0.0
        gland._add(xy, bank.pick(kind, inwards + turn + rng.normal(0, 0.13, len(xy)), rng))
    xy, inwards = _along(outline, 90, 16, rng)
    gland._add(xy, bank.pick("lymphocyte", inwards, rng))
    return gland


def atypical(
    rng: np.random.Generator, bank: SpriteBank, centre: Points, wide_px: float, elongation: float, angle: float,
    *, grade: int, tint: tuple[float, float] = (0.0, 0.0), openness: float = 0.6, dark: float = 0.2,
) -> Gland:  # fmt: skip
    """A gland of the lesion, grade 1 to 3: with the grade go pleomorphism, disorder and loss of lumina.

    ``tint`` is added to the densities of its cytoplasm; ``openness`` is how often and how wide
    lumina and the clefts around it gape; ``dark`` is the share of hyperchromatic nuclei.
    """
    import cv2

    long_px = wide_px * elongation
    outline = blob(rng, centre, long_px, wide_px, angle, 0.13 + 0.05 * grade)
    lumina: list[Points] = []
    if wide_px > 52 and rng.random() < 0.35 + 0.5 * openness:  # cribriform
        for _ in range(int(rng.integers(2, 4 + int(wide_px / 25)))):
            r, a = np.sqrt(rng.uniform(0, 0.38)), rng.uniform(0, 6.3)
            at = centre + r * np.array([long_px * np.cos(a), wide_px * np.sin(a)]) @ _turn(angle)
            size = rng.uniform(6, 11 + 9 * openness)
            lumina.append(blob(rng, at, size * rng.uniform(1, 1.5), size, rng.uniform(0, 3.2), 0.15))
    elif wide_px > 26 and rng.random() < 0.6 + 0.5 * openness - 0.12 * grade:
        share = rng.uniform(0.22, 0.36 + 0.3 * openness)
        lumina.append(blob(rng, centre, long_px * share, wide_px * share, angle, 0.35))
    filling = (float(rng.uniform(0.0, 0.12)), float(rng.uniform(0.01, 0.16)))
    if rng.random() < 0.16:  # dirty necrosis
        filling = (0.07, float(rng.uniform(0.28, 0.40)))
    elif rng.random() < openness:
        filling = (0.0, 0.01)
    elif rng.random() < 0.5:  # mucin
        filling = (float(rng.uniform(0.04, 0.11)), float(rng.uniform(0.02, 0.06)))
    gland = Gland(
        outline,
        lumina,
        (float(rng.uniform(0.07, 0.18)) + tint[0], float(rng.uniform(0.11, 0.19)) + tint[1]),
        filling,
        rim=LESION_RIM,
        cleft=(int(rng.integers(0, 48)), int(rng.integers(8, 34)) if rng.random() < 0.1 + 0.4 * openness else 0),
    )
    low = np.floor(outline.min(0)).astype(int) - 2
    extent = np.ceil(outline.max(0)).astype(int) - low + 3
    mask = np.zeros((extent[1], extent[0]), np.uint8)
    cv2.fillPoly(mask, [np.rint(outline - low).astype(np.int32)], 1)
    for lumen in lumina:
        cv2.fillPoly(mask, [np.rint(lumen - low).astype(np.int32)], 0)
    room = cv2.distanceTransform(mask, cv2.DIST_L2, 3)
    step = 14.3 + 1.8 * grade
    rows, cols = int(extent[1] / step) + 1, int(extent[0] / step) + 1
    grid = np.stack(np.meshgrid(np.arange(cols), np.arange(rows)), -1).reshape(-1, 2).astype(float)
    grid[:, 0] += 0.5 * (grid[:, 1] % 2)
    xy = grid * step + rng.uniform(-0.36, 0.36, grid.shape) * step
    ij = np.clip(xy.astype(int), 0, extent - 1)
    xy = xy[(room[ij[:, 1], ij[:, 0]] > 4.5) & (rng.random(len(xy)) < 0.95)] + low
    away = np.arctan2(xy[:, 1] - centre[1], xy[:, 0] - centre[0])
    angles = away + rng.normal(0, 0.4 + 0.5 * grade, len(xy))
    sprite = bank.pick(f"atypical-{grade}", angles, rng)
    hyper = rng.random(len(xy)) < dark
    sprite[hyper] = bank.pick("hyperchromatic", angles[hyper], rng)
    chance = rng.random(len(xy))
    for kind, low_, high in (
        ("mitosis", 0.0, 0.006 * grade), ("apoptotic", 0.03, 0.045), ("pencil", 0.1, 0.17)
    ):  # fmt: skip
        here = (chance >= low_) & (chance < high)
        sprite[here] = bank.pick(kind, angles[here], rng)
    mucin = chance > 1 - 0.20 / grade
    sprite[mucin] = bank.pick("goblet", angles[mucin], rng)
    order = np.argsort(~mucin, kind="stable")  # vacuoles lie under the nuclei
    gland._add(xy[order], sprite[order])
    return gland


def _turn(angle: float) -> Points:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, s], [-s, c]])


def vessel(
    rng: np.random.Generator, bank: SpriteBank, centre: Points, wide_px: float, elongation: float, angle: float
) -> Gland:
    """A capillary or, from about 25 px, a vessel with a wall; red cells within."""
    wall = 2.5 if wide_px < 22 else wide_px * rng.uniform(0.2, 0.4)
    long_px = wide_px * elongation
    outline = blob(rng, centre, long_px, wide_px, angle, 0.08)
    lumen = blob(rng, centre, long_px - wall, wide_px - wall, angle, 0.10)
    gland = Gland(outline, [lumen], (0.08, 0.24), (0.01, 0.02), rim=(0.05, 0.22))
    full = rng.random()
    step = 8.5
    n = int(max(long_px, wide_px) / step) + 1
    grid = np.stack(np.meshgrid(np.arange(-n, n + 1), np.arange(-n, n + 1)), -1).reshape(-1, 2) * step
    grid = grid + rng.uniform(-2.5, 2.5, grid.shape)
    room = (grid[:, 0] / max(long_px - wall - 4, 2)) ** 2 + (grid[:, 1] / max(wide_px - wall - 4, 2)) ** 2 < 1
    cells = centre + grid[room & (rng.random(len(grid)) < full)] @ _turn(angle)
    gland._add(cells, bank.pick("red-cell", rng.uniform(0, 3.1, len(cells)), rng))
    xy, inwards = _along(lumen, 22, -2.0, rng)
    gland._add(xy, bank.pick("endothelial", inwards + np.pi / 2, rng))
    if wall > 6:
        xy, inwards = _along(outline, 17, wall * 0.45, rng)
        gland._add(xy, bank.pick("muscle", inwards + np.pi / 2, rng))
    return gland
