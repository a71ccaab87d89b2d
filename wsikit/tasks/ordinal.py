"""Grades: the probability of going beyond each, given that it was reached; quadratic weighted kappa."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from wsikit.cohort.endpoints import ClassTarget
from wsikit.metrics.cohen_kappa import cohen_kappa
from wsikit.tasks.balance import Weights
from wsikit.tasks.classification import ClassificationTask, called
from wsikit.tasks.task import Values


class OrdinalTask(ClassificationTask):
    """One class of several that have an order (CORN).

    Output k is the logit of ``P(y > k | y >= k)``, k = 0 to C - 2. Products of these are ``P(y > k)``, which
    fall with k whatever the outputs: the classes' probabilities are never negative. Unlike CORAL, whose
    outputs share one weight, a plain linear head is enough.

    Args:
        classes: Names, from least to most.
        weights: (C,) of a patient of each class in the loss; None for equal ones.

    Reference:
        Shi, Cao and Raschka, 2023, Pattern Anal Appl 26(3):941-955, arXiv:2111.08851, equations 4 to 6;
        github.com/Raschka-research-group/coral-pytorch (MIT).
    """

    def __init__(self, classes: tuple[str, ...], weights: Weights | None = None) -> None:
        super().__init__(classes, weights)
        self.outputs = len(classes) - 1
        self.metric = "quadratic kappa"

    def loss(self, outputs: Tensor, target: ClassTarget) -> Tensor:
        """Mean binary cross-entropy of outputs (B, C - 1) over all pairs of a patient and a grade that it reached."""
        logits = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
        label = torch.as_tensor(target.label, device=outputs.device)[:, None]  # (B, 1)
        grade = torch.arange(self.outputs, device=outputs.device)
        each = -torch.where(label > grade, logsigmoid(logits), logsigmoid(-logits))  # (B, C - 1)
        reached = (label >= grade).to(logits.dtype)
        if self.weights is None:
            return (each * reached).sum() / reached.sum()
        return (each * reached * torch.as_tensor(self.weights[target.label]).to(each)[:, None]).sum() / reached.sum()

    def predict(self, outputs: Tensor) -> Values:
        """Outputs (B, C - 1) -> probabilities (B, C) that sum to 1."""
        wide = outputs.double()
        beyond = logsigmoid(wide).cumsum(1)  # (B, C - 1), log P(y > k)
        reached = torch.nn.functional.pad(beyond, (1, 0))  # (B, C), log P(y >= k)
        stopped = torch.nn.functional.pad(logsigmoid(-wide), (0, 1))  # (B, C), log P(y = k | y >= k)
        return np.asarray((reached + stopped).exp().cpu().numpy(), np.float64)

    def score(self, prediction: Values, target: ClassTarget, groups: npt.NDArray[np.int64] | None = None) -> float:
        """Cohen's kappa with quadratic weights between the median class and the true one.

        It compares no patients with one another, so ``groups`` change nothing.
        """
        return cohen_kappa(called(prediction, target), target.label, classes=len(self.classes), weights="quadratic")

    def own_target(self, output_target: ClassTarget) -> Tensor | None:
        """None: outputs are not classes, there is one less of them."""
        return None
