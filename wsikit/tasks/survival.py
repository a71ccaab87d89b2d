"""Survival by proportional hazards: Cox's partial likelihood over the whole cohort, log risk, Harrell's C."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wsikit.cohort.endpoints import SurvivalTarget
from wsikit.losses.cox import cox_partial_likelihood
from wsikit.metrics.harrell_c import harrell_c
from wsikit.tasks.task import Values


class CoxTask:
    """One log risk for each patient.

    The loss is exact: risk sets are those of all training patients, ties are Efron's. A batch of a
    few patients has other risk sets, and one of a single patient has no gradient at all.
    """

    outputs = 1
    columns: tuple[str, ...] = ("log_risk",)
    metric = "Harrell's C"
    free = 0
    whole_cohort = True

    def loss(self, outputs: Tensor, target: SurvivalTarget) -> Tensor:
        """Negative log partial likelihood of log risks (P, 1) for each event."""
        time = torch.as_tensor(target.time, device=outputs.device)
        event = torch.as_tensor(target.event, device=outputs.device)
        return cox_partial_likelihood(outputs[:, 0], time, event, ties="efron", reduction="mean")

    def predict(self, outputs: Tensor) -> Values:
        """Log risk (P, 1), higher = worse."""
        return np.asarray(outputs.double().cpu().numpy(), np.float64)

    def score(self, prediction: Values, target: SurvivalTarget, groups: npt.NDArray[np.int64] | None = None) -> float:
        """Harrell's C."""
        return harrell_c(prediction[:, 0], target.time, target.event, groups=groups)

    def own_target(self, output_target: SurvivalTarget) -> Tensor | None:
        """There are no classes."""
        return None

    def state(self) -> Mapping[str, float]:
        """Nothing is fitted."""
        return {}
