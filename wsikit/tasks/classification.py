"""Classification: cross-entropy, probabilities, AUC; and which class a probability calls."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wsikit.cohort.endpoints import ClassTarget
from wsikit.metrics.auc import macro_auc, roc_auc
from wsikit.tasks.balance import Weights
from wsikit.tasks.task import Values


class ClassificationTask:
    """One class of several.

    Args:
        classes: Names, in the order of the outputs; of two, the second is the positive one.
        weights: (C,) of a patient of each class in the loss; None for equal ones.
    """

    free = 0
    whole_cohort = False

    def __init__(self, classes: tuple[str, ...], weights: Weights | None = None) -> None:
        self.classes, self.weights = classes, weights
        self.outputs = len(classes)
        self.columns = tuple(f"probability_{name}" for name in classes)
        self.metric = "AUC" if len(classes) == 2 else "macro AUC"

    def loss(self, outputs: Tensor, target: ClassTarget) -> Tensor:
        """Mean over patients of the (weighted) cross-entropy of logits (B, C), in float32 at least."""
        label = torch.as_tensor(target.label, device=outputs.device)
        wide = torch.promote_types(outputs.dtype, torch.float32)
        if self.weights is None:
            return torch.nn.functional.cross_entropy(outputs.to(wide), label)
        each = torch.nn.functional.cross_entropy(outputs.to(wide), label, reduction="none")
        # divided by the patients, not by their weights: in a batch of one class weights would cancel
        return (each * torch.as_tensor(self.weights[target.label]).to(each)).mean()

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
        """The weights, where there are some."""
        return state_of(self.weights)


def called(prediction: Values, target: ClassTarget) -> npt.NDArray[np.int64]:
    """The class that each patient is called, (P,): the most probable, or of ordered classes the median.

    The median is the first class that is reached or passed with a probability above one half; it is the call
    that CORN's authors make, and the one with the least expected distance.
    """
    if not target.ordered:
        return np.asarray(prediction.argmax(1), np.int64)
    beyond = 1 - prediction.cumsum(1)[:, :-1]  # (P, C - 1), probability of more than each class but the last
    return np.asarray((beyond > 0.5).sum(1), np.int64)


def state_of(weights: Weights | None) -> dict[str, float]:
    """Weights as the numbers of a task's state."""
    return {} if weights is None else {f"weight_{i}": float(w) for i, w in enumerate(weights.ravel())}


def weights_from(state: Mapping[str, float]) -> Weights | None:
    """Weights from a task's state, (n,); None where there were none."""
    found = [value for name, value in state.items() if name.startswith("weight_")]
    return np.array(found, np.float64) if found else None
