"""Logistic recalibration: the same ranking with probabilities that fit another cohort, learnt on patients of it.

It is another model. What it gains is measured on patients who had no part in it, and stands beside what the
model did as it was trained, never in its place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from wsikit.errors import ConfigError
from wsikit.metrics.calibration import EDGE, calibration_intercept, calibration_slope

Numbers = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
How: TypeAlias = Literal["intercept", "slope"]
HOW = ("intercept", "slope")
PARTS = 5


@dataclass(frozen=True)
class Recalibration:
    """logit p' = intercept + slope logit p.

    Attributes:
        how: ``intercept`` alone, or ``slope`` and intercept.
        intercept: Added.
        slope: 1 where only the intercept was learnt.
        patients: Who taught it.
    """

    how: How
    intercept: float
    slope: float
    patients: int

    def __call__(self, probability: npt.ArrayLike) -> Numbers:
        """Recalibrated probabilities, (P,)."""
        chance = np.clip(np.asarray(probability, np.float64), EDGE, 1 - EDGE)
        logit = np.log(chance) - np.log1p(-chance)
        return np.asarray(1 / (1 + np.exp(-(self.intercept + self.slope * logit))), np.float64)


def fit_recalibration(probability: Numbers, positive: Flags, how: How) -> Recalibration:
    """Learn a recalibration by maximum likelihood.

    Args:
        probability: (P,) of the positive class, by the model as it was trained.
        positive: (P,) bool.
        how: ``intercept`` corrects probabilities that are too high or too low on the whole, and needs few patients;
            ``slope`` also those that are too extreme or too timid.

    Raises:
        UndefinedMetricError: One class only, or with ``slope`` equal probabilities or classes parted without error.
        ConfigError: An unknown ``how``.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> p = rng.random(4000)
        >>> found = fit_recalibration(p, rng.random(4000) < 1 / (1 + 9 * (1 / p - 1)), "intercept")
        >>> round(float(found.intercept / -np.log(9)), 1)
        1.0

    Reference:
        Janssen et al., 2008, J Clin Epidemiol 61(1):76-86, doi:10.1016/j.jclinepi.2007.04.018 (methods 1 and 2).
    """
    if how not in HOW:
        raise ConfigError(f"recalibrate: {how!r}, expected 'intercept', or 'slope' (with intercept)")
    slope = 1.0 if how == "intercept" else calibration_slope(probability, positive)
    steeper = Recalibration(how, 0.0, slope, len(positive))(probability)
    return Recalibration(how, calibration_intercept(steeper, positive), slope, len(positive))


def cross_fitted(probability: Numbers, positive: Flags, how: How, *, parts: int = PARTS, seed: int = 0) -> Numbers:
    """Recalibrated probabilities (P,), each by a recalibration that was learnt without the patient.

    Patients are dealt at random into parts; each part is recalibrated by what the others teach. They are not dealt
    by class: the share of positives among the others would then tell that of the part, and the gain in calibration
    would look larger than it is (with 40 patients by about 0.01 of the Brier score, simulated by the project).

    Args:
        probability: (P,) of the positive class.
        positive: (P,) bool.
        how: See :func:`fit_recalibration`.
        parts: How many.
        seed: Of the dealing.

    Raises:
        UndefinedMetricError: As :func:`fit_recalibration`, of any of the parts' others.
    """
    return by_others(
        probability, lambda others: fit_recalibration(probability[others], positive[others], how), parts, seed
    )


def by_others(
    prediction: Numbers, learn: Callable[[Flags], Callable[[Numbers], Numbers]], parts: int, seed: int
) -> Numbers:
    """Predictions (P,), those of each part of the patients changed by what the other parts teach.

    Args:
        prediction: (P,) by the model as it was trained.
        learn: From the patients (P,) bool who teach, to what changes predictions.
        parts: How many the patients are dealt into, at random.
        seed: Of the dealing.
    """
    part, found = parts_of(len(prediction), parts, seed), np.empty(len(prediction))
    for number in np.unique(part):
        others = part != number
        found[~others] = learn(others)(prediction[~others])
    return found


def parts_of(patients: int, parts: int, seed: int) -> npt.NDArray[np.int64]:
    """The part of each patient (P,), dealt at random."""
    return np.asarray(np.random.default_rng(seed).permutation(patients) % parts, np.int64)
