"""The patients that a model got most right and most wrong, or ranks highest and lowest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsikit.cohort.endpoints import ClassTarget, ContinuousTarget, SurvivalTarget
from wsikit.cohort.several_labels import LabelsTarget
from wsikit.evaluation.result import CrossvalResult
from wsikit.reports.words import decimals_of, number_text
from wsikit.tasks.classification import called


@dataclass(frozen=True)
class Case:
    """A patient that is shown.

    Attributes:
        patient: Position in the cohort.
        facts: Name and value of what is said about the patient: true and predicted values, fold.
    """

    patient: int
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class CaseGroup:
    """Patients that are shown together.

    Attributes:
        title: What they have in common.
        cases: The most extreme first.
    """

    title: str
    cases: tuple[Case, ...]


def case_groups(result: CrossvalResult) -> tuple[CaseGroup, CaseGroup]:
    """The most and the least extreme patients, ``evaluation.heatmaps`` of each, nobody twice.

    Classification orders patients by the probability of their true class (or the mean of it over the known
    labels), regression by their error. Survival orders them by log risk in units of their fold's spread
    around its mean, as log risks of different folds are on different scales.
    """
    order = np.argsort(-_merit(result), kind="stable")
    few = min(result.experiment.evaluation.heatmaps, len(order) // 2)
    ends = (order[:few].tolist(), order[::-1][:few].tolist())
    first, last = _titles(result)
    return (
        CaseGroup(first, tuple(Case(i, _facts(result, i)) for i in ends[0])),
        CaseGroup(last, tuple(Case(i, _facts(result, i)) for i in ends[1])),
    )


def in_fold_units(values: npt.NDArray[np.float64], fold: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Values less their fold's mean, divided by its standard deviation; 0 in a fold of equal values."""
    out = np.zeros(len(values))
    for number in np.unique(fold):
        mine = fold == number
        spread = values[mine].std()
        if spread > 0:
            out[mine] = (values[mine] - values[mine].mean()) / spread
    return out


def _merit(result: CrossvalResult) -> npt.NDArray[np.float64]:
    prediction, target = result.model.prediction, result.cohort.target
    if isinstance(target, ClassTarget):
        return prediction[np.arange(len(target)), target.label]
    if isinstance(target, SurvivalTarget):
        return in_fold_units(prediction[:, 0], result.fold)
    if isinstance(target, LabelsTarget):
        right = np.where(target.positive, prediction, 1 - prediction)
        return np.asarray((right * target.known).sum(1) / target.known.sum(1), np.float64)
    assert isinstance(target, ContinuousTarget)  # several outcomes have a report each
    return -np.abs(prediction[:, 0] - target.value)


def _titles(result: CrossvalResult) -> tuple[str, str]:
    target = result.cohort.target
    if isinstance(target, ClassTarget):
        return "Most right: highest probability of the true class", "Most wrong: lowest probability of the true class"
    if isinstance(target, SurvivalTarget):
        return "Highest predicted risk", "Lowest predicted risk"
    if isinstance(target, LabelsTarget):
        return "Most right: highest mean probability of the true labels", "Most wrong: lowest mean probability of them"
    return "Smallest error", "Largest error"


def _facts(result: CrossvalResult, patient: int) -> tuple[tuple[str, str], ...]:
    prediction, target, fold = result.model.prediction, result.cohort.target, int(result.fold[patient])
    where = ("Fold", f"{fold + 1}")
    if isinstance(target, ClassTarget):
        label = int(target.label[patient])
        truth = ("True", target.classes[label])
        if result.threshold is not None:
            cut, probability = float(result.threshold[patient]), float(prediction[patient, 1])
            name = target.classes[int(probability > cut)]
            of = f"Probability of {target.classes[1]}"
            return truth, ("Predicted", name), (of, f"{probability:.2f}, threshold {cut:.2f}"), where
        chosen = int(called(prediction, target)[patient])
        facts = [truth, ("Predicted", f"{target.classes[chosen]}, probability {prediction[patient, chosen]:.2f}")]
        if chosen != label:
            facts.append(("Of the true class", f"{prediction[patient, label]:.2f}"))
        return (*facts, where)
    if isinstance(target, SurvivalTarget):
        time = target.time[patient]
        ending = "event" if target.event[patient] else "no event when last seen"
        mine = np.flatnonzero(result.fold == fold)
        rank = int((prediction[mine, 0] > prediction[patient, 0]).sum()) + 1
        facts = [
            ("Outcome", f"{ending} at {number_text(time, 1)} {target.unit}"),
            (
                "Log risk",
                f"{number_text(float(prediction[patient, 0]))}, number {rank} of {len(mine)} in fold {fold + 1}",
            ),
        ]
        if result.risk_group is not None:
            facts.append(("Group", group_name(int(result.risk_group[patient]))))
        return tuple(facts)
    if isinstance(target, LabelsTarget):
        known = target.known[patient]
        truths = ["yes" if yes else "no" for yes in target.positive[patient].tolist()]
        shown = [
            (name, f"{truths[i] if known[i] else 'not known'}, probability {prediction[patient, i]:.2f}")
            for i, name in enumerate(target.names)
        ]
        return (*shown, where)
    assert isinstance(target, ContinuousTarget)
    true, predicted = float(target.value[patient]), float(prediction[patient, 0])
    decimals = decimals_of([true, predicted])
    error = number_text(predicted - true, decimals, signed=True)
    return (
        ("True", number_text(true, decimals)),
        ("Predicted", number_text(predicted, decimals)),
        ("Error", error),
        where,
    )


def group_name(number: int) -> str:
    """Name of a risk group."""
    return ("low risk", "high risk")[number] if number < 2 else f"risk group {number + 1}"
