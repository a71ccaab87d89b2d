"""Classification: cross-entropy, probabilities, AUC."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wsikit.cohort.endpoints import ClassTarget
from wsikit.metrics.auc import macro_auc, roc_auc
from wsikit.tasks.task import Values


class ClassificationTask:
    """One class of several.

    Args:
        classes: Names, in the order of the outputs; of two, the second is the positive one.
    """

    whole_cohort = False

    def __init__(self, classes: tuple[str, ...]) -> None:
        self.classes = classes
        self.outputs = len(classes)
        self.columns = tuple(f"probability_{name}" for name in classes)
        self.metric = "AUC" if len(classes) == 2 else "macro AUC"

    def loss(self, outputs: Tensor, target: ClassTarget) -> Tensor:
        """Mean cross-entropy of logits (B, C), in float32 at least."""
        label = torch.as_tensor(target.label, device=outputs.device)
        wide = torch.promote_types(outputs.dtype, torch.float32)
        return torch.nn.functional.cross_entropy(outputs.to(wide), label)

    def predict(self, outputs: Tensor) -> Values:
        """Logits (B, C) -> probabilities (B, C) that sum to 1."""
        return np.asarray(outputs.double().softmax(1).cpu().numpy(), np.float64)

    def score(self, prediction: Values, target: ClassTarget, groups: npt.NDArray[np.int64] | None = None) -> float:
        """AUC of the second class, or the mean of one-versus-rest AUCs where there are more than two."""
        if len(self.classes) == 2:
            return roc_auc(prediction[:, 1], target.label == 1, groups=groups)
        return macro_auc(prediction, target.label, groups=groups)

    def own_target(self, output_target: ClassTarget) -> Tensor | None:
        """Class of each patient (B,) int64."""
        return torch.as_tensor(output_target.label)

    def state(self) -> Mapping[str, float]:
        """Nothing is fitted."""
        return {}
