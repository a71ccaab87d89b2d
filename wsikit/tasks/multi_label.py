"""Several yes-or-no labels at once: binary cross-entropy where known, probabilities, mean AUC."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wsikit.cohort.several_labels import LabelsTarget
from wsikit.metrics.auc import roc_auc
from wsikit.metrics.undefined import UndefinedMetricError
from wsikit.tasks.balance import Weights
from wsikit.tasks.classification import state_of
from wsikit.tasks.task import Values


class MultiLabelTask:
    """Each of L labels: had or not, whatever the others.

    Args:
        names: Of the labels, in the order of the outputs.
        weights: (L, 2) of not having and of having each label in the loss; None for equal ones.
    """

    free = 0
    whole_cohort = False
    metric = "macro AUC"

    def __init__(self, names: tuple[str, ...], weights: Weights | None = None) -> None:
        self.names, self.weights = names, weights
        self.outputs = len(names)
        self.columns = tuple(f"probability_{name}" for name in names)

    def loss(self, outputs: Tensor, target: LabelsTarget) -> Tensor:
        """Mean over the known labels of the (weighted) binary cross-entropy of logits (B, L); 0 where none is known."""
        logits = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
        wanted = torch.as_tensor(target.positive).to(logits)
        share = target.known.astype(np.float64)
        if self.weights is not None:
            share = share * np.where(target.positive, self.weights[:, 1], self.weights[:, 0])
        each = torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        return (each * torch.as_tensor(share).to(each)).sum() / max(1, int(target.known.sum()))

    def predict(self, outputs: Tensor) -> Values:
        """Logits (B, L) -> the probability of each label (B, L)."""
        return np.asarray(outputs.double().sigmoid().cpu().numpy(), np.float64)

    def score(self, prediction: Values, target: LabelsTarget, groups: npt.NDArray[np.int64] | None = None) -> float:
        """Mean of the labels' AUCs, each over the patients who have it known."""
        return float(np.mean([label_auc(prediction, target, i, groups) for i in range(len(self.names))]))

    def own_target(self, output_target: LabelsTarget) -> Tensor | None:
        """None: a patient is of no single class."""
        return None

    def state(self) -> Mapping[str, float]:
        """The weights, where there are some."""
        return state_of(self.weights)


def label_auc(
    prediction: Values, target: LabelsTarget, number: int, groups: npt.NDArray[np.int64] | None = None
) -> float:
    """AUC of one label over the patients who have it known.

    Raises:
        UndefinedMetricError: None of them, or no group of them, has it and has it not; the label is named.
    """
    mine = target.known[:, number]
    inside = None if groups is None else groups[mine]
    try:
        return roc_auc(prediction[mine, number], target.positive[mine, number], groups=inside)
    except UndefinedMetricError as e:
        raise UndefinedMetricError(f"label {target.names[number]!r}: {e}") from e
