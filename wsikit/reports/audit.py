"""The page of an audit: one colour for all, then each question with its answer, a picture, and what to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from wsikit.cohort.table import Cohort
from wsikit.evaluation.audit.check import AMBER, GREEN, RED, Check, worst
from wsikit.figures.against_chance import draw_against_chance
from wsikit.reports.crossval import template
from wsikit.reports.pictures import data_uri
from wsikit.reports.words import counted
from wsikit.store.objects import write_atomic

COLOURS = {GREEN: "#2A7F3F", AMBER: "#B45F06", RED: "#B3261E"}
WORDS = {
    GREEN: "Nothing was found that speaks against this cohort.",
    AMBER: "Some questions need an answer before results are believed.",
    RED: "Results on this cohort would not mean what they seem to.",
}


@dataclass(frozen=True)
class ShownCheck:
    """A check on the page.

    Attributes:
        check: The question and its answer.
        source: Its picture as a data URI, or "".
        alt: What the picture shows.
    """

    check: Check
    source: str
    alt: str


def write_audit(checks: Sequence[Check], cohort: Cohort, path: Path, *, title: str) -> Path:
    """Write an audit as one HTML file that holds all it shows.

    Args:
        checks: From :func:`wsikit.evaluation.audit.cohort.audit_cohort`.
        cohort: What was asked.
        path: The file.
        title: Of the page.

    Returns:
        The path.

    Example:
        >>> write_audit(checks, cohort, Path("audit.html"), title="Colon")     # doctest: +SKIP
    """
    order = {RED: 0, AMBER: 1, GREEN: 2}
    shown = [_shown(check) for check in sorted(checks, key=lambda check: order[check.verdict])]
    verdict, counts = worst(checks), Counter(check.verdict for check in checks)
    page = template("audit.html").render(
        title=title,
        verdict=verdict,
        words=WORDS[verdict],
        counts=[(colour, counts[colour]) for colour in (RED, AMBER, GREEN)],
        about=f"{counted(len(cohort), 'patient')}, {counted(cohort.n_slides, 'slide')}, features {cohort.encoder}",
        left_out=[f"{n} x {reason}" for reason, n in cohort.excluded.items()],
        checks=shown,
        colours=COLOURS,
    )
    write_atomic(path, page.encode())
    return path


def _shown(check: Check) -> ShownCheck:
    number = check.number
    if number is None:
        return ShownCheck(check, "", "")
    figure = draw_against_chance(
        number.value,
        chance=number.chance,
        name=number.measure,
        interval=None if number.interval is None else (number.interval.low, number.interval.high),
        random=number.random,
        others=number.others,
        colour=COLOURS[check.verdict],
    )
    written = BytesIO()
    figure.savefig(written, format="png")
    return ShownCheck(check, data_uri(written.getvalue(), "png"), f"{number.measure} beside chance")
