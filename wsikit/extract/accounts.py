"""The account of every slide of a run: between its plan and its last shard, and what became of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from wsikit.extract.failure import Failure
from wsikit.extract.outcome import DAMAGED, DONE, SlideOutcome, remember, write_tables
from wsikit.extract.pictures import write_page
from wsikit.store.format import shards_of
from wsikit.store.places import StorePath

if TYPE_CHECKING:
    from wsikit.extract.run import Progress
    from wsikit.extract.worker import Encoded, Planned


@dataclass
class _Account:
    """A slide between its plan and its last shard; ``not_ok`` has the tiles without a feature, by encoder."""

    tiles: int = 0
    dropped: int = 0
    left: int = 0
    seconds: float = 0.0
    not_ok: Counter[str] = field(default_factory=Counter)
    failure: Failure | None = None


class Accounts:
    """What workers report, added up: a few numbers for each slide that is under way, one outcome after that.

    Args:
        store: The store.
        slide_ids: All slides of the run.
        max_unreadable: Share of a slide's tiles that may be unreadable.
        progress: Told what happens.

    Attributes:
        outcomes: By slide id, of the slides to which nothing more will happen.
    """

    def __init__(self, store: StorePath, slide_ids: Sequence[str], max_unreadable: float, progress: Progress) -> None:
        self._store, self._slide_ids = store, slide_ids
        self._max_unreadable, self._progress = max_unreadable, progress
        self._open: dict[str, _Account] = {}
        self.outcomes: dict[str, SlideOutcome] = {}

    def planned(self, plan: Planned) -> None:
        """A slide is planned, or cannot be."""
        if plan.failure is not None:
            self._progress.planned(plan.slide_id, 0)
            self._finish(plan.slide_id, _Account(seconds=plan.seconds, failure=plan.failure))
            return
        left = sum(len(keys) for keys in plan.missing.values())  # a tile counts once for each encoder
        self._progress.planned(plan.slide_id, round(plan.tiles * left / max(1, shards_of(plan.tiles))))
        account = _Account(plan.tiles, plan.dropped, len(plan.missing), plan.seconds, Counter(plan.not_ok))
        if plan.missing:
            self._open[plan.slide_id] = account
        else:
            self._finish(plan.slide_id, account)

    def encoded(self, result: Encoded) -> None:
        """A shard is done, or failed."""
        account = self._open[result.slide_id]
        account.left -= 1
        account.seconds += result.seconds
        account.not_ok.update(result.not_ok)
        account.failure = account.failure or result.failure
        if account.left == 0:
            self._finish(result.slide_id, self._open.pop(result.slide_id))

    def _finish(self, slide_id: str, account: _Account) -> None:
        tiles, failure = account.tiles, account.failure
        unreadable = 0 if failure else max(account.not_ok.values(), default=0)
        state, reason, trace = DONE, "", ""
        if failure:
            state, reason, trace = failure.state, failure.reason, failure.traceback
        elif unreadable > self._max_unreadable * tiles:
            state = DAMAGED
            reason = (
                f"slide {slide_id}: {unreadable} of {tiles} tiles have no feature (status 1: not decoded, 2: not "
                "finite); the others are in the store; copy the file again, or allow it with --max-unreadable"
            )
        outcome = SlideOutcome(slide_id, state, tiles, unreadable, account.dropped, account.seconds, reason, trace)
        self.outcomes[slide_id] = outcome
        remember(self._store, outcome)
        self._progress.finished(outcome)

    def write(self, report: Path) -> None:
        """Tables and page, of an interrupted run too: what it did not reach is "not-reached"."""
        rest = [slide_id for slide_id in self._slide_ids if slide_id not in self.outcomes]
        reason = "the run ended before this slide; the same command goes on"
        everything = [*self.outcomes.values(), *(SlideOutcome(s, "not-reached", reason=reason) for s in rest)]
        try:
            write_tables(report, everything)
            write_page(report, f"{self._store.name}: {len(everything)} slides", everything)
        except OSError as error:  # a full disk must not hide why the run ended
            self._progress.say(f"the tables in {report} could not be written: {error}")
