"""Cross-validation: every patient predicted by models that have never seen it, and how good that is."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wsikit.aggregators.registry import create_aggregator
from wsikit.cohort.bags import Bags
from wsikit.cohort.endpoints import ClassTarget, ContinuousTarget, SurvivalTarget, Target, endpoint_from
from wsikit.cohort.split_files import load_splits
from wsikit.cohort.splits import Splits, check_splits, describe, make_splits, save_splits, within
from wsikit.cohort.table import Cohort, load_cohort
from wsikit.errors import ConfigError
from wsikit.evaluation.baselines import baseline_predictions
from wsikit.evaluation.manifest import build_manifest, bundle_facts
from wsikit.evaluation.members import MemberResult, fit_members, plan_members, with_threshold
from wsikit.evaluation.result import CrossvalResult, ModelResult
from wsikit.evaluation.risk_groups import LogRank, log_rank, risk_groups, training_cuts
from wsikit.evaluation.scores import differences_of, metrics_of
from wsikit.evaluation.settings import Experiment
from wsikit.metrics.undefined import UndefinedMetricError
from wsikit.processes import cores
from wsikit.tasks.task import Task, Values, create_task
from wsikit.training.settings import graph_of

Say = Callable[[str], None]


def crossval(experiment: Experiment, *, workers: int | None = None, say: Say = lambda line: None) -> CrossvalResult:
    """Cross-validate a model on a cohort.

    For every fold ``splits.inner_folds`` models are fitted on its other patients, each watched by
    another part of them, and their predictions on the fold's test patients are averaged. The test
    patients decide nothing: not the weights, the scale of the features, the epoch, the threshold, nor
    the cut between risk groups. Metrics compare patients of one fold only, because predictions of
    differently fitted models are on different scales.

    Written into ``experiment.out``: ``run.json``, ``splits.csv`` with its hash, ``predictions.csv``,
    ``metrics.csv``, ``history.csv`` and ``models/``; ``wsikit.reports`` adds pictures and ``report.html``.

    Args:
        experiment: From :func:`wsikit.evaluation.settings.load_experiment`.
        workers: Processes; default one for each core.
        say: Called with a line of text at each step.

    Raises:
        ConfigError: Anything about the table, the stores, the splits or the settings that cannot be used.
    """
    endpoint = endpoint_from(experiment.endpoint)
    cohort = load_cohort(
        experiment.cohort,
        endpoint=endpoint,
        stores=experiment.stores,
        encoder=experiment.encoder,
        missing_slides=experiment.missing_slides,
    )
    say(f"cohort: {describe(cohort.target)}; {cohort.n_slides} slides")
    for reason, count in cohort.excluded.items():
        say(f"  left out: {count} x {reason}")
    splits = _splits(experiment, cohort)
    out = experiment.out
    out.mkdir(parents=True, exist_ok=True)
    save_splits(splits, out / "splits.csv")
    fold = splits.test_fold(cohort.patients)
    bags = Bags(cohort.slides, encoder=cohort.encoder)
    sizes = np.array([len(bags[i]) for i in range(len(bags))])
    manifest = build_manifest(experiment, cohort, splits, bags)

    jobs = plan_members(experiment, cohort, splits)
    create_aggregator(experiment.model.aggregator, in_dim=bags[0].x.shape[1], **experiment.model.options)
    graph_of(experiment.model)
    # nothing is refused from here on: the models of an earlier run, with other folds, may go
    shutil.rmtree(out / "models", ignore_errors=True)
    say(f"fitting {len(jobs)} models: {len(splits.folds)} folds x {experiment.splits.inner_folds}")
    done: list[int] = []

    def told(result: MemberResult) -> None:
        done.append(result.job.fold)
        if done.count(result.job.fold) == experiment.splits.inner_folds:
            say(f"  fold {result.job.fold + 1} of {len(splits.folds)} fitted")

    facts = bundle_facts(cohort, manifest)
    count = min(workers or cores(), len(jobs))
    members = fit_members(experiment, cohort, jobs, facts=facts, workers=count, done=told)
    task = create_task(endpoint, cohort.target)
    prediction, attention = _average(members, len(cohort), len(task.columns))

    say(f"measuring: {experiment.evaluation.bootstrap} resamples of patients")
    threshold = _thresholds(members, cohort.target, fold, out)
    notes = _notes(prediction, fold, cohort)
    groups, test = _groups(members, prediction, cohort.target, fold, experiment, notes)
    settings = experiment.evaluation
    name = f"{experiment.model.aggregator} on {experiment.encoder}"
    model = ModelResult(
        name, prediction, metrics_of(task, prediction, cohort.target, fold, settings, threshold=threshold)
    )
    baselines = _baselines(experiment, cohort, sizes, task, fold, notes)
    others = [(b.name, b.prediction) for b in baselines]
    result = CrossvalResult(
        experiment=experiment,
        cohort=cohort,
        splits=splits,
        fold=fold,
        columns=task.columns,
        model=model,
        baselines=baselines,
        differences=differences_of(task, prediction, others, cohort.target, fold, settings),
        members=tuple(m.member for m in members),
        attention=tuple(attention),
        threshold=threshold,
        risk_group=groups,
        log_rank=test,
        notes=tuple(notes),
        manifest=manifest,
    )
    _write(result)
    return result


def _splits(experiment: Experiment, cohort: Cohort) -> Splits:
    wanted = experiment.splits
    if wanted.file is None:
        splits = make_splits(cohort, folds=wanted.folds, seed=wanted.seed, validation=wanted.validation)
    else:
        splits = load_splits(wanted.file, cohort, validation=wanted.validation, seed=wanted.seed)
        splits = within(splits, cohort)
    check_splits(splits, cohort)
    return splits


def _average(
    members: list[MemberResult], patients: int, columns: int
) -> tuple[Values, list[npt.NDArray[np.float32] | None]]:
    """Mean prediction and mean attention of the models of each patient's fold."""
    total, times = np.zeros((patients, columns)), np.zeros((patients, 1))
    attention: list[npt.NDArray[np.float32] | None] = [None] * patients
    for member in members:
        total[member.job.test] += member.prediction
        times[member.job.test] += 1
        for row, weights in zip(member.job.test.tolist(), member.attention, strict=True):
            before = attention[row]
            attention[row] = weights if before is None or weights is None else before + weights
    for row, weights in enumerate(attention):
        if weights is not None:
            attention[row] = weights / times[row, 0].astype(np.float32)
    return total / times, attention


def _thresholds(
    members: list[MemberResult], target: Target, fold: npt.NDArray[np.int64], out: Path
) -> npt.NDArray[np.float64] | None:
    """Of each patient the threshold of its fold: best balanced accuracy on the inner validation patients."""
    if not isinstance(target, ClassTarget) or len(target.classes) != 2:
        return None
    found = np.full(len(fold), np.nan)
    for number in np.unique(fold):
        mine = [m for m in members if m.job.fold == number]
        rows = np.concatenate([m.job.validation for m in mine])
        score = np.concatenate([m.rest[len(m.job.train) :, 1] for m in mine])
        value = best_threshold(score, target.label[rows] == 1)
        found[fold == number] = value
        for m in mine:
            with_threshold(out / m.member.bundle, {"probability": value})
    return found


def best_threshold(score: npt.NDArray[np.float64], positive: npt.NDArray[np.bool_]) -> float:
    """The threshold with the best balanced accuracy, half-way between two scores; 0.5 with one class only."""
    if positive.all() or not positive.any():
        return 0.5
    distinct = np.unique(score)
    between = np.concatenate([distinct[:1] - 1e-6, (distinct[1:] + distinct[:-1]) / 2])
    called = score[None] > between[:, None]
    balanced = called[:, positive].mean(1) + (~called[:, ~positive]).mean(1)
    best = np.flatnonzero(balanced >= balanced.max() - 1e-12)
    return float(between[best[len(best) // 2]])


def _groups(
    members: list[MemberResult],
    prediction: Values,
    target: Target,
    fold: npt.NDArray[np.int64],
    experiment: Experiment,
    notes: list[str],
) -> tuple[npt.NDArray[np.int64] | None, LogRank | None]:
    """Low and high risk by the median of the training folds' risks, and the test of the two.

    Where a fold's model has collapsed there is no such cut, and a note takes the groups' place: hours
    of fitting are not thrown away for a figure.
    """
    if not isinstance(target, SurvivalTarget):
        return None, None
    cuts = {}
    for number in np.unique(fold):
        risk: dict[int, list[float]] = {}
        for m in members:
            if m.job.fold == number:
                rows = np.concatenate([m.job.train, m.job.validation]).tolist()
                for row, value in zip(rows, m.rest[:, 0].tolist(), strict=True):
                    risk.setdefault(row, []).append(value)
        try:
            cuts[int(number)] = training_cuts([float(np.mean(values)) for values in risk.values()])
        except ConfigError as e:
            notes.append(f"No risk groups: fold {number + 1}: {e}.")
            return None, None
    for m in members:
        with_threshold(experiment.out / m.member.bundle, {"log_risk": float(cuts[m.job.fold][0])})
    groups = risk_groups(prediction[:, 0], fold, cuts)
    try:
        test = log_rank(target.time, target.event, groups, fold=fold, permutations=experiment.evaluation.permutations)
    except UndefinedMetricError as e:
        notes.append(f"No log-rank test: {e}.")
        return groups, None
    return groups, test


def _baselines(
    experiment: Experiment,
    cohort: Cohort,
    sizes: npt.NDArray[np.int64],
    task: Task,
    fold: npt.NDArray[np.int64],
    notes: list[str],
) -> tuple[ModelResult, ...]:
    encoder = experiment.evaluation.baseline_encoder
    tables: list[tuple[str, npt.NDArray[np.floating]]] = []
    lacking = [s.slide_id for mine in cohort.slides for s in mine if not _finished(s.store, s.slide_id, encoder)]
    if lacking:
        notes.append(
            f"No {encoder} baseline: {len(lacking)} slides have no features of that encoder. "
            f"'wsikit extract ... --encoder {encoder}' into the same store adds them."
        )
    else:
        tables.append((f"mean of {encoder}", Bags(cohort.slides, encoder=encoder).means()))
    tables.append(("number of tiles", np.log(sizes)[:, None]))
    found = []
    for name, features in tables:
        prediction = baseline_predictions(features, cohort.target, fold)
        metrics = metrics_of(task, prediction, cohort.target, fold, experiment.evaluation)
        found.append(ModelResult(name, prediction, metrics))
    return tuple(found)


def _finished(store: object, slide_id: str, encoder: str) -> bool:
    from wsikit.store.reader import FeatureStore

    assert isinstance(store, FeatureStore)
    return store.has(slide_id, encoder) and store.finished(slide_id, encoder)


def _notes(prediction: Values, fold: npt.NDArray[np.int64], cohort: Cohort) -> list[str]:
    notes = []
    for number in np.unique(fold):
        mine = prediction[fold == number]
        if len(mine) > 2 and np.ptp(mine, axis=0).max() < 1e-6:
            notes.append(f"Fold {number + 1}: all {len(mine)} predictions are the same; the model has collapsed there.")
    if isinstance(cohort.target, SurvivalTarget) and cohort.target.event.sum() < 50:
        notes.append(f"Only {int(cohort.target.event.sum())} events: intervals are wide, and so is chance.")
    if len(cohort) < 100:
        notes.append(f"{len(cohort)} patients: with folds this small a metric moves by several hundredths by luck.")
    return notes


def _write(result: CrossvalResult) -> None:
    """``predictions.csv``, ``metrics.csv``, ``history.csv`` and ``run.json``."""
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
    with (out / "metrics.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["model", "metric", "value", "low", "high", "level", "draws", "failed", "note"])
        tables = [(m.name, m.metrics) for m in (result.model, *result.baselines)]
        for name, metrics in [*tables, (result.model.name, result.differences)]:
            for m in metrics:
                of = m.interval
                ends = [of.low, of.high, of.level, of.draws, of.failed] if of else [""] * 5
                writer.writerow([name, m.name, "" if m.value is None else m.value, *ends, m.note])
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
            "intervals": "percentile bootstrap over patients, conditional on the fitted models",
            "pairs": "inside folds only",
            "metrics": {m.name: m.value for m in result.model.metrics},
            "log-rank p by permutation": None if test is None else test.p_permutation,
        },
    }
    (out / "run.json").write_text(json.dumps(manifest, indent=2) + "\n")


def _truth_columns(target: Target) -> dict[str, list[object]]:
    if isinstance(target, ClassTarget):
        return {"label": [target.classes[i] for i in target.label.tolist()]}
    if isinstance(target, SurvivalTarget):
        return {"time": target.time.tolist(), "event": target.event.astype(int).tolist()}
    assert isinstance(target, ContinuousTarget)
    return {"value": target.value.tolist()}
