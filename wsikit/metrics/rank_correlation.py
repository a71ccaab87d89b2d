"""Spearman's rank correlation, with ranks taken inside groups where there are groups."""

from __future__ import annotations

from typing import Any

import numpy as np

from wsikit.metrics.undefined import UndefinedMetricError, as_codes, as_numbers, same_length


def rank_correlation(prediction: Any, value: Any, *, groups: Any = None) -> float:
    """Correlation of the ranks of two columns; tied values share their mean rank.

    Args:
        prediction: (P,) numbers.
        value: (P,) numbers.
        groups: (P,) fold of each patient: ranks are taken and centred inside each, so that predictions
            of differently fitted models are never compared. Groups weigh by their size.

    Raises:
        UndefinedMetricError: All predictions or all values are tied.

    Example:
        >>> rank_correlation([1, 2, 3, 4], [1, 2, 4, 3])
        0.8
    """
    from scipy.stats import rankdata

    x, y = as_numbers("prediction", prediction), as_numbers("value", value)
    same_length(prediction=x, value=y)
    fold = np.zeros(len(x), np.int64) if groups is None else as_codes("groups", groups, len(x))
    product = square_x = square_y = 0.0
    for number in np.unique(fold):
        mine = fold == number
        # in shares of the group: a rank in a large fold and one in a small fold mean the same
        a, b = (rankdata(column[mine]) / mine.sum() for column in (x, y))
        a, b = a - a.mean(), b - b.mean()
        product += float(a @ b)
        square_x += float(a @ a)
        square_y += float(b @ b)
    if square_x == 0 or square_y == 0:
        which = "predictions" if square_x == 0 else "values"
        raise UndefinedMetricError(f"rank correlation: all {which} are tied; expected at least two different ones")
    return round(product / float(np.sqrt(square_x * square_y)), 12)
