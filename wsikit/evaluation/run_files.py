"""The tables and the record of a run: written by a cross-validation, read again for a comparison."""

from __future__ import annotations

import csv
import json

from wsikit.cohort.endpoints import ClassTarget, ContinuousTarget, SurvivalTarget, Target
from wsikit.evaluation.result import CrossvalResult, Metric

METRIC_COLUMNS = ("metric", "value", "low", "high", "level", "draws", "failed", "note")


def write_run(result: CrossvalResult) -> None:
    """Write ``predictions.csv``, ``metrics.csv``, ``subgroups.csv``, ``history.csv`` and ``run.json``."""
    out, cohort = result.out, result.cohort
    truth = _truth_columns(cohort.target)
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
    (out / "subgroups.csv").unlink(missing_ok=True)
    if result.subgroups:
        with (out / "subgroups.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["column", "group", "patients", *METRIC_COLUMNS])
            for group in result.subgroups:
                writer.writerows([group.column, group.name, len(group.rows), *_cells(m)] for m in group.metrics)
    with (out / "metrics.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["model", *METRIC_COLUMNS])
        tables = [(m.name, m.metrics) for m in (result.model, *result.baselines)]
        for name, metrics in [*tables, (result.model.name, result.differences)]:
            writer.writerows([name, *_cells(m)] for m in metrics)
    with (out / "history.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        names = ["train_loss", "validation_loss", "validation_score", "learning_rate"]
        writer.writerow(["fold", "model", "epoch", *names])
        for one in result.members:
            for epoch in one.history:
                writer.writerow([one.fold, one.number, epoch.number, *(getattr(epoch, name) for name in names)])
    test = result.log_rank
    manifest = dict(result.manifest) | {
        "results": {
            "intervals": "percentile bootstrap over patients, conditional on the fitted models; 'mean of folds': "
            "Nadeau and Bengio's corrected t, not conditional on them",
            "pairs": "inside folds only",
            "repeats": 1 + len(result.repeats),
            "metrics": {m.name: m.value for m in result.model.metrics},
            "log-rank p by permutation": None if test is None else test.p_permutation,
        },
    }
    (out / "run.json").write_text(json.dumps(manifest, indent=2) + "\n")


def _cells(metric: Metric) -> list[object]:
    of = metric.interval
    ends = [of.low, of.high, of.level, of.draws, of.failed] if of else [""] * 5
    return [metric.name, "" if metric.value is None else metric.value, *ends, metric.note]


def _truth_columns(target: Target) -> dict[str, list[object]]:
    if isinstance(target, ClassTarget):
        return {"label": [target.classes[i] for i in target.label.tolist()]}
    if isinstance(target, SurvivalTarget):
        return {"time": target.time.tolist(), "event": target.event.astype(int).tolist()}
    assert isinstance(target, ContinuousTarget)
    return {"value": target.value.tolist()}
