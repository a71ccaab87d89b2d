"""Cohen's kappa: agreement of predicted and true classes beyond what their shares alone would give."""

from __future__ import annotations

from typing import Any, Literal

from wsikit.errors import ConfigError
from wsikit.metrics.undefined import UndefinedMetricError, as_numbers, same_length


def cohen_kappa(called: Any, label: Any, *, classes: int, weights: Literal["none", "quadratic"] = "none") -> float:
    r"""Cohen's kappa, 1 - (observed disagreement) / (disagreement expected by chance).

    With the confusion matrix O (C, C) in shares and E the product of its margins,
    kappa = 1 - sum(W O) / sum(W E). W is 1 off the diagonal, or (i - j)^2 with ``weights="quadratic"``:
    then a grade missed by two costs four times a grade missed by one, and the classes have to be in order.

    Args:
        called: (P,) number of the predicted class, 0 to C - 1.
        label: (P,) number of the true class.
        classes: C.
        weights: ``none``, or ``quadratic`` for ordered classes.

    Returns:
        At most 1; 0 is chance.

    Raises:
        UndefinedMetricError: No disagreement could be expected: one class only, predicted and true.
        ConfigError: Columns of different lengths, a class that is not there, unknown weights.

    Example:
        >>> cohen_kappa([0, 1, 2, 2], [0, 1, 1, 2], classes=3, weights="quadratic")
        0.8

    Reference:
        Cohen, 1960, Educ Psychol Meas 20(1):37-46, doi:10.1177/001316446002000104; weighted: Cohen,
        1968, Psychol Bull 70(4):213-220, doi:10.1037/h0026256.
    """
    import numpy as np

    called, label = as_numbers("called", called), as_numbers("label", label)
    same_length(called=called, label=label)
    for name, column in (("called", called), ("label", label)):
        unknown = ~np.isin(column, np.arange(classes))
        if unknown.any():
            row = int(np.argmax(unknown))
            raise ConfigError(f"{name} of row {row} is {column[row]:g}; there are classes 0 to {classes - 1}")
    if weights not in ("none", "quadratic"):
        raise ConfigError(f"weights {weights!r}, expected 'none' or 'quadratic'")
    cells = np.bincount((label * classes + called).astype(np.int64), minlength=classes**2).reshape(classes, classes)
    number = np.arange(classes)
    apart = number[:, None] - number
    cost = apart**2 if weights == "quadratic" else (apart != 0).astype(np.int64)
    # in whole numbers, so that equal disagreement is exactly 0
    observed = int((cost * cells).sum()) * len(label)
    expected = int((cost * np.outer(cells.sum(1), cells.sum(0))).sum())
    if expected == 0:
        raise UndefinedMetricError(f"kappa: all {len(label)} patients are of one class and are called so")
    return 1 - observed / expected
