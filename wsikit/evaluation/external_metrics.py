"""The numbers of an external validation, of all patients or of some, with everything as it was at training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from wsikit.cohort.endpoints import ClassTarget, ContinuousTarget, SurvivalTarget, Target
from wsikit.evaluation.assessment import ClassSets, Intervals
from wsikit.evaluation.external_survival import Absolute, survival_metrics
from wsikit.evaluation.result import Metric
from wsikit.evaluation.scores import AT_THRESHOLDS, Rows, measured, metrics_of, strata
from wsikit.evaluation.settings import EvaluationSettings
from wsikit.metrics import UndefinedMetricError
from wsikit.tasks.task import Values
from wsikit.training.bundle import Bundle

FROZEN = "frozen at training"


@dataclass(frozen=True)
class Said:
    """What models say of external patients.

    Attributes:
        bundles: The models.
        prediction: (P, K) their mean.
        threshold: Probability above which a patient is called positive; None unless there are two classes.
        absolute: Risks at a time; None unless survival.
        sets: Prediction sets or intervals, where asked for.
    """

    bundles: Sequence[Bundle]
    prediction: Values
    threshold: float | None
    absolute: Absolute | None
    sets: ClassSets | Intervals | None


def metrics_among(said: Said, target: Target, rows: Rows, settings: EvaluationSettings) -> tuple[Metric, ...]:
    """Every metric of the models among some patients, the task's own first.

    Cut points and horizon are those of ``said``, whoever the patients are.

    Args:
        said: Of all patients.
        target: Likewise.
        rows: (n,) positions of the patients that count.
        settings: Resamples.
    """
    prediction, target = said.prediction[rows], target.take(rows)
    everybody = np.zeros(len(rows), np.int64)
    cut = None if said.threshold is None else np.full(len(rows), said.threshold)
    found = list(metrics_of(said.bundles[0].task, prediction, target, everybody, settings, threshold=cut))
    if said.threshold is not None:
        found = [replace(m, note=f"at {said.threshold:.3g}, {FROZEN}") if m.note == AT_THRESHOLDS else m for m in found]
    if isinstance(target, SurvivalTarget) and said.absolute is not None:
        absolute = replace(said.absolute, risk=said.absolute.risk[rows])
        kept = strata(target, everybody)
        found += survival_metrics(said.bundles, prediction[:, 0], target, absolute, kept, settings)
    if isinstance(target, ContinuousTarget):
        found += _linear(prediction[:, 0], target.value, settings)
    if said.sets is not None:
        found += _of_sets(said.sets, rows, target, settings)
    return tuple(found)


def _linear(
    prediction: npt.NDArray[np.float64], value: npt.NDArray[np.float64], settings: EvaluationSettings
) -> list[Metric]:
    """Slope of the true numbers on the predicted ones, and how much too low these are on average."""

    def slope(rows: Rows) -> float:
        x, y = prediction[rows], value[rows]
        if np.ptp(x) < 1e-12:
            raise UndefinedMetricError("calibration slope: all predictions are equal")
        return float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())

    n, everybody = len(value), np.zeros(len(value), np.int64)
    return [
        measured("calibration slope", slope, n, everybody, settings, "1 is right"),
        measured(
            "calibration intercept", lambda r: float((value[r] - prediction[r]).mean()), n, everybody, settings,
            "0 is right: mean of true less predicted",
        ),
    ]  # fmt: skip


def _of_sets(sets: ClassSets | Intervals, rows: Rows, target: Target, settings: EvaluationSettings) -> list[Metric]:
    """How often sets of some patients held the truth, and how large they are."""
    n, everybody = len(rows), np.zeros(len(rows), np.int64)
    said = f"{sets.coverage:g} was asked for; it holds of patients like those of the training"
    if isinstance(sets, ClassSets):
        assert isinstance(target, ClassTarget)
        inside = sets.inside[rows]
        held, size, name = inside[np.arange(n), target.label], inside.sum(1), "classes in a set"
    else:
        assert isinstance(target, ContinuousTarget)
        low, high = sets.ends[rows].T
        held, size, name = (low <= target.value) & (target.value <= high), high - low, "width of an interval"
    return [
        measured("coverage of sets", lambda r: float(held[r].mean()), n, everybody, settings, said),
        measured(name, lambda r: float(size[r].mean()), n, everybody, settings, "mean"),
    ]
