"""Heatmaps of single slides: where a model looked, drawn on the slide and as GeoJSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.cohort.table import Cohort, CohortSlide
from wsikit.errors import ConfigError, WsikitError
from wsikit.extract.pictures import save
from wsikit.figures.attention_map import attention_limits, draw_attention_map
from wsikit.figures.overlay import LEAST_SIDE_PX, Picture, draw_overlay
from wsikit.reports.tile_geojson import write_tile_geojson
from wsikit.slides.open import open_slide
from wsikit.store import format as fmt

THUMBNAIL_PX = 720
"""Longer side of a slide in a heatmap."""

CANVAS = (236, 236, 236)
"""Colour of a slide whose file is not at hand."""

Weights = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class SlideTiles:
    """The tiles of one slide that are in a patient's bag.

    Attributes:
        slide: The slide.
        facts: What the store knows of it.
        coords: (N, 2) x then y, level-0 px.
        attention: (N,) weights over the tiles of the whole bag, or None.
        times_average: (N,) the same relative to the average tile of the bag, or None.
    """

    slide: CohortSlide
    facts: Mapping[str, Any]
    coords: npt.NDArray[np.int32]
    attention: Weights | None
    times_average: Weights | None

    @property
    def share(self) -> float:
        """Of the patient's attention, 0 to 1; 0 where there is none."""
        return 0.0 if self.attention is None else float(self.attention.sum())


@dataclass(frozen=True)
class Heatmap:
    """A slide that was drawn.

    Attributes:
        slide_id: Its name.
        picture: RGB.
        share: Of the patient's attention that falls on this slide.
        note: Why the slide itself is not in the picture, or "".
    """

    slide_id: str
    picture: Picture
    share: float
    note: str


def patient_tiles(cohort: Cohort, patient: int, attention: Weights | None) -> list[SlideTiles]:
    """A patient's attention taken apart by slide.

    Args:
        cohort: Whose patient.
        patient: Position.
        attention: (N,) over the bag, slide after slide as :class:`wsikit.cohort.bags.Bags` lays them; or None.

    Raises:
        ConfigError: As many weights as tiles are expected.
    """
    parts = []
    for slide in cohort.slides[patient]:
        usable = slide.store.status(slide.slide_id, encoder=cohort.encoder) == fmt.OK
        parts.append((slide, slide.store.slide(slide.slide_id), slide.store.coords(slide.slide_id)[usable]))
    ends = np.cumsum([len(coords) for _, _, coords in parts])
    if attention is None:
        return [SlideTiles(slide, facts, coords, None, None) for slide, facts, coords in parts]
    if len(attention) != ends[-1]:
        raise ConfigError(
            f"patient {cohort.patients[patient]!r}: {len(attention)} attention weights for {ends[-1]} tiles; "
            "the stores have changed since the models were fitted"
        )
    weights = np.split(np.asarray(attention), ends[:-1])
    return [
        SlideTiles(slide, facts, coords, mine, mine.astype(np.float64) * len(attention))
        for (slide, facts, coords), mine in zip(parts, weights, strict=True)
    ]


def draw_heatmap(cohort: Cohort, patient: int, attention: Weights | None, folder: Path) -> Heatmap:
    """Draw the slide of a patient that most of the attention falls on, and write it and its GeoJSON.

    Without attention the first slide is drawn as it is, and nothing is written.

    Args:
        cohort: Whose patient.
        patient: Position.
        attention: (N,) over the bag, or None.
        folder: Gets ``<slide_id>.png`` and ``<slide_id>.geojson``.

    Raises:
        ConfigError: The attention does not belong to the bag.
    """
    parts = patient_tiles(cohort, patient, attention)
    tiles = max(parts, key=lambda part: part.share)
    slide_id, facts = tiles.slide.slide_id, tiles.facts
    rgb, note = _thumbnail(tiles)
    scale = np.array([rgb.shape[1], rgb.shape[0]]) / np.array(facts["size_level0_px"])  # thumbnail px per level-0 px
    size = np.array(facts["tile_level0_px"], np.float64)
    boxes = np.concatenate([tiles.coords * scale, np.broadcast_to(size * scale, tiles.coords.shape)], axis=1)
    um_per_px = float(facts["mpp"][0] / scale[0])
    if tiles.attention is None or tiles.times_average is None:
        picture = draw_overlay(rgb, None, boxes if note else None, um_per_px=um_per_px)
        return Heatmap(slide_id, picture, 0.0, note)
    every = np.concatenate([part.times_average for part in parts if part.times_average is not None])
    limits = attention_limits(every)
    picture = draw_attention_map(rgb, boxes, tiles.times_average, limits=limits, um_per_px=um_per_px)
    save(folder / f"{slide_id}.png", picture)
    corner = (float(size[0]), float(size[1]))
    write_tile_geojson(folder / f"{slide_id}.geojson", tiles.coords, corner, tiles.attention, tiles.times_average)
    return Heatmap(slide_id, picture, tiles.share, note)


def _thumbnail(tiles: SlideTiles) -> tuple[Picture, str]:
    """The slide, or an empty canvas of its shape and why."""
    facts, path = tiles.facts, tiles.slide.path
    size = tuple(facts["size_level0_px"])
    if path is None:
        return _canvas(size), "The table has no path of this slide: its tiles are drawn on an empty canvas."
    try:
        with open_slide(path, mpp=tuple(facts["mpp"]), scene=facts.get("scene"), allow_unequal_mpp=True) as slide:
            if slide.size == size:
                return slide.thumbnail(THUMBNAIL_PX), ""
            problem = f"it has {slide.size[0]} x {slide.size[1]} px, the store's slide {size[0]} x {size[1]}"
    except WsikitError as e:
        problem = str(e)
    return _canvas(size), f"The slide file cannot be shown: {problem}."


def _canvas(size: tuple[int, int]) -> Picture:
    longer = max(size)
    side = max(LEAST_SIDE_PX, THUMBNAIL_PX)
    width, height = (max(1, round(side * length / longer)) for length in size)
    return np.full((height, width, 3), CANVAS, np.uint8)
