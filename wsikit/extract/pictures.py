"""One overlay picture for every slide of a run, refused ones too, and a page that shows them all."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from wsikit.errors import MissingMppError, WsikitError
from wsikit.extract.inputs import SlideEntry
from wsikit.extract.outcome import SlideOutcome
from wsikit.geometry import Mpp
from wsikit.slides.base import Pixels

if TYPE_CHECKING:
    from wsikit.slides.slide import Slide
    from wsikit.slides.tiling import TileSet
    from wsikit.slides.tissue_mask import TissueMask

PICTURE_PX = 1024


def picture_path(report: Path, slide_id: str) -> Path:
    """Where a slide's overlay lies."""
    return report / "overlays" / f"{slide_id}.jpg"


def picture_plan(report: Path, slide_id: str, slide: Slide, tissue: TissueMask, tiles: TileSet) -> None:
    """The thumbnail with its tissue and tiles, and what they amount to."""
    rgb = slide.thumbnail(PICTURE_PX)
    boxes = _boxes(slide, rgb, tiles.coords, tiles.tile_level0_px)
    lines = ["no-tissue: no tile has enough tissue" for _ in range(not len(tiles))]
    lines += [
        f"{len(tiles):,} tiles of {tiles.tile_px} px at {tiles.achieved_mpp} um/px"
        f" ({'as scanned' if tiles.choice.resampler == 'none' else 'resampled'} from level {tiles.choice.level})",
        f"tissue {tissue.area_mm2:.2f} mm2 = {100 * tissue.fraction:.1f} % of the slide ({tissue.method})"
        + (f"; {tiles.counts.edge_tissue} tissue tiles dropped at the edge" if tiles.counts.edge_tissue else ""),
    ]
    save(picture_path(report, slide_id), _draw(slide, rgb, tissue.mask, boxes, slide_id, lines, ok=len(tiles) > 0))


def picture_stored(
    report: Path, slide_id: str, slide: Slide, coords: npt.NDArray[np.int32], attributes: Mapping[str, Any]
) -> None:
    """The thumbnail with the tiles of a slide that is planned already: the store keeps no outline of the tissue."""
    rgb = slide.thumbnail(PICTURE_PX)
    width, height = attributes["tile_level0_px"]
    lines = [f"{len(coords):,} tiles of {attributes['tile_px']} px at {Mpp(*attributes['achieved_mpp'])} um/px"]
    boxes = _boxes(slide, rgb, coords, (width, height))
    save(picture_path(report, slide_id), _draw(slide, rgb, None, boxes, slide_id, lines))


def _draw(
    slide: Slide,
    rgb: Pixels,
    mask: npt.NDArray[np.bool_] | None,
    boxes: npt.NDArray[np.float64],
    title: str,
    lines: list[str],
    *,
    ok: bool = True,
) -> Pixels:
    from wsikit.figures.overlay import draw_overlay

    um_per_px = slide.mpp.x * slide.size[0] / rgb.shape[1]
    return draw_overlay(rgb, mask, boxes, title=title, lines=lines, um_per_px=um_per_px, ok=ok)


def _boxes(
    slide: Slide, rgb: Pixels, coords: npt.NDArray[np.int32], tile_level0_px: tuple[float, float]
) -> npt.NDArray[np.float64]:
    """Tiles as (x, y, width, height) on a thumbnail, (N, 4)."""
    scale = np.array([rgb.shape[1] / slide.size[0], rgb.shape[0] / slide.size[1]])
    sizes = np.broadcast_to(np.array(tile_level0_px) * scale, coords.shape)
    return np.concatenate([coords * scale, sizes], axis=1)


def picture_refused(report: Path, entry: SlideEntry, state: str, reason: str) -> None:
    """The thumbnail, where the file opens at all, with the reason why the slide is not in the store."""
    from wsikit.figures.overlay import draw_overlay, draw_placard
    from wsikit.slides.open import open_slide

    lines = [f"{state}: {reason}"]
    mpp = entry.mpp or (1.0 if state == MissingMppError.state else None)  # a picture needs no resolution
    try:
        with open_slide(entry.path, mpp=mpp, scene=entry.scene, allow_unequal_mpp=True) as slide:
            rgb = slide.thumbnail(PICTURE_PX)
    except WsikitError:
        picture = draw_placard(entry.slide_id, lines)
    else:
        picture = draw_overlay(rgb, None, None, title=entry.slide_id, lines=lines, ok=False)
    save(picture_path(report, entry.slide_id), picture)


def save(path: Path, rgb: Pixels) -> None:
    """Write a picture whole or not at all."""
    import cv2

    from wsikit.store.objects import write_atomic

    good, data = cv2.imencode(path.suffix, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88])
    if not good:
        raise OSError(f"{path}: the picture of shape {rgb.shape} cannot be encoded")
    write_atomic(path, data.tobytes())


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
 body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem; color: #222; background: #fafafa }}
 .sheet {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(22rem, 1fr)); gap: 1.2rem }}
 figure {{ margin: 0; background: #fff; border: 1px solid #ddd; border-left: .35rem solid #2a7f3f; padding: .6rem }}
 figure.bad {{ border-left-color: #b3261e }}
 img {{ width: 100%; height: 16rem; object-fit: contain; background: #f2f2f2 }}
 figcaption {{ overflow-wrap: anywhere }} .why {{ color: #b3261e }} small {{ color: #666 }}
 summary {{ cursor: pointer; margin: 1rem 0 }}
</style>
<h1>{title}</h1><p>{summary}</p>
{sheets}
</html>
"""

SHEET_SLIDES = 200
"""Slides of one sheet: all but the first are folded, and a browser loads their pictures when they are opened."""


def write_page(report: Path, title: str, outcomes: Iterable[SlideOutcome]) -> Path:
    """``index.html``: every overlay, the slides that failed first, in sheets that open on demand."""
    outcomes = sorted(outcomes, key=lambda o: (o.ok, o.slide_id))
    pictures = {path.name for path in (report / "overlays").glob("*.jpg")}
    sheets = []
    for first in range(0, len(outcomes), SHEET_SLIDES):
        part = outcomes[first : first + SHEET_SLIDES]
        figures = "\n".join(_figure(o, picture_path(report, o.slide_id).name in pictures) for o in part)
        bad = sum(not o.ok for o in part)
        heading = (
            f"{html.escape(part[0].slide_id)} to {html.escape(part[-1].slide_id)}"
            if not bad
            else (f"{bad} not done" + (f", {len(part) - bad} done" if bad < len(part) else ""))
        )
        sheets.append(
            f"<details{' open' if not first else ''}><summary>{first + 1:,} to {first + len(part):,}: {heading}"
            f'</summary><div class="sheet">\n{figures}\n</div></details>'
        )
    bad = sum(not o.ok for o in outcomes)
    summary = (
        f"{len(outcomes)} slides, {len(outcomes) - bad} done, {bad} not. Outlined: tissue; boxes: tiles. "
        'All as a table: <a href="slides.csv">slides.csv</a>'
    )
    path = report / "index.html"
    page = _PAGE.format(title=html.escape(title), summary=summary, sheets="\n".join(sheets))
    path.write_text(page, encoding="utf-8")
    return path


def _figure(o: SlideOutcome, pictured: bool) -> str:
    """One slide of the page."""
    name, source = html.escape(o.slide_id), f"overlays/{quote(o.slide_id)}.jpg"
    image = f'<a href="{source}"><img src="{source}" alt="overlay of {name}" loading="lazy"></a>'
    image = image if pictured else "<p>no picture</p>"
    counts = f"{o.tiles:,} tiles" + (f", {o.unreadable:,} unreadable" if o.unreadable else "")
    why = "" if o.ok else f'<br><span class="why">{html.escape(o.state)}: {html.escape(o.reason)}</span>'
    return (
        f'<figure class="{"ok" if o.ok else "bad"}">{image}<figcaption><b>{name}</b> '
        f"<small>{counts}</small>{why}</figcaption></figure>"
    )
