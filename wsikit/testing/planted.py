"""Plant one slide: an H&E-like biopsy or section with a lesion of known place and extent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from wsikit.processes import in_processes
from wsikit.testing.anatomy import plan_anatomy
from wsikit.testing.artefacts import plan_artefacts
from wsikit.testing.layout import plan_layout
from wsikit.testing.nuclei import sprite_bank
from wsikit.testing.render import BLOCK_PX, Scene, render
from wsikit.testing.stains import Pixels, Site
from wsikit.testing.stains import site as site_of
from wsikit.testing.svs import write_svs
from wsikit.testing.truth import SlideTruth, truth_of

MPP = 0.5
"""Micrometres per pixel at which cells are drawn: a nucleus is 12 to 25 px long."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a slide's pixels. Equal recipes give equal bytes.

    Args:
        seed: Of this slide.
        size_px: Side of the square slide at level 0.
        site: Stains and scanner.
        tissue_fraction: Share of the slide that is tissue.
        lesion_fraction: Share of the tissue that is lesion.
        grade: 0 to 1, how anaplastic the lesion is.
        artefacts: Names from ``artefacts.KINDS`` to have, or None to leave them to chance.
    """

    seed: int
    size_px: int
    site: Site
    tissue_fraction: float
    lesion_fraction: float
    grade: float
    artefacts: tuple[str, ...] | None


@lru_cache(maxsize=1)
def scene_of(recipe: Recipe) -> Scene:
    """Plan a slide (without drawing it)."""
    # one stream per part: a change of one does not shuffle the others
    parts = np.random.SeedSequence([recipe.seed, 0x5EED]).spawn(4)
    anatomy, layout, faults, stain = (np.random.default_rng(part) for part in parts)
    plan = plan_anatomy(
        anatomy, recipe.size_px, tissue_fraction=recipe.tissue_fraction, lesion_fraction=recipe.lesion_fraction
    )
    cells = plan_layout(layout, plan, sprite_bank(), grade=recipe.grade)
    both = stain.normal(0, 0.09)
    strength = float(np.exp(both + stain.normal(0, 0.08))), float(np.exp(both + stain.normal(0, 0.08)))
    offset = int(stain.integers(0, 1024)), int(stain.integers(0, 1024))
    contrast = float(np.exp(stain.normal(0, 0.13))), float(np.exp(stain.normal(0, 0.13)))
    blemishes = plan_artefacts(faults, plan, recipe.artefacts)
    return Scene(plan, cells, blemishes, recipe.site, strength, contrast, offset)


def _draw_rows(recipe: Recipe, span: tuple[int, int]) -> Pixels:
    y0, y1 = span
    return render(scene_of(recipe), 0, y0, recipe.size_px, y1 - y0)


def _rows(recipe: Recipe, processes: int) -> Iterator[Pixels]:
    spans = [(y, min(y + BLOCK_PX, recipe.size_px)) for y in range(0, recipe.size_px, BLOCK_PX)]
    return in_processes(partial(_draw_rows, recipe), spans, processes)


def plant_slide(
    path: str | os.PathLike[str],
    *,
    seed: int,
    size_px: int = 2048,
    site: int | Site = 0,
    tissue_fraction: float = 0.4,
    lesion_fraction: float = 0.2,
    grade: float = 0.5,
    artefacts: tuple[str, ...] | None = None,
    include_mpp: bool = True,
    processes: int = 1,
) -> SlideTruth:
    """Draw a slide and write it as a pyramidal Aperio-style SVS at 0.5 um per px.

    The same arguments give the same bytes, whatever the number of processes.

    Args:
        path: Where to write; an existing file is replaced.
        seed: Of everything that is drawn.
        size_px: Side of the square slide; beyond 5,000 it is a section with layers, not a biopsy.
        site: Number of a site, or its stains and scanner.
        tissue_fraction: Share of the slide that is tissue, 0 to about 0.6; 0 is bare glass.
        lesion_fraction: Share of the tissue that is lesion, 0 to 1.
        grade: 0 to 1, how anaplastic the lesion is.
        artefacts: Names from ``artefacts.KINDS`` to have; None leaves them to chance, () has none.
        include_mpp: False leaves the resolution out of the file.
        processes: Worker processes; 1 draws here.

    Returns:
        Where tissue, lesion and artefacts lie.

    Example:
        >>> truth = plant_slide("/tmp/planted.svs", seed=1, size_px=512, lesion_fraction=0.5)
        >>> round(truth.lesion_fraction, 1)
        0.5
    """
    if not 0 <= tissue_fraction <= 0.9 or not 0 <= lesion_fraction <= 1:
        raise ValueError(
            f"{path}: tissue_fraction {tissue_fraction} and lesion_fraction {lesion_fraction}, "
            "expected 0 to 0.9 and 0 to 1"
        )
    place = site if isinstance(site, Site) else site_of(site)
    recipe = Recipe(seed, size_px, place, tissue_fraction, lesion_fraction, grade, artefacts)
    path = Path(path)
    write_svs(
        path,
        _rows(recipe, processes),
        size_px=(size_px, size_px),
        mpp=MPP,
        quality=place.quality,
        include_mpp=include_mpp,
        properties={"Source": "wsikit.testing (synthetic)", "ScanScope ID": place.name},
    )
    scene = scene_of(recipe)
    return truth_of(path.stem, scene.anatomy, scene.artefacts, MPP)
