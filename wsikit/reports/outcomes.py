"""``report.html`` of a cross-validation of several outcomes: one table of all, and a report of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from urllib.parse import quote

from wsikit.evaluation.result import CrossvalResult, Metric
from wsikit.evaluation.run_files import OUTCOMES
from wsikit.evaluation.several import SeveralResult
from wsikit.figures.forest import ForestRow, draw_forest
from wsikit.reports.crossval import template, write_report
from wsikit.reports.pictures import data_uri
from wsikit.reports.words import ALWAYS, cautions, counted, interval_text, level_text, makeup, value_text
from wsikit.store.objects import write_atomic

Say = Callable[[str], None]


@dataclass(frozen=True)
class OutcomeRow:
    """One outcome in the table of all.

    Attributes:
        name: Of the outcome.
        link: Its report, beside this one.
        patients: Who have it known, and their make-up.
        metric: Name, value and interval of its main metric.
        differences: Text and interval of the difference from every model compared with.
        notes: What a careful reader has to be told of it.
    """

    name: str
    link: str
    patients: tuple[str, str]
    metric: tuple[str, str, str]
    differences: tuple[tuple[str, str, str], ...]
    notes: tuple[str, ...]


def write_outcomes_report(result: SeveralResult, *, say: Say = lambda line: None) -> Path:
    """Write ``report.html`` of all outcomes, and the whole report of each into ``outcomes/NAME``.

    Args:
        result: From :func:`wsikit.evaluation.several.crossval_several`.
        say: Called with a line of text at each step.

    Returns:
        Path of the first page.

    Raises:
        ConfigError: As :func:`~wsikit.reports.crossval.write_report`.
    """
    for name, one in result.outcomes.items():
        say(f"report: {name}")
        write_report(one, say=say)
    rows = [_row(name, one) for name, one in result.outcomes.items()]
    picture = _picture(result)
    (result.out / "figures").mkdir(exist_ok=True)
    intervals = [one.model.metrics[0].interval for one in result.outcomes.values()]
    page = template("outcomes.html").render(
        title=result.experiment.name or "Cross-validation of several outcomes",
        model=next(iter(result.outcomes.values())).model.name,
        patients=counted(len(result.cohort), "patient"),
        slides=counted(result.cohort.n_slides, "slide"),
        folds=counted(len(result.splits.folds), "fold"),
        stratified=str(result.splits.made.get("stratified by", result.splits.made.get("balanced by", "the file"))),
        weights=_weights(result),
        rows=rows,
        level=next((level_text(i) for i in intervals if i is not None), ""),
        picture=None if picture is None else data_uri(picture[0], "png"),
        width_px=0 if picture is None else picture[1],
        leaks=_leaks(next(iter(result.outcomes.values()))),
        always=ALWAYS,
    )
    if picture is not None:
        write_atomic(result.out / "figures" / "outcomes.png", picture[0])
    path = result.out / "report.html"
    write_atomic(path, page.encode())
    say(f"report: {path}")
    return path


def _row(name: str, one: CrossvalResult) -> OutcomeRow:
    main = one.model.metrics[0]
    differences = tuple(
        (other.name, value_text(metric, signed=True), interval_text(metric, signed=True))
        for metric, other in zip(one.differences, one.baselines, strict=True)
    )
    shared = {*ALWAYS, *_leaks(one)}
    return OutcomeRow(
        name,
        f"{OUTCOMES}/{quote(name)}/report.html",
        (counted(len(one.cohort), "patient"), makeup(one.cohort.target)),
        (main.name, value_text(main), interval_text(main) or main.note),
        differences,
        tuple(note for note in cautions(one) if note not in shared),
    )


def _leaks(one: CrossvalResult) -> tuple[str, ...]:
    return () if one.audit is None else tuple(one.audit.leaks)


def _weights(result: SeveralResult) -> list[tuple[str, str]]:
    settings = result.experiment.endpoint
    learnt = ", and a learnt uncertainty" if settings.get("weighting") == "uncertainty" else ""
    return [(name, f"{one.get('weight', 1):g}{learnt}") for name, one in settings["outcomes"].items()]


def _picture(result: SeveralResult) -> tuple[bytes, int] | None:
    """The gain of every outcome over the first model that it is compared with, as PNG, and its width."""
    gains: list[tuple[str, Metric]] = [
        (f"{name}: {one.differences[0].name}", one.differences[0])
        for name, one in result.outcomes.items()
        if one.differences
    ]
    rows = [
        ForestRow(name, gain.value, gain.interval.low, gain.interval.high)
        for name, gain in gains
        if gain.value is not None and gain.interval is not None
    ]
    if not rows:
        return None
    figure, written = draw_forest(rows, name="Difference", reference=0.0), BytesIO()
    figure.savefig(written, format="png")
    return written.getvalue(), round(float(figure.get_figwidth()) * 92)
