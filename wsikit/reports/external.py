"""``report.html`` of an external validation: one file to read, to print and to send."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wsikit.cohort.endpoints import ClassTarget, ContinuousTarget, SurvivalTarget
from wsikit.evaluation.assessment import ClassSets
from wsikit.evaluation.external_result import ExternalResult
from wsikit.reports.crossval import template
from wsikit.reports.external_pictures import external_figures
from wsikit.reports.pictures import subgroup_figure
from wsikit.reports.tables import KeyNumber, flat, left_out, subgroup_table, table_of
from wsikit.reports.words import counted, interval_text, level_text, makeup, value_text
from wsikit.store.objects import write_atomic

ALWAYS = (
    "Intervals say how a number would vary with other patients of this cohort's kind. They are conditional on the "
    "fitted models.",
    "A cohort is one place. What holds here need not hold at the next hospital.",
)
"""What holds for every external validation."""


def write_external_report(result: ExternalResult) -> Path:
    """Write ``figures/*.png`` and ``report.html``, which holds everything it shows, into ``result.out``.

    Returns:
        Path of ``report.html``.

    Example:
        >>> result = evaluate_external("elsewhere.zarr", "run/models", "elsewhere.csv", out="external")
        ... # doctest: +SKIP
        >>> write_external_report(result)     # doctest: +SKIP
        PosixPath('external/report.html')
    """
    cohort, models = result.cohort, [m for m in (result.model, result.recalibrated) if m is not None]
    page = template("external.html").render(
        title="External validation",
        model=result.model.name,
        endpoint=cohort.endpoint.title,
        headline=_headline(result),
        key_numbers=_key_numbers(result),
        cautions=[*result.notes, *_found(result), *ALWAYS],
        frozen=_frozen(result),
        figures=external_figures(result, result.out / "figures"),
        metrics=table_of(models),
        recalibration=result.recalibration,
        absolute=result.absolute,
        subgroups=subgroup_table(result.subgroups, result.model, cohort.target),
        subgroup_picture=subgroup_figure(result.subgroups, result.model, result.out / "figures"),
        sets=_sets(result),
        unlike=result.unlike,
        flow=(counted(cohort.rows, "row"), counted(cohort.n_slides, "slide"), counted(len(cohort), "patient")),
        left_out=left_out(cohort),
        provenance=list(flat(result.manifest)),
    )
    path = result.out / "report.html"
    write_atomic(path, page.encode())
    return path


def _headline(result: ExternalResult) -> str:
    main, patients = result.model.metrics[0], counted(len(result.cohort), "patient")
    if main.value is None or main.interval is None:
        return f"{main.name} is not defined over {patients}: {main.note}."
    between = f"{level_text(main.interval)} interval {interval_text(main)}"
    return f"{main.name} {value_text(main)} ({between}) over {patients} who had no part in the models."


def _key_numbers(result: ExternalResult) -> list[KeyNumber]:
    found = []
    wanted = ("calibration slope", "calibration intercept", "observed / expected")
    for metric in (result.model.metrics[0], *(m for m in result.model.metrics if m.name in wanted)):
        value = value_text(metric) if metric.value is not None else "\N{EM DASH}"
        found.append(KeyNumber(value, metric.name, interval_text(metric) or metric.note))
    found.append(KeyNumber(f"{len(result.cohort):,}", "patients", makeup(result.cohort.target)))
    found.append(KeyNumber(f"{result.models}", "models", f"of {counted(result.trained, 'other patient')}"))
    if result.unlike is not None:
        flagged, n = int(result.unlike.flagged.sum()), len(result.unlike.flagged)
        found.append(
            KeyNumber(
                f"{flagged / n:.0%}", "unlike the training", f"{result.unlike.rate:.1%} of like patients would be"
            )
        )
    return found


def _frozen(result: ExternalResult) -> list[str]:
    """What was decided at training and stayed so."""
    found = ["The weights, the scale of the features and the epoch."]
    if result.threshold is not None:
        found.append(
            f"The threshold: a probability above {result.threshold:.3g} calls a patient positive. It was chosen at "
            f"training ({result.cuts})."
        )
    if isinstance(result.cohort.target, SurvivalTarget):
        found.append(f"The cut between low and high risk: chosen at training ({result.cuts}).")
    if result.subgroups:
        found.append("In the subgroups all of this is the same: nothing is chosen for one of them.")
    return found


def _found(result: ExternalResult) -> list[str]:
    """What the numbers warn of."""
    found = []
    slope = next((m for m in result.model.metrics if m.name == "calibration slope"), None)
    if slope is not None and slope.interval is not None and not slope.interval.low <= 1 <= slope.interval.high:
        shape = "too extreme" if slope.interval.high < 1 else "too timid"
        what = "risks" if isinstance(result.cohort.target, SurvivalTarget) else "predictions"
        found.append(f"The {what} are {shape}: the calibration slope is {value_text(slope)} ({interval_text(slope)}).")
    level = next((m for m in result.model.metrics if m.name == "calibration intercept"), None)
    if level is not None and level.interval is not None and not level.interval.low <= 0 <= level.interval.high:
        side = "low" if level.interval.low > 0 else "high"
        found.append(
            f"On the whole the predictions are too {side}: the calibration intercept is {value_text(level)} "
            f"({interval_text(level)})."
        )
    main = result.model.metrics[0]
    chance = 0.0 if isinstance(result.cohort.target, ContinuousTarget) else 0.5
    if main.interval is not None and main.interval.low <= chance:
        found.append(
            f"The interval of {main.name}, {interval_text(main)}, includes {chance:g}: guessing is not ruled out."
        )
    return found


def _sets(result: ExternalResult) -> list[tuple[str, str]]:
    """How many patients have a set of each size, in words."""
    sets = result.sets
    if not isinstance(sets, ClassSets):
        return []
    sizes, target = sets.inside.sum(1), result.cohort.target
    assert isinstance(target, ClassTarget)
    held = sets.inside[np.arange(len(sizes)), target.label]
    rows = []
    for size in range(len(sets.classes) + 1):
        mine = sizes == size
        name = sets.note(size) or counted(size, "class").replace("classs", "classes")
        right = f"{int(held[mine].sum())} of them hold the truth" if mine.any() and size else ""
        rows.append((name, f"{counted(int(mine.sum()), 'patient')}{'; ' if right else ''}{right}"))
    return rows
