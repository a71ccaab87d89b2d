"""Regression by classification: a distribution over bins, its mean as the prediction."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wsikit.cohort.endpoints import ContinuousTarget
from wsikit.metrics.rank_correlation import rank_correlation
from wsikit.tasks.task import Values

SPREAD = 0.75
"""Standard deviation of a soft label in widths of a bin (Farebrother et al. 2024, section 3.1)."""
MARGIN = 2
"""Bins beyond the smallest and the largest training value: a soft label at either end stays whole."""


class BinnedRegressionTask:
    """One number for each patient, learnt as K logits of bins of equal width.

    The label of a value v is what a normal distribution around v puts into each bin, and the loss is the
    cross-entropy with it (the histogram loss, HL-Gauss). The prediction is the mean of the bins' centres
    under the softmax: it is not tied to a bin, and lies within the training values and two bins beyond.

    Args:
        bins: K.
        first: Centre of the first bin.
        last: Centre of the last.

    Reference:
        Imani and White, 2018, ICML, arXiv:1806.04613 (histogram loss); Farebrother et al., 2024, ICML,
        arXiv:2403.03950 (spread of the labels).
    """

    columns: tuple[str, ...] = ("predicted",)
    metric = "rank correlation"
    free = 0
    whole_cohort = False

    def __init__(self, bins: int, first: float, last: float) -> None:
        self.outputs, self.first, self.last = bins, first, last
        self.centres = np.linspace(first, last, bins)  # (K,)

    @classmethod
    def fitted(cls, bins: int, values: npt.NDArray[np.float64]) -> BinnedRegressionTask:
        """Bins over the values of training patients and ``MARGIN`` more at either end."""
        low, high = float(values.min()), float(values.max())
        if low == high:
            low, high = low - 0.5, high + 0.5
        width = (high - low) / (bins - 1 - 2 * MARGIN)
        return cls(bins, low - MARGIN * width, high + MARGIN * width)

    def soft_labels(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Share of each bin in the label of each value, (P,) -> (P, K), rows sum to 1.

        A value beyond the bins (of a patient who is not a training patient) counts as the outermost that has a
        whole label.
        """
        from scipy.special import ndtr

        width = (self.last - self.first) / (self.outputs - 1)
        inside = np.clip(values, self.first + MARGIN * width, self.last - MARGIN * width)
        edges = np.linspace(self.first - width / 2, self.last + width / 2, self.outputs + 1)
        below = ndtr((edges - inside[:, None]) / (SPREAD * width))  # (P, K + 1)
        return np.asarray(np.diff(below, axis=1) / (below[:, -1:] - below[:, :1]), np.float64)

    def loss(self, outputs: Tensor, target: ContinuousTarget) -> Tensor:
        """Mean cross-entropy of logits (B, K) with the soft labels, less their entropy: 0 is a perfect fit."""
        logits = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
        wanted = torch.as_tensor(self.soft_labels(target.value)).to(logits)
        return torch.nn.functional.kl_div(logits.log_softmax(1), wanted, reduction="batchmean")

    def predict(self, outputs: Tensor) -> Values:
        """Logits (B, K) -> values (B, 1) in the endpoint's unit."""
        share = outputs.double().softmax(1).cpu().numpy()
        return np.asarray(share @ self.centres[:, None], np.float64)

    def score(self, prediction: Values, target: ContinuousTarget, groups: npt.NDArray[np.int64] | None = None) -> float:
        """Spearman's rank correlation."""
        return rank_correlation(prediction[:, 0], target.value, groups=groups)

    def own_target(self, output_target: ContinuousTarget) -> Tensor | None:
        """None: bins are no classes."""
        return None

    def state(self) -> Mapping[str, float]:
        """Centres of the first and the last bin."""
        return {"first": self.first, "last": self.last}
