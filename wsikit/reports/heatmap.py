"""Heatmaps of single slides: where a model looked, drawn on the slide and as GeoJSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.cohort.table import CohortSlide
from wsikit.errors import ConfigError, WsikitError
from wsikit.figures.attention_map import attention_limits, draw_attention_map
from wsikit.figures.overlay import LEAST_SIDE_PX, Picture, draw_overlay
from wsikit.reports.tile_geojson import write_tile_geojson
from wsikit.slides.open import open_slide
from wsikit.store import format as fmt
from wsikit.store.objects import write_atomic

THUMBNAIL_PX = 600
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
        attention: (N,) weights over the tiles of the whole bag, of attention or another map, or None.
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
        return 0.0 if self.attention is None else float(np.abs(self.attention).sum())


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


def write_heatmaps(
    slides: Sequence[CohortSlide],
    attention: Weights,
    folder: Path,
    *,
    encoder: str | None = None,
    name: str = "attention",
) -> list[Heatmap]:
    """Draw the attention over every slide of a patient, all on one scale.

    Args:
        slides: Of the patient, in the order of the bag.
        attention: (N,) over the bag, slide after slide as :class:`wsikit.cohort.bags.Bags` lays them. Of a map whose
            absolute values sum to 1, negative ones are drawn as 0.
        folder: Gets ``<slide_id>.png`` and ``<slide_id>.geojson``.
        encoder: Key of the features that the bag is made of; default: the one that has as many tiles.
        name: Of the map, in the picture and in the GeoJSON.

    Raises:
        ConfigError: Other than N tiles, or features with different tiles that all number N.

    Example:
        >>> write_heatmaps(cohort.slides[0], result.attention[0], Path("heatmaps"))     # doctest: +SKIP
    """
    parts = split_attention(slides, attention, encoder=encoder or _encoder_of(slides, len(attention)))
    return [_draw(part, _limits(parts), folder, name) for part in parts]


def draw_heatmap(
    slides: Sequence[CohortSlide], attention: Weights | None, folder: Path, *, encoder: str, name: str = "attention"
) -> Heatmap:
    """Draw that slide of a patient which most of the attention falls on, and write it and its GeoJSON.

    Without attention the first slide is drawn as it is, and nothing is written. Arguments and errors
    are those of :func:`write_heatmaps`.
    """
    parts = split_attention(slides, attention, encoder=encoder)
    return _draw(max(parts, key=lambda part: part.share), _limits(parts), folder, name)


def split_attention(slides: Sequence[CohortSlide], attention: Weights | None, *, encoder: str) -> list[SlideTiles]:
    """A patient's attention taken apart by slide.

    Raises:
        ConfigError: Not as many weights as the slides have tiles.
    """
    parts = []
    for slide in slides:
        usable = slide.store.status(slide.slide_id, encoder=encoder) == fmt.OK
        parts.append((slide, slide.store.slide(slide.slide_id), slide.store.coords(slide.slide_id)[usable]))
    if attention is None:
        return [SlideTiles(slide, facts, coords, None, None) for slide, facts, coords in parts]
    ends = np.cumsum([len(coords) for _, _, coords in parts])
    if len(attention) != ends[-1]:
        raise ConfigError(
            f"slides {[slide.slide_id for slide in slides]}: {len(attention)} attention weights for {ends[-1]} tiles; "
            "the stores have changed since the models were fitted, or these are other slides"
        )
    weights = np.split(np.asarray(attention), ends[:-1])
    return [
        SlideTiles(slide, facts, coords, mine, np.maximum(mine.astype(np.float64), 0) * len(attention))
        for (slide, facts, coords), mine in zip(parts, weights, strict=True)
    ]


def _encoder_of(slides: Sequence[CohortSlide], tiles: int) -> str:
    """The features that have so many tiles; several of them only where they have the same ones."""
    shared = set.intersection(*(set(slide.store.keys(slide.slide_id)) for slide in slides))
    found: dict[str, bytes] = {}
    for key in sorted(shared):
        if all(slide.store.finished(slide.slide_id, key) for slide in slides):
            status = np.concatenate([slide.store.status(slide.slide_id, encoder=key) for slide in slides])
            if int((status == fmt.OK).sum()) == tiles:
                found[key] = (status == fmt.OK).tobytes()
    if len(set(found.values())) != 1:
        raise ConfigError(
            f"slides {[slide.slide_id for slide in slides]}: {tiles} attention weights; "
            f"{len(found)} of the features {sorted(shared)} have so many tiles; give the encoder's key"
        )
    return next(iter(found))


def _limits(parts: Sequence[SlideTiles]) -> tuple[float, float] | None:
    """Ends of one colour scale for all slides of a patient."""
    every = [part.times_average for part in parts if part.times_average is not None]
    return attention_limits(np.concatenate(every)) if every else None


def _draw(tiles: SlideTiles, limits: tuple[float, float] | None, folder: Path, name: str) -> Heatmap:
    slide_id, facts = tiles.slide.slide_id, tiles.facts
    rgb, note = _thumbnail(tiles)
    scale = np.array([rgb.shape[1], rgb.shape[0]]) / np.array(facts["size_level0_px"])  # thumbnail px per level-0 px
    size = np.array(facts["tile_level0_px"], np.float64)
    boxes = np.concatenate([tiles.coords * scale, np.broadcast_to(size * scale, tiles.coords.shape)], axis=1)
    um_per_px = float(facts["mpp"][0] / scale[0])
    if tiles.attention is None or tiles.times_average is None:
        picture = draw_overlay(rgb, None, boxes if note else None, um_per_px=um_per_px)
        return Heatmap(slide_id, picture, 0.0, note)
    picture = draw_attention_map(rgb, boxes, tiles.times_average, limits=limits, um_per_px=um_per_px, name=name)
    write_atomic(folder / f"{slide_id}.png", encoded(picture, ".png"))
    corner = (float(size[0]), float(size[1]))
    path = folder / f"{slide_id}.geojson"
    write_tile_geojson(path, tiles.coords, corner, tiles.attention, tiles.times_average, name=name)
    return Heatmap(slide_id, picture, tiles.share, note)


def encoded(picture: Picture, suffix: str) -> bytes:
    """A picture as the bytes of a file: ``.png``, or ``.jpg``, a tenth of that for a photograph."""
    import cv2

    options = [cv2.IMWRITE_JPEG_QUALITY, 88] if suffix == ".jpg" else []
    good, data = cv2.imencode(suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)
    if not good:
        raise OSError(f"a picture of shape {picture.shape} cannot be encoded as {suffix}")
    return bytes(data)


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
