"""The numbers of a table of out-of-fold predictions, each with its interval over patients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsikit.cohort.endpoints import ClassTarget, ContinuousTarget, SurvivalTarget, Target
from wsikit.cohort.several_labels import LabelsTarget
from wsikit.evaluation.bootstrap import Counted, bootstrap_interval, joined, paired_difference_interval
from wsikit.evaluation.result import Metric, Round
from wsikit.evaluation.settings import EvaluationSettings
from wsikit.evaluation.unconditional import corrected_interval
from wsikit.metrics import (
    UndefinedMetricError,
    average_precision,
    brier_score,
    calibration_error_by_chance,
    calibration_intercept,
    calibration_slope,
    cohen_kappa,
    expected_calibration_error,
    f1_score,
    macro_f1,
)
from wsikit.metrics.calibration import logit_of
from wsikit.metrics.counted import calibration_intercepts, calibration_slopes, roc_auc_counted
from wsikit.tasks.classification import ClassificationTask
from wsikit.tasks.classification import called as called_class
from wsikit.tasks.multi_label import label_auc
from wsikit.tasks.task import Task, Values

Rows = npt.NDArray[np.int64]
Statistic = Callable[[Rows], float]

AT_THRESHOLDS = "at thresholds from inner validation patients"
IN_ORDER = "takes the classes to be in order"
_PAIRS = 4_000_000
"""Pairs of a positive and a negative patient up to which who wins is kept in memory."""


@dataclass(frozen=True)
class _Named:
    """A statistic of some patients, by their positions.

    Attributes:
        of: Positions -> number.
        note: What a reader has to know.
        of_shares: Whether it depends on how many patients are positive; their number then varies in the resamples,
            too, and an interval is not too narrow by holding it fixed.
        by_chance: Where no interval makes sense, what a model whose probabilities are true would have.
    """

    of: Statistic
    note: str = ""
    of_shares: bool = False
    by_chance: float | None = None


def main_statistic(task: Task, prediction: Values, target: Target, fold: Rows) -> Statistic:
    """The task's metric of some patients, as a function of their positions; pairs inside folds only."""

    def statistic(rows: Rows) -> float:
        return task.score(prediction[rows], target.take(rows), fold[rows])

    if not (isinstance(task, ClassificationTask) and isinstance(target, ClassTarget) and len(target.classes) == 2):
        return statistic
    sick = target.label == 1
    if sick.sum() * (~sick).sum() > _PAIRS:
        return statistic
    return Counted(statistic, roc_auc_counted(prediction[:, 1], sick, groups=fold))


def mean_statistic(task: Task, rounds: Sequence[Round], target: Target) -> Statistic:
    """The mean of the task's metric over several cross-validations of the same patients."""
    each = [main_statistic(task, r.prediction, target, r.fold) for r in rounds]
    return _mean(each)


def strata(target: Target, fold: Rows) -> Rows:
    """What a resample keeps as it is: folds, and in them classes or events."""
    if isinstance(target, ClassTarget):
        return fold * len(target.classes) + target.label
    if isinstance(target, SurvivalTarget):
        return fold * 2 + target.event
    if isinstance(target, LabelsTarget):
        return fold * (len(target.names) + 1) + target.rarest()
    return fold


def strata_of_rounds(target: Target, rounds: Sequence[Round]) -> Rows:
    """The same for several cross-validations: with two dealings of the folds only the outcome can be kept."""
    return strata(target, rounds[0].fold if len(rounds) == 1 else np.zeros(len(target), np.int64))


def metrics_of(
    task: Task,
    prediction: Values,
    target: Target,
    fold: Rows,
    settings: EvaluationSettings,
    *,
    threshold: npt.NDArray[np.float64] | None = None,
    repeats: Sequence[Round] = (),
) -> tuple[Metric, ...]:
    """All metrics of a model, the task's own first.

    What compares patients (AUC, average precision, rank correlation, Harrell's C) does so inside folds.
    Probabilities and decisions mean the same in every fold, so their metrics are of all patients at once.

    Args:
        task: Whose metric.
        prediction: (P, K) out of fold.
        target: Of the patients.
        fold: (P,) the fold that tested each.
        settings: Resamples.
        threshold: (P,) probability above which a patient is called positive; None leaves such metrics out.
        repeats: Further cross-validations: every metric is then the mean over all.
    """
    rounds = (Round(prediction, fold, threshold), *repeats)
    each = [_statistics(task, one, target) for one in rounds]
    kept = strata_of_rounds(target, rounds)
    only_folds = fold if len(rounds) == 1 else np.zeros(len(target), np.int64)
    found = []
    for name, first in each[0].items():
        mean = _mean([one[name].of for one in each])
        if first.by_chance is None:
            found.append(
                measured(name, mean, len(target), only_folds if first.of_shares else kept, settings, first.note)
            )
            continue
        chance = float(np.mean([one[name].by_chance for one in each]))
        said = (
            f"no interval: resampling would raise it; were all probabilities true it would be {chance:.2g} on average"
        )
        found.append(_plain(name, mean, len(target), said))
    if repeats:
        found.insert(1, _unconditional(task, rounds, target))
    return tuple(found)


def differences_of(
    task: Task,
    prediction: Values,
    others: Sequence[tuple[str, Values]],
    target: Target,
    fold: Rows,
    settings: EvaluationSettings,
    *,
    repeats: Sequence[Round] = (),
    other_repeats: Sequence[Sequence[Round]] = (),
) -> tuple[Metric, ...]:
    """The main metric of a model minus that of each other one, on the same resamples of patients.

    Args:
        task: Whose metric.
        prediction: (P, K) of the model.
        others: Name and predictions of each other model.
        target: Of the patients.
        fold: (P,) the fold that tested each.
        settings: Resamples.
        repeats: Further cross-validations of the model.
        other_repeats: Of each other model; as many.
    """
    rounds = (Round(prediction, fold), *repeats)
    mine, kept = mean_statistic(task, rounds, target), strata_of_rounds(target, rounds)
    found = []
    for number, (name, other) in enumerate(others):
        again = other_repeats[number] if other_repeats else ()
        theirs = mean_statistic(task, (Round(other, fold), *again), target)
        title = f"{task.metric} minus that of {name}"
        try:
            every = np.arange(len(target))
            value = mine(every) - theirs(every)
            interval = paired_difference_interval(mine, theirs, len(target), draws=settings.bootstrap, strata=kept)
        except UndefinedMetricError as e:
            found.append(Metric(title, None, None, str(e)))
        else:
            found.append(Metric(title, value, interval))
    return tuple(found)


def _statistics(task: Task, one: Round, target: Target) -> dict[str, _Named]:
    found = {task.metric: _Named(main_statistic(task, one.prediction, target, one.fold))}
    if isinstance(target, ClassTarget):
        found |= _two_classes(one, target) if len(target.classes) == 2 else _classes(one, target)
    if isinstance(target, LabelsTarget):
        found |= {
            f"AUC of {name}": _Named(_label_statistic(one, target, number), f"{yes} with, {no} without")
            for number, (name, yes, no) in enumerate(target.counts())
        }
    if isinstance(target, ContinuousTarget):
        error = np.abs(one.prediction[:, 0] - target.value)
        found["mean absolute error"] = _Named(lambda r: float(error[r].mean()))
    return found


def _label_statistic(one: Round, target: LabelsTarget, number: int) -> Statistic:
    return lambda rows: label_auc(one.prediction[rows], target.take(rows), number, one.fold[rows])


def _two_classes(one: Round, target: ClassTarget) -> dict[str, _Named]:
    chance, sick, fold = one.prediction[:, 1], target.label == 1, one.fold
    found = {
        "average precision": _Named(lambda r: average_precision(chance[r], sick[r], groups=fold[r]), of_shares=True)
    }
    if one.threshold is not None:
        called = chance > one.threshold
        rates: dict[str, Statistic] = {
            "balanced accuracy": lambda r: (_share(called[r], sick[r]) + _share(~called[r], ~sick[r])) / 2,
            "sensitivity": lambda r: _share(called[r], sick[r]),
            "specificity": lambda r: _share(~called[r], ~sick[r]),
            "F1": lambda r: f1_score(called[r], sick[r]),
            "Cohen's kappa": lambda r: cohen_kappa(called[r], sick[r], classes=2),
        }
        shares = ("F1", "Cohen's kappa")
        found |= {name: _Named(rate, AT_THRESHOLDS, name in shares) for name, rate in rates.items()}
    chance = np.clip(chance, 0, 1)
    found["Brier score"] = _Named(lambda r: brier_score(chance[r], sick[r]), of_shares=True)
    found["calibration error"] = _Named(
        lambda r: expected_calibration_error(chance[r], sick[r]), by_chance=calibration_error_by_chance(chance)
    )
    logit = logit_of(chance)
    slope = Counted(lambda r: calibration_slope(chance[r], sick[r]), lambda n: calibration_slopes(logit, sick, n))
    intercept = Counted(
        lambda r: calibration_intercept(chance[r], sick[r]), lambda n: calibration_intercepts(logit, sick, n)
    )
    found["calibration slope"] = _Named(slope, "1 is right", True)
    found["calibration intercept"] = _Named(intercept, "0 is right", True)
    return found


def _classes(one: Round, target: ClassTarget) -> dict[str, _Named]:
    chance, label, count = np.clip(one.prediction, 0, 1), target.label, len(target.classes)
    called = called_class(chance, target)
    right, sure = called == label, chance.max(1)
    shares = [_share_of_class(right, label, c) for c in range(count)]
    return {
        "balanced accuracy": _Named(lambda r: float(np.mean([s(r) for s in shares]))),
        "macro F1": _Named(lambda r: macro_f1(called[r], label[r]), of_shares=True),
        "Cohen's kappa": _Named(lambda r: cohen_kappa(called[r], label[r], classes=count), of_shares=True),
        "quadratic kappa": _Named(
            lambda r: cohen_kappa(called[r], label[r], classes=count, weights="quadratic"),
            "" if target.ordered else IN_ORDER,
            True,
        ),
        "Brier score": _Named(lambda r: brier_score(chance[r], label[r]), of_shares=True),
        "calibration error": _Named(
            lambda r: expected_calibration_error(sure[r], right[r]), by_chance=calibration_error_by_chance(sure)
        ),
    }


def _mean(each: Sequence[Statistic]) -> Statistic:
    return each[0] if len(each) == 1 else joined(lambda *values: np.mean(values, axis=0), each)


def _unconditional(task: Task, rounds: Sequence[Round], target: Target) -> Metric:
    """The mean of the folds' own values, with an interval that also covers other training patients."""
    name, values, sizes = f"{task.metric}, mean of folds", [], []
    for one in rounds:
        statistic = main_statistic(task, one.prediction, target, one.fold)
        for number in np.unique(one.fold):
            rows = np.flatnonzero(one.fold == number)
            sizes.append(len(rows))
            try:
                values.append(statistic(rows))
            except UndefinedMetricError:
                continue
    tested = float(np.mean(sizes))
    missing = f"; {len(sizes) - len(values)} have none" if len(values) < len(sizes) else ""
    note = (
        f"not conditional on the fitted models: Nadeau and Bengio's corrected t interval over {len(values)} folds "
        f"of {len(rounds)} cross-validations{missing}"
    )
    try:
        interval = corrected_interval(values, train=len(target) - tested, test=tested)
    except UndefinedMetricError as e:
        return Metric(name, None, None, str(e))
    return Metric(name, float(np.mean(values)), interval, note)


def measured(name: str, statistic: Statistic, n: int, kept: Rows, settings: EvaluationSettings, note: str) -> Metric:
    """A statistic of n patients with its interval, whose resamples keep the strata; or why there is none."""
    try:
        value = statistic(np.arange(n))
        interval = bootstrap_interval(statistic, n, draws=settings.bootstrap, strata=kept)
    except UndefinedMetricError as e:
        return Metric(name, None, None, str(e))
    return Metric(name, value, interval, note)


def _plain(name: str, statistic: Statistic, n: int, note: str) -> Metric:
    try:
        return Metric(name, statistic(np.arange(n)), None, note)
    except UndefinedMetricError as e:
        return Metric(name, None, None, str(e))


def _share(flags: npt.NDArray[np.bool_], among: npt.NDArray[np.bool_]) -> float:
    if not among.any():
        raise UndefinedMetricError("a rate among no patients is not defined")
    return float(flags[among].mean())


def _share_of_class(right: npt.NDArray[np.bool_], label: Rows, number: int) -> Statistic:
    return lambda rows: _share(right[rows], label[rows] == number)
