"""What became of each slide: the states, the records between runs, and the tables."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from wsikit.store.format import Layout
from wsikit.store.objects import files_below, write_atomic
from wsikit.store.places import StorePath

DONE = "done"
DAMAGED = "damaged"
"""All tiles were tried, and more of them than allowed could not be read; the others are in the store."""


@dataclass(frozen=True)
class SlideOutcome:
    """One row of a run's results table.

    Attributes:
        slide_id: The slide.
        state: "done", or the word for what is wrong ("no-mpp", "no-tissue", "unreadable", ...).
        tiles: Tiles planned, those that could not be read included.
        unreadable: Tiles without a feature.
        dropped: Tiles with tissue that stick out of the slide's edge and were not read.
        seconds: Time that workers spent on it in this run.
        reason: What is wrong and what to do, or empty.
        traceback: For failures that no check foresaw.
    """

    slide_id: str
    state: str
    tiles: int = 0
    unreadable: int = 0
    dropped: int = 0
    seconds: float = 0.0
    reason: str = ""
    traceback: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong with the slide."""
        return self.state == DONE


def remember(store: StorePath, outcome: SlideOutcome) -> None:
    """Keep what a run said of a slide that failed, for ``wsikit status``; forget it when it is done."""
    path = Layout(store).outcome(outcome.slide_id)
    if outcome.ok:
        path.unlink(missing_ok=True)
    else:
        write_atomic(path, json.dumps(asdict(outcome), sort_keys=True, indent=1).encode())


def remembered(store: StorePath) -> dict[str, SlideOutcome]:
    """Failures that earlier runs left, by slide id."""
    found = {}
    for path in files_below(Layout(store).outcomes):
        if path.suffix != ".json":
            continue
        outcome = SlideOutcome(**json.loads(path.read_bytes()))
        found[outcome.slide_id] = outcome
    return found


COLUMNS = ("slide_id", "state", "tiles", "unreadable", "dropped", "seconds", "reason")


def write_tables(folder: Path, outcomes: Iterable[SlideOutcome]) -> tuple[Path, Path]:
    """Write ``slides.csv`` (all) and ``failures.csv`` (those not done, with traceback)."""
    folder.mkdir(parents=True, exist_ok=True)
    outcomes = sorted(outcomes, key=lambda o: o.slide_id)
    tables = folder / "slides.csv", folder / "failures.csv"
    _write(tables[0], COLUMNS, outcomes)
    _write(tables[1], (*COLUMNS, "traceback"), [o for o in outcomes if not o.ok])
    return tables


def _write(path: Path, columns: Sequence[str], outcomes: Sequence[SlideOutcome]) -> None:
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(columns)
        for outcome in outcomes:
            row = {**asdict(outcome), "seconds": round(outcome.seconds, 2)}
            writer.writerow([row[name] for name in columns])
