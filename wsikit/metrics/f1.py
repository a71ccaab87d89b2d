"""F1: the harmonic mean of precision and sensitivity, of one class or of all."""

from __future__ import annotations

from typing import Any

from wsikit.errors import ConfigError
from wsikit.metrics.undefined import UndefinedMetricError, as_flags, as_numbers, same_length


def f1_score(called: Any, positive: Any) -> float:
    """F1 = 2 TP / (2 TP + FP + FN) of a two-way decision.

    It ignores true negatives and depends on the share of positives: compare it on the same patients only.

    Args:
        called: (P,) bool or 0/1, who is called positive.
        positive: (P,) bool or 0/1, who is.

    Returns:
        0 to 1; 0 where positives are there and none is found.

    Raises:
        UndefinedMetricError: Nobody is positive and nobody is called so.
        ConfigError: Columns of different lengths, or a value other than 0 or 1.

    Example:
        >>> f1_score(called=[1, 1, 0, 0], positive=[1, 0, 1, 0])
        0.5
    """
    called, positive = as_flags("called", called), as_flags("positive", positive)
    same_length(called=called, positive=positive)
    either = int(called.sum()) + int(positive.sum())
    if either == 0:
        raise UndefinedMetricError(f"F1: none of {len(positive)} patients is positive and none is called so")
    return 2 * int((called & positive).sum()) / either


def macro_f1(called: Any, label: Any) -> float:
    """Mean over the classes present of the F1 of that class against all others.

    Args:
        called: (P,) number of the predicted class.
        label: (P,) number of the true class. A class of which no patient is left out of the mean, as
            in :func:`~wsikit.metrics.macro_auc`; calling it is still an error of the true class.

    Returns:
        0 to 1.

    Raises:
        UndefinedMetricError: No patients.
        ConfigError: Columns of different lengths, numbers that are not finite.

    Example:
        >>> macro_f1(called=[0, 1, 1, 2], label=[0, 1, 2, 2])
        0.7777777777777777
    """
    import numpy as np

    called, label = as_numbers("called", called), as_numbers("label", label)
    if len(called) != len(label):
        raise ConfigError(f"one row per patient expected in every column; found rows: {len(called)} and {len(label)}")
    if len(label) == 0:
        raise UndefinedMetricError("F1: no class is present among 0 patients")
    return float(np.mean([f1_score(called == number, label == number) for number in np.unique(label)]))
