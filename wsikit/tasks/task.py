"""What every task has, and the task that belongs to an endpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from wsikit.cohort.endpoints import (
    ClassLabel,
    ClassTarget,
    ContinuousTarget,
    Endpoint,
    Ordinal,
    Survival,
    Target,
)
from wsikit.cohort.several_labels import Labels, LabelsTarget
from wsikit.cohort.several_outcomes import Several, SeveralTarget
from wsikit.tasks.balance import Balance, check_balance, class_weights, label_weights

Values = npt.NDArray[np.float64]


class Task(Protocol):
    """Outputs of a linear head, their loss, and what they predict.

    Attributes:
        outputs: Width of the head.
        free: How many learnt numbers that depend on no bag the loss also takes, as further columns of the outputs.
        columns: Names of the prediction's columns.
        metric: Name of the score.
        whole_cohort: Whether the loss compares patients with one another, so that every step needs
            all of them.
    """

    outputs: int
    free: int
    columns: tuple[str, ...]
    metric: str
    whole_cohort: bool

    def loss(self, outputs: Tensor, target: Any) -> Tensor:
        """Scalar loss of outputs (B, outputs) for the target of these B patients."""
        ...

    def predict(self, outputs: Tensor) -> Values:
        """Outputs (B, outputs) -> what is reported, (B, len(columns)) float64."""
        ...

    def score(self, prediction: Values, target: Any, groups: npt.NDArray[np.int64] | None = None) -> float:
        """The task's metric, higher = better; with ``groups`` only patients of one group are compared."""
        ...

    def own_target(self, output_target: Any) -> Tensor | None:
        """Class of each patient (B,) for an aggregator's own loss terms; None where there are no classes."""
        ...

    def state(self) -> Mapping[str, float]:
        """Numbers that were fitted on training patients."""
        ...


def create_task(
    endpoint: Endpoint,
    training: Target | None = None,
    state: Mapping[str, float] | None = None,
    *,
    balance: Balance = "none",
) -> Task:
    """The task of an endpoint.

    Args:
        endpoint: What is predicted.
        training: Target of the training patients: what a task has to fit (a mean, a spread, weights) is fitted on
            them.
        state: Or what an earlier ``state()`` gave.
        balance: With ``loss`` rare classes weigh more in the loss.

    Raises:
        ConfigError: A balance that the endpoint cannot have.
    """
    if training is not None:
        check_balance(training, balance)
    weighted = training if balance == "loss" else None
    if isinstance(endpoint, Several):
        assert training is None or isinstance(training, SeveralTarget)
        return _several(endpoint, training, state or {}, balance)
    if isinstance(endpoint, ClassLabel):
        from wsikit.tasks.classification import ClassificationTask, weights_from
        from wsikit.tasks.ordinal import OrdinalTask

        weights = class_weights(weighted) if isinstance(weighted, ClassTarget) else weights_from(state or {})
        return (OrdinalTask if isinstance(endpoint, Ordinal) else ClassificationTask)(endpoint.classes, weights)
    if isinstance(endpoint, Survival):
        from wsikit.tasks.survival import CoxTask

        return CoxTask()
    if isinstance(endpoint, Labels):
        from wsikit.tasks.classification import weights_from
        from wsikit.tasks.multi_label import MultiLabelTask

        weights = label_weights(weighted) if isinstance(weighted, LabelsTarget) else weights_from(state or {})
        return MultiLabelTask(endpoint.columns, None if weights is None else weights.reshape(-1, 2))
    values = training.value if isinstance(training, ContinuousTarget) else None
    if endpoint.bins is not None:
        from wsikit.tasks.binned_regression import BinnedRegressionTask

        if state is not None:
            return BinnedRegressionTask(endpoint.bins, state["first"], state["last"])
        assert values is not None
        return BinnedRegressionTask.fitted(endpoint.bins, values)
    from wsikit.tasks.regression import RegressionTask

    if state is not None:
        return RegressionTask(state["mean"], state["std"])
    assert values is not None
    return RegressionTask(float(values.mean()), float(values.std()) or 1.0)


def _several(endpoint: Several, training: SeveralTarget | None, state: Mapping[str, float], balance: Balance) -> Task:
    from wsikit.tasks.several import SHARE, SeveralTask, state_of_outcome

    tasks, shares = [], []
    for number, (name, one) in enumerate(endpoint.outcomes):
        if training is None:
            mine = state_of_outcome(state, name)
            shares.append(mine.pop(SHARE))
            tasks.append(create_task(one, state=mine))
            continue
        part = training.parts[number]
        classes = isinstance(part.target, ClassTarget | LabelsTarget)
        tasks.append(create_task(one, part.target, balance=balance if classes else "none"))
        shares.append(float(part.known.mean()))
    return SeveralTask(endpoint.names, tasks, endpoint.weights, shares, uncertainty=endpoint.weighting == "uncertainty")
