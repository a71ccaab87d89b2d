"""The numbers of a table of out-of-fold predictions, each with its interval over patients."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from wsikit.cohort.endpoints import ClassTarget, ContinuousTarget, SurvivalTarget, Target
from wsikit.cohort.several_labels import LabelsTarget
from wsikit.evaluation.bootstrap import bootstrap_interval, paired_difference_interval
from wsikit.evaluation.result import Metric
from wsikit.evaluation.settings import EvaluationSettings
from wsikit.metrics.undefined import UndefinedMetricError
from wsikit.tasks.classification import called as called_class
from wsikit.tasks.multi_label import label_auc
from wsikit.tasks.task import Task, Values

Rows = npt.NDArray[np.int64]


def main_statistic(task: Task, prediction: Values, target: Target, fold: Rows) -> Callable[[Rows], float]:
    """The task's metric of some patients, as a function of their positions; pairs inside folds only."""

    def statistic(rows: Rows) -> float:
        return task.score(prediction[rows], target.take(rows), fold[rows])

    return statistic


def label_statistic(prediction: Values, target: LabelsTarget, fold: Rows, number: int) -> Callable[[Rows], float]:
    """The AUC of one label of some patients, as a function of their positions; pairs inside folds only."""
    return lambda rows: label_auc(prediction[rows], target.take(rows), number, fold[rows])


def strata(target: Target, fold: Rows) -> Rows:
    """What a resample keeps as it is: folds, and in them classes or events."""
    if isinstance(target, ClassTarget):
        return fold * len(target.classes) + target.label
    if isinstance(target, SurvivalTarget):
        return fold * 2 + target.event
    if isinstance(target, LabelsTarget):
        return fold * (len(target.names) + 1) + target.rarest()
    return fold


def metrics_of(
    task: Task,
    prediction: Values,
    target: Target,
    fold: Rows,
    settings: EvaluationSettings,
    *,
    threshold: npt.NDArray[np.float64] | None = None,
) -> tuple[Metric, ...]:
    """All metrics of a model, the task's own first.

    Args:
        task: Whose metric.
        prediction: (P, K) out of fold.
        target: Of the patients.
        fold: (P,) the fold that tested each.
        settings: Resamples.
        threshold: (P,) probability above which a patient is called positive; None leaves such metrics out.
    """
    found = [_metric(task.metric, main_statistic(task, prediction, target, fold), target, fold, settings)]
    if isinstance(target, ClassTarget) and threshold is not None:
        called = prediction[:, 1] > threshold
        sick = target.label == 1
        rates: dict[str, Callable[[Rows], float]] = {
            "balanced accuracy": lambda r: (_share(called[r], sick[r]) + _share(~called[r], ~sick[r])) / 2,
            "sensitivity": lambda r: _share(called[r], sick[r]),
            "specificity": lambda r: _share(~called[r], ~sick[r]),
        }
        note = "at thresholds from inner validation patients"
        found += [_metric(name, rate, target, fold, settings, note) for name, rate in rates.items()]
    if isinstance(target, ClassTarget) and len(target.classes) > 2:
        right = called_class(prediction, target) == target.label
        shares = [_share_of_class(right, target.label, c) for c in range(len(target.classes))]
        found.append(
            _metric("balanced accuracy", lambda r: float(np.mean([s(r) for s in shares])), target, fold, settings)
        )
    if isinstance(target, LabelsTarget):
        for number, (name, yes, no) in enumerate(target.counts()):
            statistic = label_statistic(prediction, target, fold, number)
            found.append(_metric(f"AUC of {name}", statistic, target, fold, settings, f"{yes} with, {no} without"))
    if isinstance(target, ContinuousTarget):
        error = np.abs(prediction[:, 0] - target.value)
        found.append(_metric("mean absolute error", lambda r: float(error[r].mean()), target, fold, settings))
    return tuple(found)


def differences_of(
    task: Task,
    prediction: Values,
    others: Sequence[tuple[str, Values]],
    target: Target,
    fold: Rows,
    settings: EvaluationSettings,
) -> tuple[Metric, ...]:
    """The main metric of a model minus that of each other one, on the same resamples of patients."""
    mine = main_statistic(task, prediction, target, fold)
    found = []
    for name, other in others:
        theirs = main_statistic(task, other, target, fold)
        title = f"{task.metric} minus that of {name}"
        try:
            every = np.arange(len(target))
            value = mine(every) - theirs(every)
            interval = paired_difference_interval(
                mine, theirs, len(target), draws=settings.bootstrap, strata=strata(target, fold)
            )
        except UndefinedMetricError as e:
            found.append(Metric(title, None, None, str(e)))
        else:
            found.append(Metric(title, value, interval))
    return tuple(found)


def _metric(
    name: str,
    statistic: Callable[[Rows], float],
    target: Target,
    fold: Rows,
    settings: EvaluationSettings,
    note: str = "",
) -> Metric:
    try:
        value = statistic(np.arange(len(target)))
        interval = bootstrap_interval(statistic, len(target), draws=settings.bootstrap, strata=strata(target, fold))
    except UndefinedMetricError as e:
        return Metric(name, None, None, str(e))
    return Metric(name, value, interval, note)


def _share(flags: npt.NDArray[np.bool_], among: npt.NDArray[np.bool_]) -> float:
    if not among.any():
        raise UndefinedMetricError("a rate among no patients is not defined")
    return float(flags[among].mean())


def _share_of_class(right: npt.NDArray[np.bool_], label: Rows, number: int) -> Callable[[Rows], float]:
    return lambda rows: _share(right[rows], label[rows] == number)
