"""DeLong's test: do two scores of the same patients have the same AUC?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wsikit.metrics.undefined import UndefinedMetricError, as_flags, as_numbers, same_length

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True)
class DeLong:
    """Two AUCs of the same patients and their difference.

    Attributes:
        auc: Of the first and of the second score.
        difference: First minus second.
        standard_error: Of the difference.
        p: Two-sided, of no difference.
    """

    auc: tuple[float, float]
    difference: float
    standard_error: float
    p: float


def delong_test(score_a: Any, score_b: Any, positive: Any) -> DeLong:
    """DeLong's test of two correlated AUCs.

    It is for scores of ONE model each on patients that no model was fitted on: a held-out part, or
    another hospital. Out-of-fold scores of several models are no such thing (their AUC is made of pairs
    inside folds); for those resample patients with ``wsikit compare``. Two models of which one contains
    the other's inputs are also out of its scope (Demler, Pencina and D'Agostino, 2012).

    Args:
        score_a: (P,) higher = more likely positive.
        score_b: (P,) of the other model, on the same patients.
        positive: (P,) bool or 0/1.

    Raises:
        UndefinedMetricError: Fewer than two patients of a class.
        ConfigError: Columns of different lengths, numbers that are not finite, a label other than 0 or 1.

    Example:
        >>> delong_test([0.1, 0.4, 0.35, 0.8], [0.2, 0.1, 0.6, 0.9], [0, 0, 1, 1]).auc
        (0.75, 1.0)

    Reference:
        DeLong, DeLong and Clarke-Pearson, 1988, Biometrics 44(3):837-845, doi:10.2307/2531595; by midranks: Sun and
        Xu, 2014, IEEE Signal Process Lett 21(11):1389-1393, doi:10.1109/LSP.2014.2337313.
    """
    import numpy as np
    from scipy.special import ndtr

    scores = np.stack([_finite(score_a, positive, "score_a"), _finite(score_b, positive, "score_b")])  # (2, P)
    flag = as_flags("positive", positive)
    m, n = int(flag.sum()), int((~flag).sum())
    if m < 2 or n < 2:
        raise UndefinedMetricError(f"DeLong's test needs two patients of each class; found {m} positive, {n} negative")
    won = np.stack([_placements(s[flag], s[~flag]) for s in scores])  # (2, m) share of negatives below each positive
    lost = np.stack([1 - _placements(s[~flag], s[flag]) for s in scores])  # (2, n) share of positives above
    auc = won.mean(1)
    covariance = np.cov(won) / m + np.cov(lost) / n  # (2, 2)
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    difference, error = float(auc[0] - auc[1]), float(np.sqrt(max(variance, 0.0)))
    if error < 1e-12:  # scores in the same order
        p = 1.0 if abs(difference) < 1e-12 else 0.0
    else:
        p = float(2 * ndtr(-abs(difference) / error))
    return DeLong((float(auc[0]), float(auc[1])), difference, error, p)


def _placements(of: npt.NDArray[np.float64], among: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Share of ``among`` below each of ``of``, equal ones counting 1/2."""
    import numpy as np

    order = np.sort(among)
    below, up_to = np.searchsorted(order, of, side="left"), np.searchsorted(order, of, side="right")
    return np.asarray((below + up_to) / 2 / len(among), np.float64)


def _finite(score: Any, positive: Any, name: str) -> npt.NDArray[np.float64]:
    numbers = as_numbers(name, score)
    same_length(**{name: numbers, "positive": as_flags("positive", positive)})
    return numbers
