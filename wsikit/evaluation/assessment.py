"""How far to trust a prediction: what else fits the patient, and how unlike the training patients it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsikit.cohort.endpoints import ClassLabel, Continuous, Endpoint
from wsikit.errors import ConfigError
from wsikit.evaluation.conformal import (
    HeldOutClasses,
    HeldOutNumbers,
    check_enough,
    class_p_values,
    class_sets,
    number_intervals,
)
from wsikit.evaluation.known import Group
from wsikit.evaluation.outliers import Unlikeness, unlikeness
from wsikit.tasks.task import Values
from wsikit.training.bundle import Bundle

BETWEEN = "|"
"""Between the classes of a set in a table."""


@dataclass(frozen=True)
class ClassSets:
    """Conformal prediction sets.

    Attributes:
        coverage: Share of like patients whose set holds the true class.
        by_class: Whether of each class's patients, and not only of all together.
        classes: Names.
        p: (P, C) how well each class fits.
        inside: (P, C) bool, the sets.
        known: Held-out patients that were compared with.
    """

    coverage: float
    by_class: bool
    classes: tuple[str, ...]
    p: Values
    inside: npt.NDArray[np.bool_]
    known: int

    def columns(self) -> dict[str, list[str]]:
        """For a table: p of each class, the set, its size, and what an empty or a full set means."""
        found = {f"p_{name}": [f"{v:.6g}" for v in column] for name, column in zip(self.classes, self.p.T, strict=True)}
        names = [[n for n, held in zip(self.classes, row, strict=True) if held] for row in self.inside.tolist()]
        found["prediction_set"] = [BETWEEN.join(mine) for mine in names]
        found["set_size"] = [str(len(mine)) for mine in names]
        found["set_note"] = [self.note(len(mine)) for mine in names]
        return found

    def note(self, size: int) -> str:
        """What a set of this size means, where it is no answer."""
        if size == 0:
            return "empty: no class fits"
        return "all classes: none can be left out" if size == len(self.classes) else ""


@dataclass(frozen=True)
class Intervals:
    """Conformal intervals of a number.

    Attributes:
        coverage: Share of like patients whose interval holds the true value.
        ends: (P, 2) low and high.
        known: Held-out patients that were compared with.
    """

    coverage: float
    ends: Values
    known: int

    def columns(self) -> dict[str, list[str]]:
        """For a table."""
        return {
            name: [repr(float(v)) for v in column] for name, column in zip(("low", "high"), self.ends.T, strict=True)
        }


def check_coverage(endpoint: Endpoint, bundles: Sequence[Bundle], coverage: float, *, by_class: bool = False) -> None:
    """Refuse a coverage before anything is computed.

    Raises:
        ConfigError: An endpoint without conformal sets here, models without held-out patients, or too few of them.
    """
    if not isinstance(endpoint, ClassLabel | Continuous):
        why = (
            "a set of times has to allow for patients who were not followed to their event, which wsikit does not do"
            if endpoint.kind == "survival"
            else "each label would need its own"
        )
        raise ConfigError(
            f"coverage {coverage:g}: no prediction sets for an endpoint of kind {endpoint.kind!r} ({why}); leave out "
            "--coverage"
        )
    if by_class and not isinstance(endpoint, ClassLabel):
        raise ConfigError(f"by class: an endpoint of kind {endpoint.kind!r} has no classes; leave out --by-class")
    if any("held_out.prediction" not in bundle.known for bundle in bundles):
        raise ConfigError(
            f"coverage {coverage:g}: the models hold no predictions of held-out patients (an earlier wsikit wrote "
            "them, or their run was interrupted); repeat 'wsikit crossval' with the same configuration, which keeps "
            "models that are there, or 'wsikit train'"
        )
    label = "held_out.label" if isinstance(endpoint, ClassLabel) else "held_out.value"
    first = {bundle.facts["held_out"]["group"]: bundle.known[label] for bundle in bundles}
    every = np.concatenate(list(first.values()))
    if by_class:
        assert isinstance(endpoint, ClassLabel)
        check_enough(np.bincount(every, minlength=len(endpoint.classes)).tolist(), coverage, endpoint.classes)
    else:
        check_enough([len(every)], coverage, ["all"])


def sets_of(
    groups: Sequence[Group], endpoint: Endpoint, each: Sequence[Values], coverage: float, *, by_class: bool = False
) -> ClassSets | Intervals:
    """Prediction sets, or of a number intervals.

    Args:
        groups: The models, by fold.
        endpoint: What they predict.
        each: Of each model its predictions of the new patients (P, K).
        coverage: Between 0 and 1.
        by_class: See :func:`~wsikit.evaluation.conformal.class_p_values`.
    """
    new = [np.mean([each[i] for i in group.members], axis=0) for group in groups]
    known = [group.bundles[0].known for group in groups]
    if isinstance(endpoint, ClassLabel):
        folds = [
            HeldOutClasses(group.held_out(), mine["held_out.label"], now)
            for group, mine, now in zip(groups, known, new, strict=True)
        ]
        p = class_p_values(folds, by_class=by_class)
        count = sum(len(fold.label) for fold in folds)
        return ClassSets(coverage, by_class, endpoint.classes, p, class_sets(p, coverage), count)
    numbers = [
        HeldOutNumbers(group.held_out()[:, 0], mine["held_out.value"], now[:, 0])
        for group, mine, now in zip(groups, known, new, strict=True)
    ]
    return Intervals(coverage, number_intervals(numbers, coverage), sum(len(one.value) for one in numbers))


def unlikeness_of(groups: Sequence[Group] | None, means: npt.NDArray[np.floating]) -> Unlikeness | None:
    """How unlike the training patients the new ones are, by their mean features (P, D); None where nobody is known."""
    if not groups or any("held_out.distance" not in group.bundles[0].known for group in groups):
        return None
    return unlikeness([(group.distances, group.reference.distances(means)) for group in groups])


def unlike_columns(found: Unlikeness) -> dict[str, list[str]]:
    """For a table."""
    return {
        "ood_score": [f"{v:.6g}" for v in found.score],
        "ood_share": [f"{v:.6g}" for v in found.share],
        "ood_flag": [str(int(v)) for v in found.flagged],
    }
