"""The tables and the record of a run: written by a cross-validation, read again for a comparison."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

import numpy as np

from wsikit.cohort.endpoints import ClassLabel, ClassTarget, Endpoint, SurvivalTarget, Target, endpoint_from, lacking
from wsikit.cohort.several_labels import Labels, LabelsTarget
from wsikit.cohort.several_outcomes import Several, SeveralTarget
from wsikit.cohort.table import PATIENT, SLIDE, read_rows
from wsikit.errors import ConfigError
from wsikit.evaluation.result import CrossvalResult, Member, Metric, Round, SubgroupResult
from wsikit.evaluation.tuning.folds import ON_THESE, budget_words
from wsikit.tasks.task import Values, create_task

NOT_RECORDED = "not recorded"

OUTCOMES = "outcomes"
"""Folder of a run of several outcomes that has the results of each."""

SUBGROUPS = "subgroups.csv"
METRIC_COLUMNS = ("metric", "value", "low", "high", "level", "draws", "failed", "note")


def write_run(result: CrossvalResult) -> None:
    """Write ``predictions.csv``, ``metrics.csv``, ``subgroups.csv``, ``history.csv`` and ``run.json``."""
    out, cohort = result.out, result.cohort
    truth = truth_columns(cohort.target)
    with (out / "predictions.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        extra = [n for n, v in (("threshold", result.threshold), ("risk_group", result.risk_group)) if v is not None]
        writer.writerow(["patient_id", "fold", *truth, *result.columns, *extra])
        for i, patient in enumerate(cohort.patients):
            more = [v[i] for v in (result.threshold, result.risk_group) if v is not None]
            numbers = [repr(float(v)) for v in result.model.prediction[i]]
            writer.writerow([patient, result.fold[i], *(column[i] for column in truth.values()), *numbers, *more])
    for number, again in enumerate(result.repeats, 2):
        with (out / f"predictions-{number}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["patient_id", "fold", *truth, *result.columns])
            for i, patient in enumerate(cohort.patients):
                numbers = [repr(float(v)) for v in again.round.prediction[i]]
                writer.writerow([patient, again.round.fold[i], *(column[i] for column in truth.values()), *numbers])
    write_subgroups(out / SUBGROUPS, result.subgroups)
    with (out / "metrics.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["model", *METRIC_COLUMNS])
        tables = [(m.name, m.metrics) for m in (result.model, *result.baselines)]
        for name, metrics in [*tables, (result.model.name, result.differences)]:
            writer.writerows([name, *metric_cells(m)] for m in metrics)
    write_history(out / "history.csv", result.members)
    test = result.log_rank
    manifest = dict(result.manifest) | {
        "results": {
            "intervals": "percentile bootstrap over patients, conditional on the fitted models; 'mean of folds': "
            "Nadeau and Bengio's corrected t, not conditional on them; 'nested cross-validation': Bates, Hastie and "
            "Tibshirani's, not conditional on them",
            "pairs": "inside folds only",
            "repeats": 1 + len(result.repeats),
            "metrics": {m.name: m.value for m in result.model.metrics},
            "log-rank p by permutation": None if test is None else test.p_permutation,
        },
    }
    (out / "run.json").write_text(json.dumps(manifest, indent=2) + "\n")


def write_subgroups(path: Path, groups: Sequence[SubgroupResult]) -> None:
    """Write every metric of every subgroup; without any there is no file, nor an earlier run's."""
    if not groups:
        path.unlink(missing_ok=True)
        return
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["column", "group", "patients", *METRIC_COLUMNS])
        for group in groups:
            writer.writerows([group.column, group.name, len(group.rows), *metric_cells(m)] for m in group.metrics)


def write_history(path: Path, members: Sequence[Member]) -> None:
    """Write every epoch of every model."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        names = ["train_loss", "validation_loss", "validation_score", "learning_rate"]
        writer.writerow(["fold", "model", "epoch", *names])
        for one in members:
            for epoch in one.history:
                writer.writerow([one.fold, one.number, epoch.number, *(getattr(epoch, name) for name in names)])


def metric_cells(metric: Metric) -> list[object]:
    """A metric in the columns of ``METRIC_COLUMNS``."""
    of = metric.interval
    ends = [of.low, of.high, of.level, of.draws, of.failed] if of else [""] * 5
    return [metric.name, "" if metric.value is None else metric.value, *ends, metric.note]


def truth_columns(target: Target) -> dict[str, list[object]]:
    """Name and cells of the columns that say what is true, as ``predictions.csv`` has them."""
    if isinstance(target, ClassTarget):
        return {"label": [target.classes[i] for i in target.label.tolist()]}
    if isinstance(target, SurvivalTarget):
        return {"time": target.time.tolist(), "event": target.event.astype(int).tolist()}
    if isinstance(target, LabelsTarget):
        return target.cells()
    if isinstance(target, SeveralTarget):
        found: dict[str, list[object]] = {}
        for name, part in zip(target.names, target.parts, strict=True):
            for column, values in truth_columns(part.target).items():
                cells = np.full(len(target), "", object)
                cells[part.known] = values
                found[f"{name}_{column}"] = cells.tolist()
        return found
    return {"value": target.value.tolist()}


@dataclass(frozen=True)
class StoredRun:
    """What a run predicted, as its files have it.

    Attributes:
        name: Of the run, or of its folder.
        path: The folder.
        endpoint: What is predicted.
        patients: In the order of the rows.
        target: Their outcomes.
        rounds: Predictions and folds: one, or one for each repeat.
        held_out: Whether one model (or one set of them) predicted everybody, and was fitted on none.
        tuning: The budget in words: "20 trials ...", "none"; "not recorded" in a run that does not say.
        trials: Settings tried for each model; None where that is not recorded.
        chosen_here: Whether the settings were chosen on the very patients whose predictions these are.
    """

    name: str
    path: Path
    endpoint: Endpoint
    patients: tuple[str, ...]
    target: Target
    rounds: tuple[Round, ...]
    held_out: bool
    tuning: str = NOT_RECORDED
    trials: int | None = None
    chosen_here: bool = False


def read_run(path: str | PathLike[str]) -> StoredRun:
    """Read the predictions that ``wsikit crossval`` wrote into a folder.

    Raises:
        ConfigError: No run there, a table without its columns, a value that is no number, or a
            repeat with other patients or outcomes than the first.
    """
    path = Path(path)
    if not (path / "run.json").is_file() or not (path / "predictions.csv").is_file():
        raise ConfigError(f"{path}: no run.json and predictions.csv; expected a folder that 'wsikit crossval' wrote")
    facts = json.loads((path / "run.json").read_text(encoding="utf-8"))
    endpoint = endpoint_from(facts["endpoint"])
    if isinstance(endpoint, Several):
        one = path / OUTCOMES / endpoint.names[0]
        raise ConfigError(f"{path}: a run of several outcomes; name the folder of one of them, such as {one}")
    again = sorted(path.glob("predictions-*.csv"), key=lambda p: int((re.findall(r"\d+", p.stem) or ["0"])[-1]))
    tables = [_rows(file) for file in (path / "predictions.csv", *again)]
    patients = tuple(row[PATIENT] for row in tables[0])
    target = endpoint.parse([_cells_of(row, endpoint) for row in tables[0]], patients)
    columns = create_task(endpoint, target).columns
    rounds = []
    for file, rows in zip((path / "predictions.csv", *again), tables, strict=True):
        if tuple(row[PATIENT] for row in rows) != patients:
            raise ConfigError(f"{file}: its patients are not those of predictions.csv beside it; run 'crossval' again")
        fold = np.array([int(row["fold"]) for row in rows], np.int64)
        rounds.append(Round(_numbers(file, rows, columns), fold))
    found = StoredRun(facts.get("name") or path.name, path, endpoint, patients, target, tuple(rounds), False)
    if "tuning" not in facts:  # of an earlier version
        return found
    tuning = facts["tuning"]
    return replace(
        found,
        tuning=budget_words(tuning),
        trials=tuning["trials"] if tuning else 0,
        chosen_here=bool(tuning) and tuning["chosen on"] == ON_THESE,
    )


def read_external(path: str | PathLike[str], table: str | PathLike[str], endpoint: Endpoint) -> StoredRun:
    """Read the predictions that ``wsikit predict`` wrote, and the outcomes of these patients from a table.

    Patients without an outcome (an empty cell) are passed over.

    Args:
        path: Folder with ``predictions.csv``.
        table: CSV with slide_id, patient_id and the endpoint's columns.
        endpoint: What the models predict.

    Raises:
        ConfigError: No predictions there, a patient that the table does not have, or nobody with an outcome.
    """
    path = Path(path)
    if not (path / "predictions.csv").is_file():
        raise ConfigError(f"{path}: no predictions.csv; expected a folder that 'wsikit predict' wrote")
    if isinstance(endpoint, Several):
        raise ConfigError(f"{path}: models of several outcomes ({', '.join(endpoint.names)}); only single ones compare")
    known = {row[PATIENT]: row for row in read_rows(Path(table), needed=(SLIDE, *endpoint.columns))}
    rows = _rows(path / "predictions.csv")
    strange = [row[PATIENT] for row in rows if row[PATIENT] not in known]
    if strange:
        raise ConfigError(f"{path}: {len(strange)} patients are not in {table} ({', '.join(strange[:5])})")
    rows = [row for row in rows if lacking(endpoint, known[row[PATIENT]]) is None]
    if not rows:
        raise ConfigError(f"{path}: none of its patients has a value of {', '.join(endpoint.columns)} in {table}")
    patients = tuple(row[PATIENT] for row in rows)
    target = endpoint.parse([known[p] for p in patients], patients)
    prediction = _numbers(path / "predictions.csv", rows, create_task(endpoint, target).columns)
    one = Round(prediction, np.zeros(len(rows), np.int64))
    return StoredRun(path.name, path, endpoint, patients, target, (one,), True)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows or PATIENT not in rows[0]:
        raise ConfigError(f"{path}: no rows with {PATIENT}; expected a table of predictions")
    return rows


def _cells_of(row: Mapping[str, str], endpoint: Endpoint) -> dict[str, str]:
    """The outcome in the endpoint's own columns; what ``write_run`` wrote has fixed names."""
    if endpoint.kind == "survival":
        happened = row["event"] if getattr(endpoint, "censored", None) is None else str(1 - int(row["event"]))
        return dict(zip(endpoint.columns, (row["time"], happened), strict=True))
    if isinstance(endpoint, Labels):
        return {column: row[column] for column in endpoint.columns}
    return {endpoint.columns[0]: row["label" if isinstance(endpoint, ClassLabel) else "value"]}


def _numbers(path: Path, rows: Sequence[Mapping[str, str]], columns: Sequence[str]) -> Values:
    missing = [name for name in columns if name not in rows[0]]
    if missing:
        raise ConfigError(f"{path}: no column {missing[0]!r} (it has: {', '.join(rows[0])})")
    found = np.array([[float(row[name]) for name in columns] for row in rows])
    if not np.isfinite(found).all():
        bad = rows[int(np.argwhere(~np.isfinite(found))[0][0])][PATIENT]
        raise ConfigError(f"{path}: the prediction of patient {bad!r} is no number; such a run cannot be compared")
    return found
