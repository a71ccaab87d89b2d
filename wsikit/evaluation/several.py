"""Cross-validation of models that learn several outcomes: fitted once, measured outcome by outcome."""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.cohort.endpoints import endpoint_from, endpoint_settings
from wsikit.cohort.several_outcomes import Several, SeveralTarget
from wsikit.cohort.splits import Splits, save_splits, within
from wsikit.cohort.table import PATIENT, Cohort, Exclusion
from wsikit.errors import ConfigError
from wsikit.evaluation.crossval import measured
from wsikit.evaluation.fitting import Fitted, fit_all
from wsikit.evaluation.members import MemberJob, MemberResult, Spread
from wsikit.evaluation.result import CrossvalResult
from wsikit.evaluation.run_files import METRIC_COLUMNS, OUTCOMES, metric_cells, truth_columns, write_history, write_run
from wsikit.evaluation.settings import Experiment
from wsikit.store.objects import remove_tree, write_atomic
from wsikit.tasks.several import SeveralTask
from wsikit.tasks.task import create_task

Say = Callable[[str], None]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SeveralResult:
    """A cross-validation of several outcomes.

    Attributes:
        experiment: What was asked.
        cohort: Patients with any outcome, slides, exclusions.
        splits: Who was tested when, for every outcome.
        fold: (P,) int64, the fold that tested each patient.
        outcomes: Name and result of each, as if it had been asked for alone: of the patients who have it known.
        manifest: ``run.json``.
    """

    experiment: Experiment
    cohort: Cohort
    splits: Splits
    fold: Rows
    outcomes: Mapping[str, CrossvalResult]
    manifest: Mapping[str, Any]

    @property
    def out(self) -> Path:
        """The folder of the results."""
        return self.experiment.out


def crossval_several(
    experiment: Experiment,
    *,
    workers: int | None = None,
    spread: Spread | None = None,
    say: Say = lambda line: None,
) -> SeveralResult:
    """Cross-validate a model of several outcomes.

    Models are fitted as by :func:`~wsikit.evaluation.crossval.crossval`, with folds dealt by the main outcome. Each
    outcome is then measured on the tested patients who have it known, against baselines fitted on the others who do.

    Written into ``experiment.out``: ``run.json``, ``splits.csv``, ``models/``, ``history.csv``, ``predictions.csv`` of
    everybody and ``metrics.csv`` of every outcome; in ``outcomes/NAME/`` the files that a run of this outcome alone
    has, which ``wsikit compare`` and ``wsikit audit`` read. ``wsikit.reports`` adds the reports.

    Args:
        experiment: Whose endpoint is of kind ``several``.
        workers: Processes; default one for each core.
        spread: Instead of them, as for ``crossval``.
        say: Called with a line of text at each step.

    Raises:
        ConfigError: An endpoint of one outcome, one that none of a model's training patients has known, and whatever
            ``crossval`` raises.
    """
    endpoint = endpoint_from(experiment.endpoint)
    if not isinstance(endpoint, Several):
        raise ConfigError(f"endpoint of kind {endpoint.kind!r}, expected 'several'; call crossval for one outcome")
    with contextlib.ExitStack() as held:
        fitted = fit_all(experiment, held=held, workers=workers, spread=spread, say=say)
        remove_tree(experiment.out / OUTCOMES)  # of an earlier run
        results = {}
        for number, name in enumerate(endpoint.names):
            say(f"measuring {name}: {experiment.evaluation.bootstrap} resamples of patients")
            mine = of_outcome(fitted, number)
            mine.experiment.out.mkdir(parents=True)
            for repeat, one in enumerate(mine.dealt):
                save_splits(one, mine.experiment.out / (f"splits-{repeat + 1}.csv" if repeat else "splits.csv"))
            results[name] = measured(mine)
            write_run(results[name])
        fold = fitted.dealt[0].test_fold(fitted.cohort.patients)
        result = SeveralResult(experiment, fitted.cohort, fitted.dealt[0], fold, results, fitted.manifest)
        _write(result, [m for m in fitted.members if m.job.repeat == 0])
    return result


def of_outcome(fitted: Fitted, number: int) -> Fitted:
    """Fitted models as if one outcome were all there is: its patients, its columns, a folder of its own.

    Args:
        fitted: Of an endpoint with several outcomes.
        number: Of the outcome.
    """
    whole, endpoint = fitted.cohort, fitted.cohort.endpoint
    assert isinstance(endpoint, Several)
    assert isinstance(whole.target, SeveralTarget)
    name, one = endpoint.outcomes[number]
    rows = np.flatnonzero(whole.target.parts[number].known)
    cohort = _narrowed(whole, number, rows)
    task = create_task(endpoint, whole.target)
    assert isinstance(task, SeveralTask)
    columns = task.columns_of[number]
    place = np.full(len(whole), -1, np.int64)
    place[rows] = np.arange(len(rows))
    asked = fitted.experiment
    experiment = asked.model_copy(
        update={
            "out": asked.out / OUTCOMES / name,
            "name": f"{asked.name}: {name}" if asked.name else name,
            "endpoint": endpoint_settings(one),
        }
    )
    dealt = tuple(within(splits, cohort) for splits in fitted.dealt)
    empty = [str(i + 1) for i, fold in enumerate(dealt[0].folds) if not fold.test]
    notes = list(fitted.notes)
    if empty:
        notes.insert(0, f"No tested patient of fold {', '.join(empty)} has {name} known: no number here is of them.")
    manifest = dict(fitted.manifest) | {
        "name": experiment.name, "outcome": name, "endpoint": endpoint_settings(one), "patients with it": len(rows),
    }  # fmt: skip
    return replace(
        fitted, experiment=experiment, cohort=cohort, dealt=dealt, manifest=manifest,
        members=tuple(_member(m, place, columns) for m in fitted.members),
        scratch=tuple(_member(m, place, columns) for m in fitted.scratch),
        simple=tuple(replace(model, features=model.features[rows]) for model in fitted.simple),
        notes=tuple(notes), outcome=name, first_column=columns.start,
    )  # fmt: skip


def _narrowed(whole: Cohort, number: int, rows: Rows) -> Cohort:
    """The patients who have an outcome known; the others are left out and say why."""
    assert isinstance(whole.endpoint, Several)
    assert isinstance(whole.target, SeveralTarget)
    name, endpoint = whole.endpoint.outcomes[number]
    kept = set(rows.tolist())
    left = [Exclusion("patient", p, f"{name} not known") for i, p in enumerate(whole.patients) if i not in kept]
    return replace(
        whole,
        patients=tuple(whole.patients[i] for i in rows),
        slides=tuple(whole.slides[i] for i in rows),
        endpoint=endpoint,
        target=whole.target.parts[number].target,
        columns={column: tuple(values[i] for i in rows) for column, values in whole.columns.items()},
        exclusions=(*whole.exclusions, *left),
    )


def _member(result: MemberResult, place: Rows, columns: slice) -> MemberResult:
    """A model and its predictions of an outcome's patients, who have other positions."""
    job = result.job
    train, validation, test = (place[rows] for rows in (job.train, job.validation, job.test))
    rest = np.concatenate([train, validation])
    own = MemberJob(
        job.fold, job.number, train[train >= 0], validation[validation >= 0], test[test >= 0], job.repeat, job.scratch
    )
    member = replace(
        result.member, train=len(own.train), validation=len(own.validation),
        bundle=Path("..") / ".." / result.member.bundle,
    )  # fmt: skip
    return MemberResult(
        own,
        member,
        result.prediction[test >= 0][:, columns],
        result.rest[rest >= 0][:, columns],
        [weights for weights, position in zip(result.attention, test.tolist(), strict=True) if position >= 0],
    )


def _write(result: SeveralResult, members: Sequence[MemberResult]) -> None:
    """Predictions of all patients, metrics of all outcomes, the course of the trainings, and ``run.json``."""
    cohort, out = result.cohort, result.out
    task = create_task(cohort.endpoint, cohort.target)
    prediction, times = np.zeros((len(cohort), len(task.columns))), np.zeros((len(cohort), 1))
    for member in members:
        prediction[member.job.test] += member.prediction
        times[member.job.test] += 1
    prediction /= times
    truth = truth_columns(cohort.target)
    with (out / "predictions.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([PATIENT, "fold", *truth, *task.columns])
        for i, patient in enumerate(cohort.patients):
            numbers = [repr(float(value)) for value in prediction[i]]
            writer.writerow([patient, result.fold[i], *(column[i] for column in truth.values()), *numbers])
    with (out / "metrics.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["outcome", "patients", "model", *METRIC_COLUMNS])
        for name, one in result.outcomes.items():
            count = len(one.cohort)
            for model in (one.model, *one.baselines):
                writer.writerows([name, count, model.name, *metric_cells(metric)] for metric in model.metrics)
            writer.writerows([name, count, one.model.name, *metric_cells(metric)] for metric in one.differences)
    write_history(out / "history.csv", [m.member for m in members])
    found = {name: {m.name: m.value for m in one.model.metrics} for name, one in result.outcomes.items()}
    text = json.dumps(dict(result.manifest) | {"results": {"metrics": found}}, indent=2)
    write_atomic(out / "run.json", f"{text}\n".encode())
