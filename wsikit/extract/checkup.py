"""One slide looked at before a run: what would become of it, without writing anything.

The checks go the way of planning itself (:func:`wsikit.extract.plan.find_tiles`), so that a slide
that passes here is planned with just as many tiles.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from wsikit.errors import TileReadError
from wsikit.extract.failure import failure_of
from wsikit.extract.inputs import SlideEntry
from wsikit.extract.outcome import DAMAGED
from wsikit.extract.plan import find_tiles, open_entry, refuse_empty
from wsikit.extract.settings import RunSettings
from wsikit.provenance import file_bytes, fingerprint
from wsikit.slides.slide import Slide
from wsikit.slides.stain_guess import guess_stain
from wsikit.slides.tiling import read_tile
from wsikit.slides.tissue_mask import TissueMask
from wsikit.store.format import check_slide_id

OK = "ok"
FLAT_PX = 4096
"""A single level with a longer side than this is slow to look at: it should have been a pyramid."""

_THUMBNAIL_PX = 1024


@dataclass(frozen=True)
class CheckupSettings:
    """What to look at.

    Args:
        run: The settings of the run to come; its store and report are not touched.
        sample: Tiles of each slide to read, drawn by the file's fingerprint: the same in every look.
        max_unreadable: As the run's.
    """

    run: RunSettings
    sample: int = 8
    max_unreadable: float = 0.0


@dataclass(frozen=True)
class SlideCheck:
    """What a run would find of one slide.

    Attributes:
        slide_id: The slide.
        path: Its file.
        state: "ok", or the word that the run's table would have ("no-mpp", "truncated", "damaged", ...).
        reason: What is wrong and what to do, or empty.
        remarks: What does not stop it, but should be known.
        tiles: Tiles that would be planned.
        dropped: Tiles with tissue that stick out of the slide's edge.
        sampled: How many of the planned tiles were read, of which
        unreadable: could not be.
        stain: A guess from the thumbnail's hues; "?" marks a weak one.
        mpp: Micrometres per level-0 pixel (x, y), or None.
        mpp_source: Where that stands, or "given".
        size_level0_px: (width, height), or None.
        levels: Levels of the pyramid.
        reader: Which reader opened it.
        file_bytes: Size on disk.
        fingerprint: Identity by content, or empty where the file cannot be read.
        plan_s: Seconds to find tissue and tiles here, and to make the thumbnail that a run draws them on.
        read_s: Seconds to read and decode one sampled tile here.
    """

    slide_id: str
    path: str
    state: str = OK
    reason: str = ""
    remarks: tuple[str, ...] = ()
    tiles: int = 0
    dropped: int = 0
    sampled: int = 0
    unreadable: int = 0
    stain: str = ""
    mpp: tuple[float, float] | None = None
    mpp_source: str = ""
    size_level0_px: tuple[int, int] | None = None
    levels: int = 0
    reader: str = ""
    file_bytes: int = 0
    fingerprint: str = ""
    plan_s: float = 0.0
    read_s: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether a run would do it."""
        return self.state == OK


def check_slide(entry: SlideEntry, settings: CheckupSettings) -> SlideCheck:
    """Open a slide, find its tiles, read some; whatever is wrong comes back as its state."""
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it finds wrong is said in the slide's row
    cv2.setNumThreads(1)
    facts: dict[str, object] = {}
    try:
        check_slide_id(entry.slide_id)
        facts |= {"file_bytes": file_bytes(entry.path), "fingerprint": fingerprint(entry.path)}
        _look(entry, settings, facts)
    except Exception as error:  # whatever is wrong with one slide must not hide the others
        failure = failure_of(error, entry)
        facts |= {"state": failure.state, "reason": failure.reason}
    return SlideCheck(entry.slide_id, str(entry.path), **facts)  # type: ignore[arg-type]


def _look(entry: SlideEntry, settings: CheckupSettings, facts: dict[str, object]) -> None:
    began = time.perf_counter()
    with open_entry(entry, settings.run) as slide:
        facts |= {
            "mpp": (slide.mpp.x, slide.mpp.y), "mpp_source": slide.mpp_source, "size_level0_px": slide.size,
            "levels": len(slide.level_sizes), "reader": slide.reader,
        }  # fmt: skip
        tissue, tiles = find_tiles(slide, entry, settings.run)
        facts["stain"] = str(guess_stain(*_thumbnail(slide, tissue)))
        facts |= {"tiles": len(tiles), "dropped": tiles.counts.edge_tissue, "plan_s": time.perf_counter() - began}
        facts["remarks"] = tuple(_remarks(slide, tissue))
        refuse_empty(entry, tissue, tiles, settings.run)
        rows = sampled_rows(str(facts["fingerprint"]), len(tiles), settings.sample)
        began, bad = time.perf_counter(), []
        for row in rows.tolist():
            try:
                read_tile(slide, tiles.choice, tiles.tile_px, tuple(tiles.coords[row].tolist()))
            except TileReadError:
                bad.append(row)
    read_s = (time.perf_counter() - began) / max(1, len(rows))
    facts |= {"sampled": len(rows), "unreadable": len(bad), "read_s": read_s}
    if len(bad) > settings.max_unreadable * len(rows):
        x, y = tiles.coords[bad[0]].tolist()
        facts["state"] = DAMAGED
        facts["reason"] = (
            f"slide {entry.slide_id}: {len(bad)} of {len(rows)} tiles read as a sample cannot be decoded, the first at "
            f"level-0 px ({x}, {y}); copy the file again, or allow it with --max-unreadable"
        )


def sampled_rows(identity: str, tiles: int, sample: int) -> npt.NDArray[np.int64]:
    """Rows of the tiles to read, sorted: without repetition, the same for the same file and number of tiles."""
    rng = np.random.default_rng(int(identity[:16], 16))
    return np.sort(rng.choice(tiles, min(sample, tiles), replace=False))


def _thumbnail(slide: Slide, tissue: TissueMask) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    rgb = slide.thumbnail(_THUMBNAIL_PX)
    mask = cv2.resize(tissue.mask.astype(np.uint8), (rgb.shape[1], rgb.shape[0]), interpolation=cv2.INTER_NEAREST)
    return rgb, mask.astype(np.bool_)


def _remarks(slide: Slide, tissue: TissueMask) -> list[str]:
    """What does not stop a slide, in words."""
    found = []
    if len(slide.level_sizes) == 1 and max(slide.size) > FLAT_PX:
        found.append(f"not pyramidal: one level of {slide.size[0]} x {slide.size[1]} px, slow to look at")
    if abs(slide.mpp.x / slide.mpp.y - 1) > 0.01:
        found.append(f"pixels are not square: mpp {slide.mpp.x:.6g} x {slide.mpp.y:.6g}")
    if tissue.unreadable_px:
        found.append(f"{tissue.unreadable_px / tissue.mask.size:.1%} of the overview cannot be decoded")
    return found
