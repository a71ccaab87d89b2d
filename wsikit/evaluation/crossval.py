"""Cross-validation: every patient predicted by models that have never seen it, and how good that is."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from wsikit.cohort.endpoints import ClassTarget, SurvivalTarget, Target, endpoint_from
from wsikit.cohort.several_outcomes import Several
from wsikit.cohort.table import Cohort
from wsikit.errors import ConfigError
from wsikit.evaluation.fitting import Fitted, fit_all
from wsikit.evaluation.members import MemberResult, Spread, with_threshold
from wsikit.evaluation.nested import nested_metric
from wsikit.evaluation.result import CrossvalResult, ModelResult, Repeat, Round, SubgroupResult
from wsikit.evaluation.risk_groups import LogRank, log_rank, risk_groups, training_cuts
from wsikit.evaluation.run_files import write_run
from wsikit.evaluation.scores import differences_of, metrics_of
from wsikit.evaluation.settings import Experiment
from wsikit.evaluation.subgroups import Subgroup, subgroups_of
from wsikit.evaluation.tuning.folds import ON_THESE_PATIENTS
from wsikit.metrics.undefined import UndefinedMetricError
from wsikit.tasks.task import Task, Values, create_task

Say = Callable[[str], None]


def crossval(
    experiment: Experiment,
    *,
    workers: int | None = None,
    spread: Spread | None = None,
    say: Say = lambda line: None,
) -> CrossvalResult:
    """Cross-validate a model on a cohort.

    For every fold ``splits.inner_folds`` models are fitted on its other patients, each watched by
    another part of them, and their predictions on the fold's test patients are averaged. The test
    patients decide nothing: not the weights, the scale of the features, the epoch, the threshold, nor
    the cut between risk groups. Metrics compare patients of one fold only, because predictions of
    differently fitted models are on different scales.

    Where models start from given weights (``model.init``), as many are trained from scratch on the same patients with
    the same seeds, and stand beside them with the paired difference; ``evaluation.scratch: false`` saves half the time.

    Written into ``experiment.out``: ``run.json``, ``splits.csv`` with its hash, ``predictions.csv``,
    ``metrics.csv``, ``history.csv`` and ``models/``, where asked for ``subgroups.csv``, and of each repeat
    ``splits-2.csv``, ``predictions-2.csv``, ...; ``wsikit.reports`` adds pictures and ``report.html``.

    Args:
        experiment: From :func:`wsikit.evaluation.settings.load_experiment`.
        workers: Processes; default one for each core.
        spread: Instead of them: gives the results of a function in the order of the jobs, as
            :func:`wsikit.evaluation.tuning.workers.crew_map` does on a cluster.
        say: Called with a line of text at each step.

    Raises:
        ConfigError: Several outcomes (:func:`~wsikit.evaluation.several.crossval_several` measures each);
            anything about the table, the stores, the splits or the settings that cannot be used.
        LockedError: Another process writes into ``experiment.out``.
    """
    if isinstance(endpoint_from(experiment.endpoint), Several):
        raise ConfigError("endpoint of kind 'several': each outcome has results of its own; call crossval_several")
    with contextlib.ExitStack() as held:
        fitted = fit_all(experiment, held=held, workers=workers, spread=spread, say=say)
        say(f"measuring: {experiment.evaluation.bootstrap} resamples of patients")
        result = measured(fitted)
        write_run(result)
    return result


def measured(fitted: Fitted) -> CrossvalResult:
    """What fitted models are worth, for one outcome. Their cut points are entered into the bundles.

    Args:
        fitted: Of an endpoint with one outcome, or narrowed to one.
    """
    experiment, cohort, dealt = fitted.experiment, fitted.cohort, fitted.dealt
    target, settings = cohort.target, experiment.evaluation
    folds = [one.test_fold(cohort.patients) for one in dealt]
    fold = folds[0]
    task = create_task(cohort.endpoint, target)
    members = [m for m in fitted.members if m.job.repeat == 0]
    prediction, attention = _average(members, len(cohort), len(task.columns))
    threshold = _thresholds(members, target, fold, fitted)
    notes = [*fitted.audit.leaks, *_notes(prediction, fold, cohort)]
    if experiment.tuned is not None and not experiment.tuned.folds:
        notes.insert(0, ON_THESE_PATIENTS.format(trials=experiment.tuned.trials))
    repeats = _repeats(fitted.members, folds, task, fitted, notes)
    rounds = [one.round for one in repeats]
    groups, test = _groups(members, prediction, target, fold, fitted, notes)
    name = f"{experiment.model.aggregator} on {experiment.encoder}"
    metrics = metrics_of(task, prediction, target, fold, settings, threshold=threshold, repeats=rounds)
    if fitted.pairs:
        metrics += (nested_metric(fitted.pairs, [prediction, *(r.prediction for r in rounds)], folds, target),)
    model = ModelResult(name, prediction, metrics)
    baselines, others_again = [], []
    if fitted.scratch:
        again = list(_rounds(fitted.scratch, folds, task, fitted).values())
        baselines.append(_compared(f"{name} from scratch", again, task, target, experiment))
        others_again.append(again[1:])
    for simple in fitted.simple:
        again = [Round(simple.predict(simple.features, target, f), f) for f in folds]
        baselines.append(_compared(simple.name, again, task, target, experiment))
        others_again.append(again[1:])
    others = [(b.name, b.prediction) for b in baselines]
    wanted = subgroups_of(cohort, settings.subgroups)
    return CrossvalResult(
        experiment=experiment,
        cohort=cohort,
        splits=dealt[0],
        fold=fold,
        columns=task.columns,
        model=model,
        baselines=tuple(baselines),
        differences=differences_of(
            task, prediction, others, target, fold, settings, repeats=rounds, other_repeats=others_again
        ),
        members=tuple(m.member for m in members),
        attention=tuple(attention),
        threshold=threshold,
        risk_group=groups,
        log_rank=test,
        notes=(*notes, *fitted.notes),
        manifest=fitted.manifest,
        audit=fitted.audit,
        subgroups=_subgroups(wanted, task, (Round(prediction, fold, threshold), *rounds), cohort, experiment),
        repeats=repeats,
        scratch=tuple(m.member for m in fitted.scratch),
        first_column=fitted.first_column,
    )


def _compared(name: str, rounds: Sequence[Round], task: Task, target: Target, experiment: Experiment) -> ModelResult:
    """Another model on the same folds, and its metrics."""
    first = rounds[0]
    metrics = metrics_of(
        task, first.prediction, target, first.fold, experiment.evaluation,
        threshold=first.threshold, repeats=rounds[1:],
    )  # fmt: skip
    return ModelResult(name, first.prediction, metrics)


def _rounds(
    every: Sequence[MemberResult], folds: Sequence[npt.NDArray[np.int64]], task: Task, fitted: Fitted
) -> dict[int, Round]:
    """What the models of each repeat say, by its number."""
    found = {}
    for number in sorted({m.job.repeat for m in every}):
        mine = [m for m in every if m.job.repeat == number]
        prediction, _ = _average(mine, len(fitted.cohort), len(task.columns))
        threshold = _thresholds(mine, fitted.cohort.target, folds[number], fitted)
        found[number] = Round(prediction, folds[number], threshold)
    return found


def _repeats(
    every: Sequence[MemberResult],
    folds: Sequence[npt.NDArray[np.int64]],
    task: Task,
    fitted: Fitted,
    notes: list[str],
) -> tuple[Repeat, ...]:
    """What the further cross-validations say; notes of theirs are added."""
    found = []
    further = [m for m in every if m.job.repeat]
    for number, one in _rounds(further, folds, task, fitted).items():
        notes += [f"Repeat {number + 1}, {note}" for note in _collapsed(one.prediction, folds[number])]
        mine = tuple(m.member for m in further if m.job.repeat == number)
        found.append(Repeat(fitted.dealt[number], one, mine))
    return tuple(found)


def _subgroups(
    wanted: Sequence[Subgroup], task: Task, rounds: Sequence[Round], cohort: Cohort, experiment: Experiment
) -> tuple[SubgroupResult, ...]:
    found = []
    for group in wanted:
        rows = group.rows
        parts = [
            Round(r.prediction[rows], r.fold[rows], None if r.threshold is None else r.threshold[rows]) for r in rounds
        ]
        first = parts[0]
        metrics = metrics_of(
            task, first.prediction, cohort.target.take(rows), first.fold, experiment.evaluation,
            threshold=first.threshold, repeats=parts[1:],
        )  # fmt: skip
        found.append(SubgroupResult(group.column, group.name, rows, metrics))
    return tuple(found)


def _average(
    members: Sequence[MemberResult], patients: int, columns: int
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
    members: Sequence[MemberResult], target: Target, fold: npt.NDArray[np.int64], fitted: Fitted
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
            _enter(fitted, m, {"probability": value})
    return found


def _enter(fitted: Fitted, result: MemberResult, cuts: dict[str, float]) -> None:
    with_threshold(fitted.experiment.out / result.member.bundle, cuts, outcome=fitted.outcome)


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
    fitted: Fitted,
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
        _enter(fitted, m, {"log_risk": float(cuts[m.job.fold][0])})
    groups = risk_groups(prediction[:, 0], fold, cuts)
    try:
        test = log_rank(
            target.time, target.event, groups, fold=fold, permutations=fitted.experiment.evaluation.permutations
        )
    except UndefinedMetricError as e:
        notes.append(f"No log-rank test: {e}.")
        return groups, None
    return groups, test


def _notes(prediction: Values, fold: npt.NDArray[np.int64], cohort: Cohort) -> list[str]:
    notes = [note[:1].upper() + note[1:] for note in _collapsed(prediction, fold)]
    if isinstance(cohort.target, SurvivalTarget) and cohort.target.event.sum() < 50:
        notes.append(f"Only {int(cohort.target.event.sum())} events: intervals are wide, and so is chance.")
    if len(cohort) < 100:
        notes.append(f"{len(cohort)} patients: with folds this small a metric moves by several hundredths by luck.")
    return notes


def _collapsed(prediction: Values, fold: npt.NDArray[np.int64]) -> list[str]:
    found = []
    for number in np.unique(fold):
        mine = prediction[fold == number]
        if len(mine) > 2 and np.ptp(mine, axis=0).max() < 1e-6:
            found.append(f"fold {number + 1}: all {len(mine)} predictions are the same; the model has collapsed there.")
    return found
