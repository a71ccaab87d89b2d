"""Attention over tiles as GeoJSON: drag it onto the slide in QuPath and colour by measurement."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.store.objects import write_atomic


def write_tile_geojson(
    path: Path,
    coords: npt.NDArray[np.integer[Any]],
    tile_level0_px: tuple[float, float],
    attention: npt.NDArray[np.floating[Any]],
    times_average: npt.NDArray[np.floating[Any]],
    *,
    name: str = "attention",
) -> Path:
    """Write every tile as a QuPath tile object: a square with its measurements.

    In QuPath (0.4 or later): drop the file on the slide, then Measure > Show measurement maps.
    The 64-bit numbers that the file has are exactly those given.

    Args:
        path: The file to write.
        coords: (N, 2) x then y of each tile's top-left corner, level-0 px.
        tile_level0_px: Width and height of the tiles, level-0 px.
        attention: (N,) weights over the tiles of the patient; 1 in sum where the patient has one slide.
        times_average: (N,) the same relative to the average tile of the patient.
        name: Of the map: its measurements are called ``name`` and ``name, times the average tile``.
    """
    width, height = tile_level0_px
    features = []
    for (x, y), weight, times in zip(coords.tolist(), attention.tolist(), times_average.tolist(), strict=True):
        ring = [[x, y], [x + width, y], [x + width, y + height], [x, y + height], [x, y]]
        features.append(
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": [ring]},
                "properties": {
                    "objectType": "tile",
                    "measurements": {name: weight, f"{name}, times the average tile": times},
                },
            }
        )
    content = json.dumps({"type": "FeatureCollection", "features": features}, separators=(",", ":"))
    write_atomic(path, content.encode())
    return path
