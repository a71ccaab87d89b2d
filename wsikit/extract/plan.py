"""Planning one slide: its tissue, its tiles, what the store keeps of it, and its picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.errors import ChangedError, ConfigError, MissingMppError, NoTissueError
from wsikit.extract.failure import writing
from wsikit.extract.inputs import SlideEntry
from wsikit.extract.pictures import picture_plan, picture_stored
from wsikit.extract.settings import RunSettings
from wsikit.geometry import Mpp
from wsikit.provenance import file_bytes, sha256_file
from wsikit.slides.annotations import Annotations, class_shares, read_annotations, within_classes
from wsikit.slides.geojson import DRAWN, read_geojson, write_geojson
from wsikit.slides.level import LevelChoice
from wsikit.slides.open import open_slide
from wsikit.slides.slide import Slide
from wsikit.slides.tiling import TileSet, tile_slide
from wsikit.slides.tissue_mask import TissueMask, segment_tissue
from wsikit.store import format as fmt
from wsikit.store.objects import read_array
from wsikit.store.places import StorePath
from wsikit.store.writer import labels_source, slide_attributes, write_labels, write_plan


def plan(root: StorePath, entry: SlideEntry, settings: RunSettings) -> dict[str, Any]:
    """Find tissue and tiles of a slide, write its plan to the store, draw its picture; returns its attributes.

    Raises:
        NoTissueError: No tile has enough tissue. The picture is drawn all the same.
    """
    with open_entry(entry, settings) as slide:
        tissue, tiles = find_tiles(slide, entry, settings)
        if settings.report is not None:
            picture_plan(settings.report, entry.slide_id, slide, tissue, tiles)
            outline = settings.report / "tissue" / f"{entry.slide_id}.geojson"
            outline.parent.mkdir(exist_ok=True)
            write_geojson(tissue, outline)
        refuse_empty(entry, tissue, tiles, settings)
        attributes = plan_attributes(entry, slide, tissue, tiles)
        if settings.annotation_classes:
            sha256 = entry.keyed(_drawn(entry).sha256)
            attributes["annotations"] = {"sha256": sha256, "classes": sorted(settings.annotation_classes)}
    with writing(root):
        write_plan(
            root, entry.slide_id, attributes=attributes, coords=tiles.coords, quality=tiles.tissue_fraction[:, None]
        )
    return attributes


def _drawn(entry: SlideEntry) -> Annotations:
    if entry.annotations is None:
        raise ConfigError(
            f"slide {entry.slide_id}: tiles are wanted on annotations only, and it has none; add a file named like the "
            "slide to --annotations, or leave the slide out"
        )
    return read_annotations(entry.annotations)


def label_tiles(root: StorePath, entry: SlideEntry, settings: RunSettings, attributes: Mapping[str, Any]) -> None:
    """Keep the share of every annotated class in every tile of a planned slide, where they are new or changed."""
    if entry.annotations is None:
        return
    drawn = read_annotations(entry.annotations)
    stored = labels_source(root, entry.slide_id)
    if stored is not None and stored["sha256"] == entry.keyed(drawn.sha256):
        return
    width, height = attributes["tile_level0_px"]
    with open_entry(entry, settings) as slide:
        shares = class_shares(drawn, slide, read_coords(root, entry.slide_id), (width, height))
    with writing(root):
        write_labels(root, entry.slide_id, shares, source={"sha256": entry.keyed(drawn.sha256)})


def find_tiles(slide: Slide, entry: SlideEntry, settings: RunSettings) -> tuple[TissueMask, TileSet]:
    """Tissue (drawn, or segmented; inside of annotations, if asked) and tiles of an open slide; there may be none."""
    if entry.tissue is not None:
        tissue = read_geojson(entry.tissue, slide)
    else:
        tissue = segment_tissue(slide, method=settings.tissue, **settings.tissue_options)
    if settings.annotation_classes:
        tissue = within_classes(tissue, _drawn(entry), settings.annotation_classes)
    return tissue, tile_slide(slide, tissue, settings.spec)


def refuse_empty(entry: SlideEntry, tissue: TissueMask, tiles: TileSet, settings: RunSettings) -> None:
    """Raise NoTissueError where there are no tiles, with the cause."""
    if len(tiles):
        return
    found = f"tissue was found on {100 * tissue.fraction:.2f} % of the slide"
    if settings.annotation_classes:
        has = _drawn(entry).classes
        found += f" inside annotations of {list(settings.annotation_classes)} (it has: {has})"
    cause = (
        f"{found}, but no whole tile has {settings.spec.min_tissue:g} of its area on it"
        if tissue.mask.any()
        else f"{found} by the method {tissue.method!r}"
    )
    raise NoTissueError(f"slide {entry.slide_id}: no tiles: {cause}; look at its overlay picture")


def open_entry(entry: SlideEntry, settings: RunSettings) -> Slide:
    """Open a slide with what is given about it; ``missing_mpp`` only where the file has none."""
    options: dict[str, Any] = {"scene": entry.scene, "allow_unequal_mpp": settings.allow_unequal_mpp}
    try:
        return open_slide(entry.path, mpp=entry.mpp, **options)
    except MissingMppError:
        if settings.missing_mpp is None:
            raise
        return open_slide(entry.path, mpp=settings.missing_mpp, **options)


def plan_attributes(entry: SlideEntry, slide: Slide, tissue: TissueMask, tiles: TileSet) -> dict[str, Any]:
    """What the store keeps of a slide: measures and choices; no path, no text of the scanner."""
    parameters = dict(tissue.parameters)
    if "sha256" in parameters and tissue.method == DRAWN:
        parameters["sha256"] = entry.keyed(parameters["sha256"])
    return {
        "fingerprint": entry.fingerprint(),
        "file_bytes": None if entry.secret else file_bytes(entry.path),  # the size of a file leads to it
        "vendor": slide.vendor,
        "reader": slide.reader,
        "scene": slide.scenes.index(slide.scene) if isinstance(slide.scene, str) else slide.scene,
        "scenes": len(slide.scenes) or 1,
        "size_level0_px": list(slide.size),
        "mpp": list(slide.mpp),
        "mpp_source": slide.mpp_source,
        "level": tiles.choice.level,
        "level_downsample": tiles.choice.downsample,
        "read_px": list(tiles.choice.read_px),
        "resampler": tiles.choice.resampler,
        "achieved_mpp": list(tiles.achieved_mpp),
        "tile_px": tiles.tile_px,
        "tile_level0_px": list(tiles.tile_level0_px),
        "stride_level0_px": list(tiles.stride_level0_px),
        "tissue": {
            "method": tissue.method,
            "parameters": parameters,
            "fraction": tissue.fraction,
            "area_mm2": tissue.area_mm2,
            "unreadable_px": tissue.unreadable_px,
        },
        "counts": asdict(tiles.counts),
    }


def choice_of(attributes: Mapping[str, Any]) -> LevelChoice:
    """How a planned slide's tiles are read, from its attributes."""
    width, height = attributes["read_px"]
    return LevelChoice(
        attributes["level"], attributes["level_downsample"], (width, height),
        Mpp(*attributes["achieved_mpp"]), attributes["resampler"],
    )  # fmt: skip


def same_slide(root: StorePath, entry: SlideEntry) -> dict[str, Any]:
    """Attributes of a planned slide, after making sure that the file and what is given are the same.

    Raises:
        ChangedError: Another file, resolution or scene than the store was begun with.
    """
    attributes = slide_attributes(root, entry.slide_id)
    found = entry.fingerprint()
    if found != attributes["fingerprint"]:
        raise ChangedError(
            f"slide {entry.slide_id}: the file is not the one that the store was begun with (fingerprint "
            f"{found[:12]}, stored {attributes['fingerprint'][:12]}; {file_bytes(entry.path)} bytes, stored "
            f"{attributes['file_bytes']}); 'wsikit remove' it from the store first, or give it another slide_id"
        )
    if entry.mpp is not None and list(entry.mpp) != attributes["mpp"]:
        raise ChangedError(
            f"slide {entry.slide_id}: mpp {list(entry.mpp)} is given, the store has {attributes['mpp']} "
            f"({attributes['mpp_source']}); 'wsikit remove' it from the store first"
        )
    drawn = None if entry.tissue is None else entry.keyed(sha256_file(entry.tissue))
    stored = attributes["tissue"]["parameters"].get("sha256") if attributes["tissue"]["method"] == DRAWN else None
    if drawn != stored:
        raise ChangedError(
            f"slide {entry.slide_id}: the tissue was {_outline_words(stored)}, now it is {_outline_words(drawn)}; "
            "'wsikit remove' it from the store first"
        )
    restricted = attributes.get("annotations")
    if restricted is not None and entry.keyed(_drawn(entry).sha256) != restricted["sha256"]:
        raise ChangedError(
            f"slide {entry.slide_id}: its tiles were chosen by other annotations (sha256 {restricted['sha256'][:12]}); "
            "'wsikit remove' it from the store first"
        )
    scene = attributes["scene"]
    asked = entry.scene if isinstance(scene, str) else _scene_number(entry)  # its name is in stores of wsikit 0.1 only
    if asked != scene:
        raise ChangedError(f"slide {entry.slide_id}: scene {entry.scene!r} is asked for, the store has {scene!r}")
    return attributes


def _scene_number(entry: SlideEntry) -> int | None:
    if entry.scene is None:
        return None
    with open_slide(entry.path, mpp=entry.mpp or 1.0, scene=entry.scene, allow_unequal_mpp=True) as slide:
        return slide.scenes.index(entry.scene)


def _outline_words(sha256: str | None) -> str:
    return "segmented" if sha256 is None else f"given as a GeoJSON file (sha256 {sha256[:12]})"


def picture_again(root: StorePath, entry: SlideEntry, settings: RunSettings, attributes: Mapping[str, Any]) -> None:
    """A planned slide's picture from the store: its tiles, without the outline of the tissue."""
    assert settings.report is not None
    with open_entry(entry, settings) as slide:
        picture_stored(settings.report, entry.slide_id, slide, read_coords(root, entry.slide_id), attributes)


def read_coords(root: StorePath, slide_id: str) -> npt.NDArray[np.int32]:
    """(N, 2) int32 of a planned slide."""
    return np.asarray(read_array(fmt.Layout(root).slide(slide_id) / "coords")[:])
