"""Draw any rectangle of a planned slide: texture, glands, cells, then stain, light and scanner.

A rectangle comes out the same whatever rectangle it is drawn as part of, so slides are drawn
in blocks, in any order, by any number of processes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsikit.testing.anatomy import GRID_PX, Anatomy
from wsikit.testing.artefacts import Artefacts, blur_patches, glass, ink
from wsikit.testing.layout import Layout
from wsikit.testing.noise import Plane
from wsikit.testing.nuclei import stamp
from wsikit.testing.stains import Pixels, Site, colour_table, develop, scan
from wsikit.testing.textures import KINDS, SIZE_PX, cytoplasm_grain, ragged_edge, textures

BLOCK_PX = 512
"""Blocks are drawn one by one, with a margin for what reaches in from outside."""

_MARGIN_PX = 16
"""Covers the reach of the smoothing of glands and of the scanner's optics, so that blocks meet without a seam."""

_WIDE_MARGIN_PX = 48
"""Likewise where a fold, ink or an area out of focus is smoothed as well."""


@dataclass(frozen=True)
class Scene:
    """All that decides the pixels of a slide."""

    anatomy: Anatomy
    layout: Layout
    artefacts: Artefacts
    site: Site
    strength: tuple[float, float]
    contrast: tuple[float, float]
    offset: tuple[int, int]


def _upsample(coarse: npt.NDArray[np.float32], x0: int, y0: int, width: int, height: int) -> npt.NDArray[np.float32]:
    """Bilinear values of a coarse map (rows, columns[, C]) at every px of a rectangle."""
    import cv2

    scale = 1 / GRID_PX
    # cell centres lie half a cell in
    matrix = np.array([[scale, 0, (x0 + 0.5) * scale - 0.5], [0, scale, (y0 + 0.5) * scale - 0.5]])
    cx, cy = int(x0 * scale) - 2, int(y0 * scale) - 2
    lx, ly = max(cx, 0), max(cy, 0)
    part = coarse[ly : cy + int(height * scale) + 6, lx : cx + int(width * scale) + 6]
    matrix[:, 2] -= (lx, ly)
    return np.asarray(
        cv2.warpAffine(
            np.ascontiguousarray(part), matrix, (width, height),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE,
        ),
        np.float32,
    )  # fmt: skip


def _tiled(texture: npt.NDArray[np.float32], x0: int, y0: int, width: int, height: int) -> npt.NDArray[np.float32]:
    rows, cols = (np.arange(height) + y0) % len(texture), (np.arange(width) + x0) % len(texture)
    return np.asarray(texture[rows[:, None], cols[None]], np.float32)


def _matrix(scene: Scene, x0: int, y0: int, width: int, height: int) -> npt.NDArray[np.float32]:
    """Stain (3, h, w) of what lies between glands and cells."""
    import cv2

    a = scene.anatomy
    uv = _upsample(a.uv, x0, y0, width, height)
    u, v = uv[..., 0] + scene.offset[0], uv[..., 1] + scene.offset[1]
    u -= np.float32(np.floor(u.min() / SIZE_PX) * SIZE_PX)
    v -= np.float32(np.floor(v.min() / SIZE_PX) * SIZE_PX)
    near = a.kind[
        max(0, y0 // GRID_PX - 1) : (y0 + height) // GRID_PX + 2,
        max(0, x0 // GRID_PX - 1) : (x0 + width) // GRID_PX + 2,
    ]
    present = np.unique(near)
    at = cv2.convertMaps(u, v, cv2.CV_16SC2)  # fixed point: half the time per texture
    stain = np.zeros((3, height, width), np.float32)
    total = np.zeros((height, width), np.float32)
    wobble = 0.04 * _tiled(ragged_edge(), x0, y0, width, height)
    for k in present:
        texture = cv2.remap(textures()[k], at[0], at[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
        if len(present) == 1:
            stain[0], stain[1] = texture[..., 0], texture[..., 1]
            return stain
        weight = _upsample((a.kind == k).astype(np.float32), x0, y0, width, height)
        # the small share keeps the sum above 0 where three types meet
        weight = np.clip((weight - 0.5 + wobble) * 5 + 0.5, 0, 1) * (weight > 0) + 1e-4 * weight
        stain[0] += texture[..., 0] * weight
        stain[1] += texture[..., 1] * weight
        total += weight
    stain[:2] /= total
    return stain


def _draw_glands(scene: Scene, stain: npt.NDArray[np.float32], x0: int, y0: int) -> None:
    import cv2

    height, width = stain.shape[1:]
    box = scene.layout.gland_box
    near = np.nonzero((box[:, 0] < x0 + width) & (box[:, 2] > x0) & (box[:, 1] < y0 + height) & (box[:, 3] > y0))[0]
    if not len(near):
        return
    # haematoxylin, eosin, coverage; densities in steps of 1/250
    canvas = np.zeros((height, width, 3), np.uint8)
    for i in near:
        gland = scene.layout.glands[i]
        outline = np.rint((gland.outline - (x0, y0)) * 16).astype(np.int32)
        cv2.fillPoly(canvas, [outline], (gland.tone[0] * 250, gland.tone[1] * 250, 250), cv2.LINE_AA, 4)
        for lumen in gland.lumina:
            hole = np.rint((lumen - (x0, y0)) * 16).astype(np.int32)
            tone = (gland.lumen_tone[0] * 250, gland.lumen_tone[1] * 250, 250)
            cv2.fillPoly(canvas, [hole], tone, cv2.LINE_AA, 4)
            brush = ((gland.tone[0] + 0.03) * 250, (gland.tone[1] + 0.09) * 250, 250)
            cv2.polylines(canvas, [hole], True, brush, 2, cv2.LINE_AA, 4)
        rim = (gland.rim[0] * 250, gland.rim[1] * 250, 235)
        cv2.polylines(canvas, [outline], True, rim, 2, cv2.LINE_AA, 4)
        start, count = gland.cleft
        if count:
            arc = np.roll(outline, -start, axis=0)[:count]
            cv2.polylines(canvas, [arc], False, (3, 7, 240), 3, cv2.LINE_AA, 4)
            cv2.polylines(canvas, [arc[count // 4 : -(count // 4)]], False, (3, 7, 240), 5, cv2.LINE_AA, 4)
    tone_h, tone_e, cover = cv2.split(cv2.GaussianBlur(canvas, (0, 0), 0.8))
    grain = _tiled(cytoplasm_grain(), x0, y0, width, height) * np.float32(1 / 250)
    stain[:2] *= 1 - cover * np.float32(1 / 250)
    stain[0] += tone_h * grain
    stain[1] += tone_e * grain
    xy = [scene.layout.glands[i].xy for i in near]
    sprite = [scene.layout.glands[i].sprite for i in near]
    _stamp(stain, np.concatenate(xy), np.concatenate(sprite), x0, y0)


def _stamp(
    stain: npt.NDArray[np.float32], xy: npt.NDArray[np.int32], sprite: npt.NDArray[np.int32], x0: int, y0: int
) -> None:
    height, width = stain.shape[1:]
    x, y = xy[:, 0] - x0, xy[:, 1] - y0
    near = (x > -24) & (x < width + 24) & (y > -24) & (y < height + 24)
    stamp(stain, np.stack([x[near], y[near]], 1), sprite[near])


def _tissue(scene: Scene, x0: int, y0: int, width: int, height: int) -> npt.NDArray[np.float32]:
    """Stain (3, h, w) of the tissue in a rectangle, zero on glass."""
    a = scene.anatomy
    stain = _matrix(scene, x0, y0, width, height)
    _draw_glands(scene, stain, x0, y0)
    _stamp(stain, scene.layout.xy, scene.layout.sprite, x0, y0)
    inside = _upsample(a.inside, x0, y0, width, height)
    if inside.min() < 40:
        edge: Plane = inside + _tiled(ragged_edge(), x0, y0, width, height)
        stain *= np.clip(edge / 2.2, 0, 1)
    thick = _upsample(a.thickness, x0, y0, width, height)
    stain[0] *= thick[..., 0]
    stain[1] *= thick[..., 1]
    return stain


def render(scene: Scene, x0: int, y0: int, width: int, height: int) -> Pixels:
    """RGB (height, width, 3) of a rectangle in level-0 px, drawn block by block."""
    out = np.empty((height, width, 3), np.uint8)
    for by in range(y0, y0 + height, BLOCK_PX):
        for bx in range(x0, x0 + width, BLOCK_PX):
            h, w = min(BLOCK_PX, y0 + height - by), min(BLOCK_PX, x0 + width - bx)
            out[by - y0 : by - y0 + h, bx - x0 : bx - x0 + w] = _block(scene, bx, by, w, h)
    return out


def _block(scene: Scene, x0: int, y0: int, width: int, height: int) -> Pixels:
    m = _WIDE_MARGIN_PX
    if not scene.artefacts.touch(x0 - m, y0 - m, width + 2 * m, height + 2 * m):
        m = _MARGIN_PX
    ax, ay, w, h = x0 - m, y0 - m, width + 2 * m, height + 2 * m
    a = scene.anatomy
    coarse = a.inside[
        max(0, ay // GRID_PX - 2) : (ay + h) // GRID_PX + 3, max(0, ax // GRID_PX - 2) : (ax + w) // GRID_PX + 3
    ]
    table = colour_table(scene.site, scene.strength, scene.contrast)
    if coarse.max() > -30:
        stain = _tissue(scene, ax, ay, w, h)
        scene.artefacts.fold(stain, ax, ay)
        rgb = develop(stain, table)
    else:
        rgb = np.full((h, w, 3), scene.site.white, np.uint8)
    rgb = glass(rgb, scene.artefacts, ax, ay)
    rgb = ink(rgb, scene.artefacts, ax, ay)
    rgb = blur_patches(rgb, scene.artefacts, ax, ay)
    return scan(rgb, scene.site, (ax, ay))[m : m + height, m : m + width]


def kinds_present() -> tuple[str, ...]:
    """Names of the tissue types in the order of ``Anatomy.kind``."""
    return KINDS
