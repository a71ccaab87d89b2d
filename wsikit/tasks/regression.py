"""Regression of one number: squared error in units of its spread, rank correlation."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wsikit.cohort.endpoints import ContinuousTarget
from wsikit.metrics.rank_correlation import rank_correlation
from wsikit.tasks.task import Values


class RegressionTask:
    """One number for each patient.

    Args:
        mean: Of the training patients.
        std: Of the training patients.
    """

    outputs = 1
    columns: tuple[str, ...] = ("predicted",)
    metric = "rank correlation"
    free = 0
    whole_cohort = False

    def __init__(self, mean: float, std: float) -> None:
        self.mean, self.std = mean, std

    def loss(self, outputs: Tensor, target: ContinuousTarget) -> Tensor:
        """Mean squared error of outputs (B, 1), in units of the training patients' variance."""
        wide = torch.promote_types(outputs.dtype, torch.float32)
        wanted = torch.as_tensor((target.value - self.mean) / self.std, dtype=wide, device=outputs.device)
        return torch.nn.functional.mse_loss(outputs[:, 0].to(wide), wanted)

    def predict(self, outputs: Tensor) -> Values:
        """Outputs (B, 1) -> values (B, 1) in the endpoint's unit."""
        return np.asarray(outputs.double().cpu().numpy() * self.std + self.mean, np.float64)

    def score(self, prediction: Values, target: ContinuousTarget, groups: npt.NDArray[np.int64] | None = None) -> float:
        """Spearman's rank correlation."""
        return rank_correlation(prediction[:, 0], target.value, groups=groups)

    def own_target(self, output_target: ContinuousTarget) -> Tensor | None:
        """There are no classes."""
        return None

    def state(self) -> Mapping[str, float]:
        """Mean and spread of the training patients."""
        return {"mean": self.mean, "std": self.std}
