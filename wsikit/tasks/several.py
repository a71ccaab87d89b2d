"""Several outcomes from one embedding: the weighted sum of their losses, over the patients who have each known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wsikit.cohort.endpoints import ContinuousTarget, SurvivalTarget
from wsikit.cohort.several_outcomes import KnownTarget, SeveralTarget
from wsikit.metrics.undefined import UndefinedMetricError
from wsikit.tasks.task import Task, Values

SHARE = "share"
"""Of an outcome's state: the share of the training patients who have it known."""


class SeveralTask:
    r"""Outcomes that share an aggregator, each with outputs, loss and metric of its own.

    With B patients in a step, n_t of them with outcome t known, and s_t the share of the training patients who
    have it known, the loss is

    .. math:: \sum_t w_t \frac{n_t}{B s_t} L_t

    where L_t is the outcome's own loss, a mean over those who have it. So a patient counts the same in whichever
    step it falls, and over an epoch each outcome counts w_t, however many have it known. Those who have it not known
    are taken out before: their gradient is exactly zero.

    With ``uncertainty`` the outcome's term is :math:`w_t (e^{-u_t} L_t + u_t / 2)` instead of w_t L_t (for a number
    learnt by squared error :math:`e^{-u_t} L_t / 2`), where u_t is learnt, a log variance: an outcome that stays hard
    to predict weighs less. Whether it does better than equal weights varies with the data.

    Args:
        names: Of the outcomes.
        tasks: Of the outcomes.
        weights: Of the outcomes.
        shares: s_t.
        uncertainty: Whether weights are learnt.

    Reference:
        Kendall, Gal and Cipolla, 2018, CVPR, arXiv:1705.07115, equations 5, 7 and 10 (sigma squared is e to the u).
    """

    metric = "mean of the outcomes' metrics"

    def __init__(
        self,
        names: tuple[str, ...],
        tasks: Sequence[Task],
        weights: Sequence[float],
        shares: Sequence[float],
        *,
        uncertainty: bool = False,
    ) -> None:
        self.names, self.tasks = names, tuple(tasks)
        self.weights, self.shares = tuple(weights), tuple(shares)
        self.outputs = sum(task.outputs for task in tasks)
        self.free = len(self.tasks) if uncertainty else 0
        self.whole_cohort = any(task.whole_cohort for task in tasks)
        self.columns = tuple(f"{name}_{c}" for name, task in zip(names, tasks, strict=True) for c in task.columns)
        self._outputs = _slices([task.outputs for task in tasks])
        self.columns_of = _slices([len(task.columns) for task in tasks])
        """Which columns of a prediction are each outcome's."""

    def loss(self, outputs: Tensor, target: SeveralTarget) -> Tensor:
        """Weighted sum over the outcomes, from outputs (B, K) or, where weights are learnt, (B, K + T)."""
        total = outputs[:, :0].sum()
        for number, (task, part) in enumerate(zip(self.tasks, target.parts, strict=True)):
            rows = np.flatnonzero(part.known)
            if not len(rows) or not _has_loss(part):
                continue
            loss = task.loss(outputs[torch.as_tensor(rows, device=outputs.device), self._outputs[number]], part.target)
            if self.free:
                log_variance = outputs[:, self.outputs + number].to(loss.dtype).mean()  # the same of every bag
                squared = isinstance(part.target, ContinuousTarget) and task.outputs == 1
                loss = (-log_variance).exp() * loss * (0.5 if squared else 1.0) + log_variance / 2
            total = total + loss * (self.weights[number] * len(rows) / (len(target) * self.shares[number]))
        return total

    def predict(self, outputs: Tensor) -> Values:
        """Outputs (B, K) -> the outcomes' predictions side by side."""
        each = [task.predict(outputs[:, mine]) for task, mine in zip(self.tasks, self._outputs, strict=True)]
        return np.concatenate(each, axis=1)

    def score(self, prediction: Values, target: SeveralTarget, groups: npt.NDArray[np.int64] | None = None) -> float:
        """Mean of the outcomes' metrics, each over those who have it known; outcomes without one are left out."""
        found = []
        for task, part, mine in zip(self.tasks, target.parts, self.columns_of, strict=True):
            inside = None if groups is None else groups[part.known]
            try:
                found.append(task.score(prediction[part.known][:, mine], part.target, inside))
            except UndefinedMetricError:
                continue
        if not found:
            raise UndefinedMetricError(f"none of {', '.join(self.names)} has a metric among {len(target)} patients")
        return float(np.mean(found))

    def own_target(self, output_target: SeveralTarget) -> Tensor | None:
        """None: a patient has several classes."""
        return None

    def state(self) -> Mapping[str, float]:
        """Each outcome's numbers, and its share of known ones."""
        found: dict[str, float] = {}
        for name, task, share in zip(self.names, self.tasks, self.shares, strict=True):
            found |= {f"{name}/{key}": value for key, value in (dict(task.state()) | {SHARE: share}).items()}
        return found


def state_of_outcome(state: Mapping[str, float], name: str) -> dict[str, float]:
    """The part of a state that is one outcome's."""
    return {key.removeprefix(f"{name}/"): value for key, value in state.items() if key.startswith(f"{name}/")}


def _slices(widths: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(a, b) for a, b in pairwise(np.cumsum([0, *widths]).tolist()))


def _has_loss(part: KnownTarget) -> bool:
    """Cox's loss of patients without an event is not defined."""
    return not isinstance(part.target, SurvivalTarget) or bool(part.target.event.any())
