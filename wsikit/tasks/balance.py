"""Weights that let rare classes count as much as frequent ones, fitted on training patients."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from wsikit.cohort.endpoints import ClassTarget, Target
from wsikit.cohort.several_labels import LabelsTarget
from wsikit.cohort.several_outcomes import SeveralTarget
from wsikit.errors import ConfigError

Balance: TypeAlias = Literal["none", "loss", "sampling"]
"""How rare classes are made to count: not at all, by weights in the loss, or by being drawn more often."""

Weights = npt.NDArray[np.float64]


def class_weights(target: ClassTarget) -> Weights:
    """Weight of a patient of each class, (C,): ``P / (present classes * patients of the class)``.

    The weights of all patients have a mean of 1, so that the loss keeps its size. A class without a patient
    gets 0.

    Reference:
        King and Zeng, 2001, Political Analysis 9(2):137-163, doi:10.1093/oxfordjournals.pan.a004868.
    """
    counts = np.bincount(target.label, minlength=len(target.classes)).astype(np.float64)
    return np.where(counts > 0, len(target) / ((counts > 0).sum() * np.maximum(counts, 1)), 0.0)


def label_weights(target: LabelsTarget) -> Weights:
    """Weight of not having and of having each label, (L, 2): as for classes, among those who have it known."""
    found = [
        class_weights(ClassTarget(target.positive[mine, i].astype(np.int64), ("no", "yes")))
        for i, mine in enumerate(target.known.T)
    ]
    return np.stack(found)


def sampling_weights(target: Target) -> Weights:
    """Probability of drawing each patient, (P,), so that every class is drawn equally often.

    Raises:
        ConfigError: The outcome is not one class.
    """
    check_balance(target, "sampling")
    assert isinstance(target, ClassTarget)
    weights = class_weights(target)[target.label]
    return np.asarray(weights / weights.sum(), np.float64)


def check_balance(target: Target, balance: Balance) -> None:
    """Refuse a balance that the outcome cannot have.

    Raises:
        ConfigError: There are no classes; or several labels, and sampling: a patient cannot be rare in one label
            and frequent in another.
    """
    fits = balance == "none" or isinstance(target, ClassTarget)
    several = isinstance(target, LabelsTarget)
    if isinstance(target, SeveralTarget):  # weighs the classes of those that have some
        several = any(isinstance(part.target, ClassTarget | LabelsTarget) for part in target.parts)
    if fits or (balance == "loss" and several):
        return
    what = "several labels" if isinstance(target, LabelsTarget) else "several outcomes" if several else "no class"
    raise ConfigError(
        f"training: balance={balance!r} makes the patients of rare classes count more, and the endpoint is {what}; "
        f"use balance={'loss' if several else 'none'}"
    )
