"""How far a store is: done, failed, remaining, and whether a run is at it now."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from wsikit.errors import StoreError
from wsikit.extract.devices import Agreement, agreements
from wsikit.extract.outcome import remembered
from wsikit.store import format as fmt
from wsikit.store.lease import holder
from wsikit.store.places import StorePath
from wsikit.store.reader import FeatureStore
from wsikit.store.writer import missing_shards, read_plan

LATEST, LEAST, GAP_S = 200, 3, 600.0
"""The pace is taken over so many shards at most, and so many at least; a longer pause is a stop."""


@dataclass(frozen=True)
class SlideStatus:
    """How far one slide is.

    Attributes:
        slide_id: The slide.
        key: Key of the encoder's features, or "" where the slide is not planned.
        state: "done", "unfinished", "waiting" (asked for, not planned yet), or the last run's word for what is wrong.
        tiles: Tiles planned.
        shards_done: Shards finished, of
        shards: all.
        reason: What is wrong, or empty.
    """

    slide_id: str
    key: str
    state: str
    tiles: int = 0
    shards_done: int = 0
    shards: int = 0
    reason: str = ""


@dataclass(frozen=True)
class StoreStatus:
    """How far a store is.

    Attributes:
        slides: One row per slide and encoder.
        running: Who holds the store now, in words, or empty.
        tiles_done: Tiles whose shard is finished.
        tiles_left: Tiles still to do; slides that are not planned yet count with the mean of the others.
        tiles_per_s: How fast the latest shards were finished, or None where there are too few to tell.
        seconds_left: At that pace, or None while nothing runs or the pace is not known.
        agreements: Of features by several kinds of device: how well these agree.
    """

    slides: tuple[SlideStatus, ...]
    running: str
    tiles_done: int = 0
    tiles_left: int = 0
    tiles_per_s: float | None = None
    seconds_left: float | None = None
    agreements: tuple[Agreement, ...] = ()

    def count(self, state: str) -> int:
        """Rows in a state."""
        return sum(row.state == state for row in self.slides)


def store_status(store: FeatureStore) -> StoreStatus:
    """How far a store is; safe while another process writes to it."""
    root, layout = store.path, fmt.Layout(store.path)
    finished: list[tuple[float, int]] = []  # when a shard's record was written, and its rows
    tiles_left = 0
    wrong, asked = remembered(root), _asked(root)
    rows: list[SlideStatus] = []
    planned = store.slide_ids
    for slide_id in planned:
        tiles, _ = read_plan(root, slide_id)
        shards = fmt.shards_of(tiles)
        keys = store.keys(slide_id)
        if slide_id in asked.get("slides", []):
            wanted = [key for key in asked["keys"] if key not in keys]
            rows += [SlideStatus(slide_id, key, "waiting", tiles, 0, shards) for key in wanted]
        for key in keys:
            try:
                missing = missing_shards(root, slide_id, key)
                records = {s: layout.shard_record(slide_id, key, s) for s in set(range(shards)) - set(missing)}
                finished += [(path.stat().st_mtime, _rows(s, tiles)) for s, path in records.items()]
            except (StoreError, FileNotFoundError):  # removed by another process a moment ago
                continue
            left = len(missing)
            failure = wrong.get(slide_id)
            state = "done" if not left else "unfinished"
            if failure is not None and (left or failure.state == "damaged"):
                state = failure.state
            if state == "unfinished":
                tiles_left += sum(_rows(s, tiles) for s in missing)
            reason = failure.reason if failure is not None and state == failure.state else ""
            rows.append(SlideStatus(slide_id, key, state, tiles, shards - left, shards, reason))
    known = set(planned)
    rows += [SlideStatus(s, "", o.state, reason=o.reason) for s, o in wrong.items() if s not in known]
    known.update(wrong)
    unplanned = [s for s in asked.get("slides", []) if s not in known]
    rows += [SlideStatus(s, key, "waiting") for s in unplanned for key in asked["keys"]]
    waiting = [r for r in rows if r.state == "waiting"]
    sizes = [r.tiles for r in rows if r.tiles]
    mean = sum(sizes) / len(sizes) if sizes else 0.0
    tiles_left += round(sum(r.tiles or mean for r in waiting))
    running, pace = holder(root), _pace(finished)
    return StoreStatus(
        tuple(sorted(rows, key=lambda r: (r.slide_id, r.key))),
        running,
        tiles_done=sum(rows for _, rows in finished),
        tiles_left=tiles_left,
        tiles_per_s=pace,
        seconds_left=tiles_left / pace if pace and running else None,
        agreements=agreements(root),
    )


def _rows(shard: int, tiles: int) -> int:
    span = fmt.rows_of(shard, tiles)
    return int(span.stop - span.start)


def _pace(finished: list[tuple[float, int]]) -> float | None:
    """Tiles per second over the latest shards, by the clock of the disk that they were written to.

    Pauses between runs do not count: the look back ends at a gap of ten minutes.
    """
    latest = sorted(finished)[-LATEST:]
    for i in range(len(latest) - 1, 0, -1):
        if latest[i][0] - latest[i - 1][0] > GAP_S:
            latest = latest[i:]
            break
    seconds = latest[-1][0] - latest[0][0] if latest else 0.0
    # The first shard was worked on before the span begins.
    return sum(rows for _, rows in latest[1:]) / seconds if len(latest) >= LEAST and seconds > 0 else None


def _asked(root: StorePath) -> dict[str, Any]:
    """What the last run was asked for."""
    try:
        note = json.loads((fmt.Layout(root).private / "run.json").read_bytes())
    except (OSError, json.JSONDecodeError):
        return {}
    if not isinstance(note, dict):
        return {}
    return {"keys": [note["key"]], **note} if "key" in note else note  # one encoder a run, in wsikit 0.1
