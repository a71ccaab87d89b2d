"""The report's tables, as plain values that a template lays out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from wsikit.cohort.endpoints import Target
from wsikit.cohort.table import Cohort
from wsikit.evaluation.result import CrossvalResult, Metric, ModelResult, SubgroupResult
from wsikit.reports.words import counted, interval_text, level_text, makeup, value_text

LONGEST = 400
"""Characters of one value of the manifest that are shown; ``run.json`` has the rest."""


@dataclass(frozen=True)
class KeyNumber:
    """One of the large numbers at the top.

    Attributes:
        value: The number.
        name: What it is.
        detail: Below it.
    """

    value: str
    name: str
    detail: str


@dataclass(frozen=True)
class MetricCell:
    """A number of the table of metrics.

    Attributes:
        value: Rounded, or "not defined", or "" where a model does not have it.
        interval: ``0.79 to 0.94`` or "".
        note: Marks of the notes below the table, or "".
    """

    value: str
    interval: str
    note: str


@dataclass(frozen=True)
class MetricTable:
    """Metrics of the model and of its baselines.

    Attributes:
        models: Names, the model first.
        rows: Of each metric its name and a cell for each model.
        differences: Of each paired difference its name and its cell.
        notes: Mark and text of each note.
        level: Of the intervals: ``95 %``; "" where there are none.
        draws: Resamples behind each interval.
    """

    models: tuple[str, ...]
    rows: tuple[tuple[str, tuple[MetricCell, ...]], ...]
    differences: tuple[tuple[str, MetricCell], ...]
    notes: tuple[tuple[str, str], ...]
    level: str
    draws: int


@dataclass(frozen=True)
class SubgroupTable:
    """The model's metrics among some of the patients.

    Attributes:
        names: Of the metrics.
        rows: Of each subgroup its column, name, patients, make-up, and a cell for each metric.
        notes: Mark and text of each note.
    """

    names: tuple[str, ...]
    rows: tuple[tuple[str, str, str, str, tuple[MetricCell, ...]], ...]
    notes: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class LeftOut:
    """Slides or patients that one reason left out.

    Attributes:
        kind: "slide" or "patient".
        reason: Why.
        names: Their ids.
    """

    kind: str
    reason: str
    names: tuple[str, ...]

    @property
    def count(self) -> str:
        """``3 slides``."""
        return counted(len(self.names), self.kind)


@dataclass(frozen=True)
class FoldRow:
    """One fold in the table of splits.

    Attributes:
        name: "1", "2", ...
        test: Patients that are reported, and their make-up.
        rest: All other patients of the fold, and their make-up.
        models: How many were fitted.
        train: Patients that fitted each ("48", or "48 to 49").
        validation: Patients that watched each.
    """

    name: str
    test: tuple[str, str]
    rest: tuple[str, str]
    models: int
    train: str
    validation: str


def key_numbers(result: CrossvalResult) -> list[KeyNumber]:
    """The main metric, the gain over the first baseline, patients, slides and models."""
    main, cohort = result.model.metrics[0], result.cohort
    between = f"{level_text(main.interval)} interval {interval_text(main)}" if main.interval else main.note
    found = [KeyNumber(value_text(main) if main.value is not None else "\N{EM DASH}", main.name, between)]
    for metric in result.differences[:1]:
        if metric.value is not None:
            found.append(KeyNumber(value_text(metric, signed=True), metric.name, interval_text(metric, signed=True)))
    found.append(KeyNumber(f"{len(cohort):,}", "patients", makeup(cohort.target)))
    many = sum(exclusion.kind == "slide" for exclusion in cohort.exclusions)
    found.append(
        KeyNumber(f"{cohort.n_slides:,}", "slides", f"{many:,} left out, see below" if many else "none left out")
    )
    folds, times = counted(len(result.splits.folds), "fold"), 1 + len(result.repeats)
    tested = "each patient tested once" if times == 1 else f"dealt {times} times, each patient tested in each"
    models = len(result.members) + sum(len(one.members) for one in result.repeats) + len(result.scratch)
    halves = ", half of them from scratch" if result.scratch else ""
    found.append(KeyNumber(f"{models}", "models", f"{folds}, {tested}{halves}"))
    return found


def metric_table(result: CrossvalResult) -> MetricTable:
    """Every metric of every model, in the order in which the first model that has it names it."""
    return table_of((result.model, *result.baselines), result.differences)


def table_of(models: Sequence[ModelResult], paired: Sequence[Metric] = ()) -> MetricTable:
    """The same of any models, with paired differences where there are some."""
    names = list(dict.fromkeys(m.name for model in models for m in model.metrics))
    notes: dict[str, str] = {}
    rows = []
    for name in names:
        found = [next((m for m in model.metrics if m.name == name), None) for model in models]
        rows.append((name, tuple(_cell(metric, notes) for metric in found)))
    differences = tuple((metric.name, _cell(metric, notes, signed=True)) for metric in paired)
    intervals = [m.interval for m in models[0].metrics if m.interval is not None]
    return MetricTable(
        models=tuple(model.name for model in models),
        rows=tuple(rows),
        differences=differences,
        notes=tuple((mark, text) for text, mark in notes.items()),
        level=level_text(intervals[0]) if intervals else "",
        draws=intervals[0].draws if intervals else 0,
    )


def subgroup_table(groups: Sequence[SubgroupResult], model: ModelResult, target: Target) -> SubgroupTable | None:
    """Every subgroup with every metric of the model; None where none was asked for.

    Args:
        groups: Of the patients.
        model: What was measured among them.
        target: Of all patients.
    """
    if not groups:
        return None
    notes: dict[str, str] = {}
    names = [m.name for m in model.metrics]
    rows = []
    for group in groups:
        # how a metric is measured is said below the first table; here only why one cannot be had
        found = {m.name: m if m.value is None else replace(m, note="") for m in group.metrics}
        cells = tuple(_cell(found.get(name), notes) for name in names)
        made = makeup(target.take(group.rows))
        rows.append((group.column, group.name, counted(len(group.rows), "patient"), made, cells))
    return SubgroupTable(tuple(names), tuple(rows), tuple((mark, text) for text, mark in notes.items()))


def _cell(metric: Metric | None, notes: dict[str, str], *, signed: bool = False) -> MetricCell:
    if metric is None:
        return MetricCell("", "", "")
    mark = ""
    if metric.note:
        mark = notes.setdefault(metric.note, chr(ord("a") + len(notes)) if len(notes) < 26 else str(len(notes)))
    return MetricCell(value_text(metric, signed=signed), interval_text(metric, signed=signed), mark)


def left_out(cohort: Cohort) -> list[LeftOut]:
    """Exclusions by reason: slides first, the most frequent first."""
    names: dict[tuple[str, str], list[str]] = {}
    for exclusion in cohort.exclusions:
        names.setdefault((exclusion.kind, exclusion.reason), []).append(exclusion.name)
    found = [LeftOut(kind, reason, tuple(ids)) for (kind, reason), ids in names.items()]
    return sorted(found, key=lambda one: (one.kind != "slide", -len(one.names), one.reason))


def fold_rows(result: CrossvalResult) -> list[FoldRow]:
    """Who was tested, and who fitted and watched the models, fold by fold."""
    cohort, rows = result.cohort, []
    for number, fold in enumerate(result.splits.folds):
        mine = [m for m in result.members if m.fold == number]
        parts = []
        for patients in (fold.test, (*fold.train, *fold.validation)):
            target = cohort.target.take(cohort.index(sorted(patients)))
            parts.append((f"{len(patients)}", makeup(target)))
        rows.append(
            FoldRow(
                f"{number + 1}",
                parts[0],
                parts[1],
                len(mine),
                _range([m.train for m in mine]),
                _range([m.validation for m in mine]),
            )
        )
    return rows


def _range(counts: list[int]) -> str:
    if not counts:
        return "\N{EM DASH}"
    low, high = int(np.min(counts)), int(np.max(counts))
    return f"{low}" if low == high else f"{low} to {high}"


def splits_made(result: CrossvalResult) -> str:
    """How the splits came about: ``5 folds, seed 0, ...``, as the splits say it."""
    return "; ".join(f"{name}: {_plain(value)}" for name, value in result.splits.made.items())


def flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """(dotted name, value as text) of everything in nested settings."""
    for name, value in values.items():
        here = f"{above} \N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK} {name}" if above else str(name)
        if isinstance(value, Mapping) and value:
            yield from flat(value, here)
        else:
            yield here, _plain(value)


def _plain(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
