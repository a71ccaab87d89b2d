"""Average precision: among those who score as high as a positive patient, how many are positive."""

from __future__ import annotations

from typing import Any

from wsikit.metrics.undefined import UndefinedMetricError, as_codes, as_flags, as_numbers, same_length


def average_precision(score: Any, positive: Any, *, groups: Any = None) -> float:
    """Mean over the positive patients of the precision at their score, the area under the precision-recall curve.

    The precision at a score is the share of positives among all patients with that score or a higher
    one, so patients of equal score count together and the order of the rows does not matter. This is
    scikit-learn's ``average_precision_score`` (a sum of steps, not of trapezoids, which would be optimistic).

    For out-of-fold scores give the fold as ``groups``: a positive is then ranked among the patients of
    its own fold, and the mean is over all positives of all folds.

    Chance is the share of positives (with groups: its mean over the positives), and not 0.5: compare
    average precisions on the same patients only.

    Args:
        score: (P,) higher = more likely positive; array, sequence or tensor.
        positive: (P,) bool or 0/1.
        groups: (P,) fold of each patient, or any other label inside which scores are comparable.

    Returns:
        0 to 1.

    Raises:
        UndefinedMetricError: No positive patient, or nobody else.
        ConfigError: Columns of different lengths, numbers that are not finite, a label other than 0 or 1.

    Example:
        >>> average_precision(score=[0.1, 0.4, 0.35, 0.8], positive=[0, 0, 1, 1])
        0.8333333333333333

    Reference:
        Davis and Goadrich, 2006, ICML, doi:10.1145/1143844.1143874.
    """
    import numpy as np

    score, positive = as_numbers("score", score), as_flags("positive", positive)
    same_length(score=score, positive=positive)
    if not positive.any() or positive.all():
        raise UndefinedMetricError(
            f"average precision needs positive and negative patients; found {int(positive.sum())} positives "
            f"among {len(positive)} patients"
        )
    group = as_codes("groups", groups, len(score))
    order = np.lexsort((-score, group))  # in each group the highest first
    score, positive, group = score[order], positive[order], group[order]
    first = np.searchsorted(group, group)  # (P,) row at which the own group begins
    last_of_run = np.append((score[1:] != score[:-1]) | (group[1:] != group[:-1]), True)
    end = np.flatnonzero(last_of_run)[np.cumsum(last_of_run) - last_of_run]  # (P,) last row of the same score
    before = np.concatenate([[0], np.cumsum(positive)])
    precision = (before[end + 1] - before[first]) / (end + 1 - first)
    return float(precision[positive].mean())
