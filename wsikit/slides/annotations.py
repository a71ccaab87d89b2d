"""What was drawn on a slide: polygons with classes from QuPath (GeoJSON) or ASAP (XML), and their share of each tile.

An annotation is in level-0 pixels. Polygons of one class may overlap: their union counts.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

from wsikit.errors import ConfigError
from wsikit.slides.geojson import Ring, features_of, fill, polygons_of
from wsikit.slides.overview import overview_size
from wsikit.slides.slide import Slide
from wsikit.slides.tiling import area_fractions
from wsikit.slides.tissue_mask import Mask, TissueMask

log = logging.getLogger(__name__)

SUFFIXES = (".geojson", ".json", ".xml")
"""Endings of annotation files: the first two GeoJSON, the last ASAP's."""

_LARGEST_PX = 4096  # side of a class's raster: about 0.3 GB while shares are summed


@dataclass(frozen=True)
class Annotations:
    """Polygons of one slide.

    Attributes:
        polygons: For each its class ("" for none) and its rings in level-0 px, outline first, then holes.
        sha256: Of the file.
    """

    polygons: tuple[tuple[str, tuple[Ring, ...]], ...]
    sha256: str

    @property
    def classes(self) -> list[str]:
        """Classes that have a polygon, sorted."""
        return sorted({kind for kind, _ in self.polygons})


def read_annotations(path: str | PathLike[str]) -> Annotations:
    """Read the polygons of an annotation file; lines and points are passed over.

    Args:
        path: GeoJSON as QuPath exports it (the class is ``classification``), or XML as ASAP writes it (the class is
            the group, or the annotation's name where it is in none). A spline of ASAP is taken as the polygon of
            its points.

    Raises:
        ConfigError: Neither of the two, or a corner that is no number.

    Example:
        >>> _ = Path("a.geojson").write_text('{"type": "Polygon", "coordinates": [[[0, 0], [9, 0], [9, 9], [0, 0]]]}')
        >>> [(kind, len(rings)) for kind, rings in read_annotations("a.geojson").polygons]
        [('', 1)]
    """
    path = Path(path)
    try:
        content = path.read_bytes()
        polygons = tuple(_asap(content) if path.suffix.lower() == ".xml" else _geojson(content))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ElementTree.ParseError) as error:
        raise ConfigError(
            f"{path}: cannot be read as annotations: {type(error).__name__}: {error}; expected GeoJSON, or ASAP's XML"
        ) from error
    for kind, rings in polygons:
        if not all(ring.ndim == 2 and ring.shape[1] == 2 and np.isfinite(ring).all() for ring in rings):
            raise ConfigError(f"{path}: a polygon of class {kind!r} has a corner that is not two finite numbers")
    return Annotations(polygons, hashlib.sha256(content).hexdigest())


def _geojson(content: bytes) -> Iterator[tuple[str, tuple[Ring, ...]]]:
    for kind, geometry in features_of(json.loads(content)):
        for rings in polygons_of(geometry):
            yield kind, tuple(rings)


def _asap(content: bytes) -> Iterator[tuple[str, tuple[Ring, ...]]]:
    root = ElementTree.fromstring(content)
    if root.tag != "ASAP_Annotations":
        raise ValueError(f"root element {root.tag!r}, expected 'ASAP_Annotations'")
    for item in root.iter("Annotation"):
        kind, shape = item.get("PartOfGroup", "None"), item.get("Type", "")
        if shape not in ("Polygon", "Rectangle", "Spline"):
            continue
        if shape == "Spline":
            log.warning("annotation %r: a spline is taken as the polygon of its points", item.get("Name"))
        corners = sorted(item.iter("Coordinate"), key=lambda c: float(c.attrib["Order"]))
        ring = np.array([(float(c.attrib["X"]), float(c.attrib["Y"])) for c in corners], np.float64).reshape(-1, 2)
        yield item.get("Name", "") if kind == "None" else kind, (ring,)


def covered(
    annotations: Annotations, classes: Sequence[str], size: tuple[int, int], downsample: tuple[float, float]
) -> Mask:
    """Where polygons of some classes lie.

    Args:
        annotations: The polygons.
        classes: Which; those that none has are passed over.
        size: (width, height) of the raster, px.
        downsample: Level-0 px per raster px along (x, y).

    Returns:
        (h, w) bool, True where a pixel's centre lies in a polygon and not in a hole of it.
    """
    mask = np.zeros((size[1], size[0]), np.bool_)
    for kind, rings in annotations.polygons:
        if kind in classes:
            fill(mask, [ring / downsample for ring in rings])
    return mask


def within_classes(tissue: TissueMask, annotations: Annotations, classes: Sequence[str]) -> TissueMask:
    """A tissue mask without what lies outside of the polygons of some classes."""
    height, width = tissue.mask.shape
    inside = covered(annotations, classes, (width, height), tissue.downsample)
    return TissueMask(
        tissue.mask & inside, tissue.downsample, tissue.mpp, tissue.method, tissue.parameters, tissue.unreadable_px
    )


def class_shares(
    annotations: Annotations, slide: Slide, coords: npt.NDArray[np.int32], tile_level0_px: tuple[float, float]
) -> dict[str, npt.NDArray[np.float32]]:
    """Share of each tile's area that each class covers.

    Args:
        annotations: The polygons.
        slide: The slide that they were drawn on.
        coords: (N, 2) top-left corners, x then y, level-0 px.
        tile_level0_px: (width, height) of a tile, level-0 px.

    Returns:
        Class -> (N,) float32 from 0 to 1, for every class that has a polygon. Exact to about a thirtieth of a tile.
    """
    tile_um = min(tile_level0_px[0] * slide.mpp.x, tile_level0_px[1] * slide.mpp.y)
    size = overview_size(slide, mpp=max(min(8.0, tile_um / 16), slide.mpp.mean), limit_px=_LARGEST_PX)
    downsample = (slide.size[0] / size[0], slide.size[1] / size[1])
    mpp = slide.mpp.mean * float(np.sqrt(downsample[0] * downsample[1]))
    (xs, column), (ys, row) = (np.unique(coords[:, axis], return_inverse=True) for axis in (0, 1))
    shares = {}
    for kind in annotations.classes:
        mask = TissueMask(covered(annotations, [kind], size, downsample), downsample, mpp, "annotation")
        shares[kind] = area_fractions(mask, xs, ys, tile_level0_px)[row, column].astype(np.float32)
    return shares
