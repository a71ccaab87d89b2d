"""Tissue masks as GeoJSON and back, in level-0 pixels, as QuPath reads and writes it.

Outlines run along pixel edges, so that a mask written and read at the same resolution is the same
mask. (Tracing through pixel centres, as most contour finders do, shrinks every region by half a pixel.)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.errors import ConfigError
from wsikit.registry import nearest
from wsikit.slides.overview import overview_size
from wsikit.slides.slide import Slide
from wsikit.slides.tissue_mask import Mask, TissueMask

Ring = npt.NDArray[np.float64]
"""(K, 2) corners x, y; closed: the last is the first."""

DRAWN = "geojson"
"""The tissue method of a mask that was read from a file."""

COLOUR = (0, 116, 71)


def write_geojson(tissue: TissueMask, path: str | PathLike[str], *, name: str = "Tissue") -> Path:
    """Write a mask as annotations that QuPath opens by drag and drop: one polygon for each connected region.

    Args:
        tissue: The mask.
        path: The file to write.
        name: Class of the annotations.
    """
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [np.round(ring, 2).tolist() for ring in rings]},
            "properties": {"objectType": "annotation", "classification": {"name": name, "color": list(COLOUR)}},
        }
        for rings in outlines(tissue.mask, tissue.downsample)
    ]
    path = Path(path)
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}), encoding="utf-8")
    return path


def read_geojson(
    path: str | PathLike[str], slide: Slide, *, mpp: float = 8.0, classes: Sequence[str] | None = None
) -> TissueMask:
    """Annotations of a slide as a tissue mask.

    Args:
        path: GeoJSON in level-0 pixels: a FeatureCollection, a list of features, a feature or a geometry.
        slide: The slide that they were drawn on.
        mpp: Resolution of the mask, um per pixel.
        classes: Take only annotations of these classes; default all. Lines and points are passed over.

    Returns:
        A mask with method "geojson"; a pixel is tissue if its centre lies in a polygon and not in a hole of it.

    Raises:
        ConfigError: Not GeoJSON, no polygon, an unknown class, a corner that is no number, or everything outside
            of the slide.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
        features = list(features_of(json.loads(content)))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"{path}: cannot be read as GeoJSON: {type(error).__name__}: {error}") from error
    found = {kind for kind, _ in features}
    for kind in classes or ():
        if kind not in found:
            raise ConfigError(f"{path}: no annotation of class {kind!r}{nearest(kind, found)} (found: {sorted(found)})")
    polygons = [p for kind, geometry in features if classes is None or kind in classes for p in polygons_of(geometry)]
    if not polygons:
        raise ConfigError(f"{path}: no polygon among {len(features)} annotations; expected Polygon or MultiPolygon")
    if not all(np.isfinite(ring).all() for rings in polygons for ring in rings):
        raise ConfigError(f"{path}: a polygon has a corner that is NaN or infinite; expected level-0 pixels")
    width, height = overview_size(slide, mpp=mpp)
    downsample = (slide.size[0] / width, slide.size[1] / height)
    mask = np.zeros((height, width), np.bool_)
    for rings in polygons:
        fill(mask, [ring / downsample for ring in rings])
    if not mask.any():
        corners = np.concatenate([ring for rings in polygons for ring in rings])
        low, high = corners.min(axis=0).astype(int).tolist(), corners.max(axis=0).astype(int).tolist()
        raise ConfigError(
            f"{path}: its polygons span x, y {low} to {high} and cover nothing of the slide of {slide.size} px; "
            "expected level-0 pixels of this slide"
        )
    parameters = {
        "sha256": hashlib.sha256(content).hexdigest(),
        "classes": sorted(classes) if classes is not None else None,
        "mpp": mpp,
    }
    reached = slide.mpp.mean * float(np.sqrt(downsample[0] * downsample[1]))
    return TissueMask(mask, downsample, reached, DRAWN, parameters)


def features_of(data: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """(class, geometry) of everything in a GeoJSON value."""
    if isinstance(data, list):
        for item in data:
            yield from features_of(item)
    elif data["type"] == "FeatureCollection":
        yield from features_of(data["features"])
    elif data["type"] == "Feature":
        given = (data.get("properties") or {}).get("classification") or {}
        kind = given.get("name") or ": ".join(given.get("names", []))  # QuPath 0.5 lists the parts of derived classes
        if data["geometry"] is not None:
            yield from ((kind, geometry) for _, geometry in features_of(data["geometry"]))
    elif data["type"] == "GeometryCollection":
        yield from features_of(data["geometries"])
    else:
        yield "", data


def polygons_of(geometry: dict[str, Any]) -> Iterator[list[Ring]]:
    """Rings of each polygon of a geometry, outline first; none of lines and points."""
    if geometry["type"] in ("Polygon", "MultiPolygon"):
        many = [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
        for rings in many:
            yield [np.asarray(ring, np.float64)[:, :2] for ring in rings]


def fill(mask: Mask, rings: Sequence[Ring]) -> None:
    """Set the pixels of ``mask`` whose centres lie inside an odd number of rings (even-odd rule).

    Args:
        mask: (h, w) bool, changed in place.
        rings: A polygon and its holes, in px of the mask; closed or not. Finite numbers: they are not checked here.
    """
    closed = [r if len(r) and np.array_equal(r[0], r[-1]) else np.concatenate([r, r[:1]]) for r in rings]
    if not closed:
        return
    height, width = mask.shape
    x0, y0 = np.concatenate([ring[:-1] for ring in closed]).T  # (E,) where each edge begins
    x1, y1 = np.concatenate([ring[1:] for ring in closed]).T  # (E,) and where it ends
    first, last = np.sort([np.ceil(y0 - 0.5), np.ceil(y1 - 0.5)], axis=0).clip(0, height).astype(np.int64)
    passed = last - first  # rows whose centre the edge passes
    edge = np.repeat(np.arange(len(passed)), passed)  # (P,) one entry for each edge and row that it passes
    if not len(edge):
        return
    rows = np.arange(len(edge)) - (passed.cumsum() - passed - first)[edge]
    x = x0[edge] + (rows + 0.5 - y0[edge]) * (x1 - x0)[edge] / (y1 - y0)[edge]
    cols = np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)  # first column whose centre is not left of the edge
    # Left of the first crossing and right of the last one the number of crossings is even: only the box between counts.
    top, left = int(rows.min()), int(cols.min())
    box = (int(rows.max()) + 1 - top, int(cols.max()) + 1 - left)
    crossings = np.bincount((rows - top) * box[1] + cols - left, minlength=box[0] * box[1]).reshape(box)
    inside = crossings.cumsum(axis=1)[:, :-1] % 2 == 1  # the last column is outside, or beyond the mask
    mask[top : top + box[0], left : left + box[1] - 1] |= inside


def outlines(mask: Mask, downsample: tuple[float, float] = (1.0, 1.0)) -> list[list[Ring]]:
    """Outline and holes of each connected region (4 neighbours), along pixel edges.

    Args:
        mask: (h, w) bool.
        downsample: Multiplies x and y of the result.

    Returns:
        For each region its outer ring, then its holes.
    """
    import cv2

    _, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    regions: dict[int, list[Ring]] = {}
    for corners, label in _trace(mask, np.asarray(labels, np.int32)):
        ring = np.array(corners, np.float64) * downsample
        rings = regions.setdefault(label, [])
        x, y = np.array(corners, np.float64).T
        outer = float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum()) > 0
        rings.insert(0 if outer else len(rings), ring)
    return [regions[label] for label in sorted(regions)]


def _trace(mask: Mask, labels: npt.NDArray[np.int32]) -> Iterator[tuple[list[tuple[int, int]], int]]:
    """Closed walks along the edges between tissue and glass, tissue to the right hand (y points down)."""
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    region: dict[_Edge, int] = {}
    sides = (
        (inside & ~padded[:-2, 1:-1], (0, 0), (1, 0)),  # glass above: walk right along the top
        (inside & ~padded[1:-1, 2:], (1, 0), (0, 1)),  # right of it: walk down
        (inside & ~padded[2:, 1:-1], (1, 1), (-1, 0)),  # below: walk left
        (inside & ~padded[1:-1, :-2], (0, 1), (0, -1)),  # left: walk up
    )
    for edge, (dx, dy), step in sides:
        rows, cols = np.nonzero(edge)
        for x, y, label in zip((cols + dx).tolist(), (rows + dy).tolist(), labels[rows, cols].tolist(), strict=True):
            region[(x, y), step] = label
    while region:
        first = edge_now = next(iter(region))
        label, walk = region[first], []
        while True:
            (x, y), (step_x, step_y) = edge_now
            corner = (x + step_x, y + step_y)
            # Where two pixels touch at a corner only, two edges leave it: the right turn stays with the region.
            turns = ((-step_y, step_x), (step_x, step_y), (step_y, -step_x))
            following = next((corner, turn) for turn in turns if (corner, turn) in region)
            if following[1] != (step_x, step_y):
                walk.append(corner)
            if edge_now != first:
                del region[edge_now]
            edge_now = following
            if edge_now == first:
                del region[first]
                break
        yield [*walk, walk[0]], label


_Edge = tuple[tuple[int, int], tuple[int, int]]
"""Corner where it begins, and direction."""
