"""How far a store is: done, failed, remaining, and whether a run is at it now."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsikit.errors import StoreError
from wsikit.extract.outcome import remembered
from wsikit.store import format as fmt
from wsikit.store.lease import holder
from wsikit.store.reader import FeatureStore
from wsikit.store.writer import missing_shards, read_plan


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
    """

    slides: tuple[SlideStatus, ...]
    running: str

    def count(self, state: str) -> int:
        """Rows in a state."""
        return sum(row.state == state for row in self.slides)


def store_status(store: FeatureStore) -> StoreStatus:
    """How far a store is; safe while another process writes to it."""
    root = store.path
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
                left = len(missing_shards(root, slide_id, key))
            except StoreError:  # removed by another process a moment ago
                continue
            failure = wrong.get(slide_id)
            state = "done" if not left else "unfinished"
            if failure is not None and (left or failure.state == "damaged"):
                state = failure.state
            reason = failure.reason if failure is not None and state == failure.state else ""
            rows.append(SlideStatus(slide_id, key, state, tiles, shards - left, shards, reason))
    known = set(planned)
    rows += [SlideStatus(s, "", o.state, reason=o.reason) for s, o in wrong.items() if s not in known]
    known.update(wrong)
    unplanned = [s for s in asked.get("slides", []) if s not in known]
    rows += [SlideStatus(s, key, "waiting") for s in unplanned for key in asked["keys"]]
    return StoreStatus(tuple(sorted(rows, key=lambda r: (r.slide_id, r.key))), holder(root))


def _asked(root: Path) -> dict[str, Any]:
    """What the last run was asked for."""
    try:
        note = json.loads((fmt.Layout(root).private / "run.json").read_bytes())
    except (OSError, json.JSONDecodeError):
        return {}
    return note if isinstance(note, dict) else {}
