"""Area under the ROC curve: how often a positive patient has a higher score than a negative one."""

from __future__ import annotations

from typing import Any

from wsikit.errors import ConfigError
from wsikit.metrics.undefined import UndefinedMetricError, as_codes, as_flags, as_numbers, same_length


def roc_auc(score: Any, positive: Any, *, groups: Any = None) -> float:
    """Share of pairs of a positive and a negative patient in which the positive has the higher score.

    Equal scores count 1/2; without ``groups`` this is scikit-learn's ``roc_auc_score``.

    For out-of-fold scores give the fold as ``groups``: only pairs inside a fold then count, pooled
    over the folds. Scores of two folds come from two models with two intercepts, and the
    intercept is against the truth: a fold with many positives leaves few for its training, so
    its scores are low. Compared over folds, models that learned nothing come out below 0.5.

    Args:
        score: (P,) higher = more likely positive; array, sequence or tensor.
        positive: (P,) bool or 0/1.
        groups: (P,) fold of each patient, or any other label inside which scores are comparable.

    Returns:
        0 to 1; 0.5 is chance.

    Raises:
        UndefinedMetricError: No group holds both a positive and a negative patient.
        ConfigError: Columns of different lengths, numbers that are not finite, a label other than 0 or 1.

    Example:
        >>> roc_auc(score=[0.1, 0.4, 0.35, 0.8], positive=[0, 0, 1, 1])
        0.75

    Reference:
        Hanley and McNeil, 1982, Radiology 143(1):29-36, doi:10.1148/radiology.143.1.7063747; on
        pooling over folds: Airola et al., 2011, Comput Stat Data Anal 55(4):1828-1844,
        doi:10.1016/j.csda.2010.11.018.
    """
    import numpy as np

    score, positive = as_numbers("score", score), as_flags("positive", positive)
    same_length(score=score, positive=positive)
    group = as_codes("groups", groups, len(score))
    order = np.lexsort((score, group))
    score, positive, group = score[order], positive[order], group[order]

    negatives = np.concatenate([[0], np.cumsum(~positive)])  # (P + 1,), among the rows before each
    new_group = np.concatenate([[True], group[1:] != group[:-1]])[: len(score)]
    new_score = new_group | np.concatenate([[True], score[1:] != score[:-1]])[: len(score)]
    bounds = np.flatnonzero(np.append(new_score, True))  # where each run of equal scores begins, and the end
    run = np.cumsum(new_score) - 1
    below, up_to = negatives[bounds[run]], negatives[bounds[run + 1]]
    outside = negatives[np.flatnonzero(new_group)][np.cumsum(new_group) - 1]
    # A positive wins 2 halves against each negative below it and 1 against each of the same score.
    halves = int((below + up_to - 2 * outside)[positive].sum())
    sizes, positives = np.bincount(group), np.bincount(group, positive)
    pairs = float((positives * (sizes - positives)).sum())
    if pairs == 0:
        raise UndefinedMetricError(
            f"no pair of a positive and a negative among {len(score)} patients with {int(positive.sum())} positives"
            + ("" if groups is None else f" in {len(sizes)} groups (pairs are made inside a group)")
        )
    return halves / 2 / pairs


def macro_auc(scores: Any, label: Any, *, groups: Any = None) -> float:
    """Mean over the classes present of the AUC of that class against all others.

    Args:
        scores: (P, C) higher = more likely of that class.
        label: (P,) number of the true class, 0 to C - 1. A class without a patient is left out of the mean.
        groups: (P,) as for :func:`roc_auc`: only pairs inside a group count.

    Returns:
        0 to 1; 0.5 is chance.

    Raises:
        UndefinedMetricError: A class that is present has no pair with another inside a group; its
            number is named. (Left out silently it would change what the mean is of.)
        ConfigError: Columns of different lengths, numbers that are not finite, a label that is no class.

    Example:
        >>> macro_auc([[0.8, 0.1, 0.1], [0.2, 0.5, 0.3], [0.1, 0.3, 0.6]], [0, 1, 2])
        1.0
    """
    import numpy as np

    scores, label = as_numbers("scores", scores, ndim=2), as_numbers("label", label)
    same_length(scores=scores, label=label)
    unknown = ~np.isin(label, np.arange(scores.shape[1]))
    if unknown.any():
        row = int(np.argmax(unknown))
        raise ConfigError(f"label of row {row} is {label[row]:g}; scores have classes 0 to {scores.shape[1] - 1}")
    if len(label) == 0:
        raise UndefinedMetricError("no class is present among 0 patients")
    each = []
    for number in np.unique(label).astype(int).tolist():
        try:
            each.append(roc_auc(scores[:, number], label == number, groups=groups))
        except UndefinedMetricError as error:
            raise UndefinedMetricError(f"class {number} against the others: {error}") from error
    return float(np.mean(each))
