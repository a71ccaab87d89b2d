"""Fitting a stain normalisation to a slide when its features are begun, so that every shard uses the same fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from wsikit.errors import TileReadError
from wsikit.extract.inputs import SlideEntry
from wsikit.extract.plan import choice_of, read_coords
from wsikit.slides.open import open_slide
from wsikit.slides.stain_norm import fit_stain, stain_identity
from wsikit.slides.tiling import read_tile
from wsikit.store.places import StorePath

SAMPLE = 32
"""Tiles that a fit reads, evenly spaced over the slide's tiles."""


def fit_slide(root: StorePath, entry: SlideEntry, attributes: Mapping[str, Any], method: str) -> dict[str, Any]:
    """The stain of a planned slide, from the same tiles whenever it is asked: what its features' attributes keep.

    Args:
        root: The store.
        entry: The slide.
        attributes: Of its plan.
        method: Name of the normalisation.
    """
    coords, tile_px = read_coords(root, entry.slide_id), attributes["tile_px"]
    rows = np.unique(np.linspace(0, len(coords) - 1, min(SAMPLE, len(coords))).round().astype(np.int64))
    choice, mpp, tiles = choice_of(attributes), (attributes["mpp"][0], attributes["mpp"][1]), []
    with open_slide(
        entry.path, mpp=mpp, scene=entry.scene, reader=attributes["reader"], allow_unequal_mpp=True
    ) as slide:
        for x, y in coords[rows].tolist():
            for _ in range(2):  # as tiles are read for the encoder: network disks fail for a moment
                try:
                    tiles.append(read_tile(slide, choice, tile_px, (x, y)))
                    break
                except TileReadError:  # it gets its status when it is encoded; the fit does without
                    continue
    sample = np.stack(tiles) if tiles else np.empty((0, tile_px, tile_px, 3), np.uint8)
    return {**stain_identity(method), "parameters": fit_stain(method, sample)}
