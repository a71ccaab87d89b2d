"""What goes wrong between the knife and the scanner: folds, ink, dust, places out of focus."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from wsikit.testing.anatomy import Anatomy
from wsikit.testing.noise import tileable_noise
from wsikit.testing.stains import Pixels

KINDS = ("fold", "pen", "blur")
"""Artefacts that can be asked for, in the order of their bits in the stored truth (1, 2, 4)."""

_INKS = {"blue": (1.25, 0.75, 0.22), "green": (1.2, 0.42, 0.85), "black": (1.1, 1.1, 1.05), "red": (0.2, 1.2, 0.95)}


@dataclass(frozen=True)
class Artefacts:
    """Artefacts of one slide, in level-0 px.

    Args:
        folds: Each a polyline (P, 2) and the half width of the doubled tissue.
        pens: Each a polyline (P, 2), the half width of the stroke, and the name of the ink.
        blurs: Each (x, y, radius, sigma) of a round area out of focus.
        dust: (N, 4) x, y, radius and density of specks on the glass.
        rings: (N, 3) x, y and radius of dried drops under the cover slip.
    """

    folds: tuple[tuple[npt.NDArray[np.float64], float], ...] = ()
    pens: tuple[tuple[npt.NDArray[np.float64], float, str], ...] = ()
    blurs: tuple[tuple[float, float, float, float], ...] = ()
    dust: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 4)))
    rings: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 3)))

    def touch(self, x0: int, y0: int, width: int, height: int) -> bool:
        """Whether a fold, a stroke of ink or an area out of focus reaches into a rectangle."""
        box = x0, y0, width, height
        return (
            any(_near(line, half + 10, *box) for line, half in self.folds)
            or any(_near(line, half + 12, *box) for line, half, _ in self.pens)
            or any(x0 - r < x < x0 + width + r and y0 - r < y < y0 + height + r for x, y, r, _ in self.blurs)
        )

    def fold(self, stain: npt.NDArray[np.float32], x0: int, y0: int) -> None:
        """Double the stain along the folds, in place; ``stain`` is (3, h, w) at (x0, y0)."""
        import cv2

        height, width = stain.shape[1:]
        for line, half in self.folds:
            reach = half + 8
            if not _near(line, reach, x0, y0, width, height):
                continue
            core = np.zeros((height, width), np.uint8)
            points = np.rint((line - (x0, y0)) * 16).astype(np.int32)
            _taper(core, points, 2 * half)
            soft = cv2.GaussianBlur(core, (0, 0), 1.2).astype(np.float32) / 255
            wide = np.zeros_like(core)
            _taper(wide, points, 2 * half + 9)
            shadow = cv2.GaussianBlur(wide, (0, 0), 2.2).astype(np.float32) / 255
            # the tissue lies double, and the lower layer is not what one sees: shifted and smeared
            for dye in stain:
                under = cv2.GaussianBlur(dye, (0, 0), 3.0)
                dye *= 1 - 0.25 * (shadow - soft * shadow)
                dye += 1.05 * soft * under


def _taper(canvas: npt.NDArray[np.uint8], points: npt.NDArray[np.int32], width: float) -> None:
    """Draw a line that thins out towards both ends; points in 1/16 px."""
    import cv2

    share = np.minimum(1, 5 * np.minimum(np.linspace(0, 1, len(points)), np.linspace(1, 0, len(points))))
    for i in range(len(points) - 1):
        cv2.polylines(canvas, [points[i : i + 2]], False, 255, max(1, round(width * share[i])), cv2.LINE_AA, 4)


def _near(line: npt.NDArray[np.float64], reach: float, x0: int, y0: int, width: int, height: int) -> bool:
    low, high = line.min(0) - reach, line.max(0) + reach
    return bool(low[0] < x0 + width and high[0] > x0 and low[1] < y0 + height and high[1] > y0)


def _stroke(
    rng: np.random.Generator, start: npt.NDArray[np.float64], length: float, bend: float
) -> npt.NDArray[np.float64]:
    """A smooth wandering line of points about 6 px apart."""
    n = max(8, int(length / 6))
    turn = rng.uniform(-1, 1) * bend / n + np.interp(np.arange(n), np.linspace(0, n, 9), rng.normal(0, bend / n, 9))
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(turn)
    steps = 6 * np.stack([np.cos(heading), np.sin(heading)], 1)
    line = start + np.cumsum(steps, 0)
    return np.asarray(line - (line.mean(0) - start))


def plan_artefacts(rng: np.random.Generator, anatomy: Anatomy, kinds: tuple[str, ...] | None = None) -> Artefacts:
    """Draw which artefacts a slide has and where.

    Args:
        rng: Source of randomness.
        anatomy: Folds and blur lie on tissue, ink mostly beside it.
        kinds: Some of :data:`KINDS` to have for certain and no others; None leaves them to chance.
    """
    size = anatomy.size_px
    unknown = set(kinds or ()) - set(KINDS)
    if unknown:
        raise ValueError(f"artefacts {sorted(unknown)}: expected some of {KINDS}")
    chance = {"fold": 0.25, "pen": 0.18, "blur": 0.25}
    drawn = {name: bool(rng.random() < chance[name]) for name in KINDS}
    have = drawn if kinds is None else {name: name in kinds for name in KINDS}
    ys, xs = np.nonzero(anatomy.inside > 0)
    cell = size / len(anatomy.inside)

    def spot() -> npt.NDArray[np.float64]:
        if not len(ys):
            return rng.uniform(0.2, 0.8, 2) * size
        i = int(rng.integers(len(ys)))
        return (np.array([xs[i], ys[i]], float) + 0.5) * cell

    folds, pens, blurs = [], [], []
    if have["fold"]:
        for _ in range(int(rng.integers(1, 3))):
            folds.append((_stroke(rng, spot(), rng.uniform(250, 700), 0.8), float(rng.uniform(5, 13))))
    if have["pen"]:
        colour = str(rng.choice(list(_INKS)))
        for _ in range(int(rng.integers(1, 3))):
            start = rng.uniform(0.08, 0.92, 2) * size
            pens.append(
                (
                    _stroke(rng, start, rng.uniform(0.3, 0.9) * size, 2.5),
                    float(size * rng.uniform(0.008, 0.018)),
                    colour,
                )
            )
    if have["blur"]:
        for _ in range(int(rng.integers(1, 3))):
            x, y = spot()
            blurs.append((float(x), float(y), float(rng.uniform(0.07, 0.16) * size + 30), float(rng.uniform(1.6, 3.4))))
    specks = rng.poisson(size * size / 3.0e4)
    dust = np.stack(
        [*rng.uniform(0, size, (2, specks)), rng.lognormal(0.5, 0.6, specks), rng.uniform(0.015, 0.09, specks)], 1
    )
    big = rng.random(specks) < 0.01
    dust[big, 2:] *= (2.2, 4.0)
    drops = rng.poisson(size * size / 6e5)
    rings = np.stack([*rng.uniform(0, size, (2, drops)), rng.uniform(12, 60, drops)], 1)
    return Artefacts(tuple(folds), tuple(pens), tuple(blurs), dust, rings)


def glass(rgb: Pixels, artefacts: Artefacts, x0: int, y0: int) -> Pixels:
    """Lay dust and dried drops over a view (h, w, 3) at (x0, y0); in place."""
    import cv2

    height, width = rgb.shape[:2]
    d = artefacts.dust
    for x, y, radius, density in d[_within(d, 16, x0, y0, width, height)]:
        r = int(radius * 2) + 2
        cx, cy = int(x - x0), int(y - y0)
        box = np.s_[max(0, cy - r) : max(0, cy + r + 1), max(0, cx - r) : max(0, cx + r + 1)]
        part = rgb[box]
        if not part.size:
            continue
        yy, xx = np.ogrid[box[0].start : box[0].start + part.shape[0], box[1].start : box[1].start + part.shape[1]]
        shade = 10 ** (-density * np.exp(-((xx - x + x0) ** 2 + (yy - y + y0) ** 2) / (0.8 * radius**2)))
        part[:] = np.rint(part * shade[..., None])
    r_ = artefacts.rings
    for x, y, radius in r_[_within(r_, 70, x0, y0, width, height)]:
        ring = np.zeros((height, width), np.uint8)
        centre = (round((x - x0) * 16), round((y - y0) * 16))
        cv2.circle(ring, centre, round(radius * 16), 5, 2, cv2.LINE_AA, 4)
        cv2.subtract(rgb, cv2.merge([cv2.GaussianBlur(ring, (0, 0), 1.5)] * 3), dst=rgb)
    return rgb


def _within(
    items: npt.NDArray[np.float64], reach: float, x0: int, y0: int, width: int, height: int
) -> npt.NDArray[np.bool_]:
    x, y = items[:, 0], items[:, 1]
    return np.asarray((x > x0 - reach) & (x < x0 + width + reach) & (y > y0 - reach) & (y < y0 + height + reach))


def ink(rgb: Pixels, artefacts: Artefacts, x0: int, y0: int) -> Pixels:
    """Draw the felt-tip strokes over a view (h, w, 3) at (x0, y0)."""
    import cv2

    height, width = rgb.shape[:2]
    for line, half, colour in artefacts.pens:
        if not _near(line, half + 10, x0, y0, width, height):
            continue
        core = np.zeros((height, width), np.uint8)
        points = np.rint((line - (x0, y0)) * 16).astype(np.int32)
        cv2.polylines(core, [points], False, 255, max(1, round(2 * half)), cv2.LINE_AA, 4)
        edge = np.zeros_like(core)
        cv2.polylines(edge, [points], False, 255, max(1, round(2 * half - 10)), cv2.LINE_AA, 4)
        cover = cv2.GaussianBlur(core, (0, 0), 1.6).astype(np.float32) / 255
        body = cv2.GaussianBlur(edge, (0, 0), 4).astype(np.float32) / 255
        streak = 1 + 0.18 * _streaks()[np.ix_((np.arange(height) + y0) % 512, (np.arange(width) + x0) % 512)]
        density = cover * (1.0 - 0.35 * body) * streak  # ink gathers at the rim of a stroke
        rgb = np.clip(rgb * np.power(10.0, -density[..., None] * np.asarray(_INKS[colour], np.float32)), 0, 255).astype(
            np.uint8
        )
    return rgb


@lru_cache(maxsize=1)
def _streaks() -> npt.NDArray[np.float32]:
    return tileable_noise(np.random.default_rng(0x1A4C), 512, wavelength_px=40, stretch=2, sharpness=0.7)


def blur_patches(rgb: Pixels, artefacts: Artefacts, x0: int, y0: int) -> Pixels:
    """Blur the areas out of focus in a view (h, w, 3) at (x0, y0)."""
    import cv2

    height, width = rgb.shape[:2]
    y, x = np.ogrid[y0 : y0 + height, x0 : x0 + width]
    for cx, cy, radius, sigma in artefacts.blurs:
        distance = np.hypot(x - cx, y - cy)
        if distance.min() > radius:
            continue
        share = np.clip((radius - distance) / 60, 0, 1)[..., None].astype(np.float32)
        soft = cv2.GaussianBlur(rgb, (31, 31), sigma)
        rgb = np.rint(rgb * (1 - share) + soft * share).astype(np.uint8)
    return rgb
