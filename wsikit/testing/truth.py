"""What is known about a planted slide: where tissue, lesion and artefacts lie, for every tile."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.testing.anatomy import GRID_PX, Anatomy
from wsikit.testing.artefacts import KINDS, Artefacts

BITS = {"tissue": 1, "lesion": 2, **{name: 4 << i for i, name in enumerate(KINDS)}}
"""Bits of a pixel of ``truth/<slide_id>.png``, which has one pixel per 16 level-0 px."""


@dataclass(frozen=True)
class SlideTruth:
    """The truth about one planted slide.

    Args:
        slide_id: File name without ``.svs``.
        size_px: Side of the square slide at level 0.
        mpp: Micrometres per level-0 pixel.
        bits: (rows, columns) uint8 of :data:`BITS`, one per ``GRID_PX`` level-0 px.
    """

    slide_id: str
    size_px: int
    mpp: float
    bits: npt.NDArray[np.uint8]

    def mask(self, name: str) -> npt.NDArray[np.bool_]:
        """(rows, columns), one cell per 16 level-0 px: "tissue", "lesion", "fold", "pen" or "blur"."""
        if name not in BITS:
            raise ValueError(f"slide {self.slide_id!r}: no mask {name!r}, expected one of {tuple(BITS)}")
        return (self.bits & BITS[name]) > 0

    @property
    def tissue_fraction(self) -> float:
        """Share of the slide that is tissue."""
        return float(self.mask("tissue").mean())

    @property
    def lesion_fraction(self) -> float:
        """Share of the tissue that is lesion."""
        return float(self.mask("lesion").sum() / max(1, int(self.mask("tissue").sum())))

    def share(self, name: str, coords: npt.NDArray[np.integer], tile_px_level0: float) -> npt.NDArray[np.float64]:
        """Share of each tile's area that is under a mask, (N,) from 0 to 1.

        Args:
            name: A mask, as in :meth:`mask`.
            coords: Top-left corners (N, 2), x then y, level-0 px.
            tile_px_level0: Side of the tiles in level-0 px.
        """
        total = np.zeros((self.bits.shape[0] + 1, self.bits.shape[1] + 1))
        total[1:, 1:] = self.mask(name).cumsum(0).cumsum(1)

        def integral(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
            # the integral of a piecewise constant mask is piecewise bilinear, so this is exact
            x, y = np.clip(x, 0, total.shape[1] - 1), np.clip(y, 0, total.shape[0] - 1)
            i, j = np.minimum(x.astype(int), total.shape[1] - 2), np.minimum(y.astype(int), total.shape[0] - 2)
            fx, fy = x - i, y - j
            top = total[j, i] * (1 - fx) + total[j, i + 1] * fx
            return np.asarray(top * (1 - fy) + (total[j + 1, i] * (1 - fx) + total[j + 1, i + 1] * fx) * fy)

        low = np.asarray(coords, np.float64).reshape(-1, 2) / GRID_PX
        side = tile_px_level0 / GRID_PX
        x0, y0, x1, y1 = low[:, 0], low[:, 1], low[:, 0] + side, low[:, 1] + side
        area = integral(x1, y1) - integral(x0, y1) - integral(x1, y0) + integral(x0, y0)
        return np.asarray(np.clip(area / side**2, 0, 1))

    def tile_truth(self, coords: npt.NDArray[np.integer], tile_px_level0: float) -> npt.NDArray[np.float64]:
        """Share of each tile's area that is lesion, (N,); :meth:`share` has the other masks."""
        return self.share("lesion", coords, tile_px_level0)

    def geojson(self) -> dict[str, Any]:
        """Tissue and lesion as GeoJSON polygons in level-0 px, as QuPath reads them."""
        features = []
        for name, colour in (("tissue", (120, 120, 120)), ("lesion", (200, 30, 30))):
            for rings in _polygons(self.mask(name)):
                features.append(
                    {
                        "type": "Feature",
                        "geometry": {"type": "Polygon", "coordinates": rings},
                        "properties": {
                            "objectType": "annotation",
                            "classification": {"name": name, "color": list(colour)},
                        },
                    }
                )
        return {"type": "FeatureCollection", "features": features}

    def save(self, folder: Path) -> None:
        """Write ``<slide_id>.png`` (the bits) and ``<slide_id>.geojson``."""
        import cv2

        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self.slide_id}.png").write_bytes(cv2.imencode(".png", self.bits)[1].tobytes())
        (folder / f"{self.slide_id}.geojson").write_text(json.dumps(self.geojson(), separators=(",", ":")) + "\n")

    @classmethod
    def load(cls, folder: Path, slide_id: str, *, size_px: int, mpp: float = 0.5) -> SlideTruth:
        """Read what :meth:`save` wrote."""
        import cv2

        path = folder / f"{slide_id}.png"
        if not path.exists():
            raise FileNotFoundError(f"no truth of slide {slide_id!r} at {path}")
        bits = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
        return cls(slide_id, size_px, mpp, np.asarray(bits, np.uint8))


def _polygons(mask: npt.NDArray[np.bool_]) -> list[list[list[list[int]]]]:
    """Outer ring and holes of each part, closed, in level-0 px along the cells' borders."""
    import cv2

    # doubled so that the outline of a single cell has an area; the ring then runs through cell borders
    big = np.asarray(np.kron(mask, np.ones((2, 2))), np.uint8)
    contours, tree = cv2.findContours(big, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    out: dict[int, list[list[list[int]]]] = {}
    order = range(len(contours)) if tree is not None else range(0)
    for outer in (True, False):
        for i in order:
            parent = int(tree[0][i][3])
            if (parent < 0) != outer or len(contours[i]) < 3:
                continue
            ring = [[int((x + 0.5) * GRID_PX / 2), int((y + 0.5) * GRID_PX / 2)] for x, y in contours[i][:, 0].tolist()]
            ring.append(ring[0])
            if outer:
                out[i] = [ring]
            elif parent in out:
                out[parent].append(ring)
    return list(out.values())


def truth_of(slide_id: str, anatomy: Anatomy, artefacts: Artefacts, mpp: float) -> SlideTruth:
    """Rasterise the plan of a slide."""
    import cv2

    bits = np.where(anatomy.tissue, BITS["tissue"], 0).astype(np.uint8)
    bits[anatomy.tissue & (anatomy.lesion > 0)] |= BITS["lesion"]

    def draw(line: npt.NDArray[np.float64], half_px: float) -> npt.NDArray[np.bool_]:
        canvas = np.zeros_like(bits)
        points = np.rint(line / GRID_PX - 0.5).astype(np.int32)
        cv2.polylines(canvas, [points], False, 1, max(1, round(2 * half_px / GRID_PX)))
        return canvas > 0

    for line, half in artefacts.folds:
        bits[draw(line, half) & anatomy.tissue] |= BITS["fold"]
    for line, half, _ in artefacts.pens:
        bits[draw(line, half)] |= BITS["pen"]
    y, x = (np.mgrid[0 : bits.shape[0], 0 : bits.shape[1]] + 0.5) * GRID_PX
    for cx, cy, radius, _ in artefacts.blurs:
        bits[np.hypot(x - cx, y - cy) < radius - 30] |= BITS["blur"]
    return SlideTruth(slide_id, anatomy.size_px, mpp, bits)
