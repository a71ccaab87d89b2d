"""Intervals that also cover other training patients: of repeated and of nested cross-validation.

A bootstrap over tested patients holds the fitted models fixed. A new study would fit new ones, so its
number varies more. No estimate of that is unbiased from one cross-validation (Bengio and Grandvalet,
2004); these two are what the field has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsikit.errors import ConfigError
from wsikit.evaluation.bootstrap import Interval
from wsikit.metrics.undefined import UndefinedMetricError


def corrected_interval(values: Sequence[float], *, train: float, test: float, level: float = 0.95) -> Interval:
    r"""Nadeau and Bengio's interval of the mean of a metric over the folds of repeated cross-validations.

    mean +- t_{J-1} sqrt((1 / J + n_test / n_train) s^2), where s^2 is the variance of the J values. The
    folds of two repeats share most of their training patients, so their values are not independent,
    and s^2 / J alone would make an interval as narrow as one likes by repeating. The second term is the
    correction; it was derived for random halves and is used for folds by convention.

    Args:
        values: (J,) the metric on each fold of each repeat.
        train: Patients that each model was fitted on.
        test: Patients that each value is of.
        level: Of confidence.

    Returns:
        ``draws`` is J.

    Raises:
        UndefinedMetricError: Fewer than two values.
        ConfigError: No patients in a role.

    Example:
        >>> found = corrected_interval([0.7, 0.8, 0.75, 0.65], train=80, test=20)
        >>> round(found.low, 3), round(found.high, 3)
        (0.58, 0.87)

    Reference:
        Nadeau and Bengio, 2003, Mach Learn 52(3):239-281, doi:10.1023/A:1024068626366, section 3; repeated folds:
        Bouckaert and Frank, 2004, PAKDD, doi:10.1007/978-3-540-24775-3_3.
    """
    from scipy.stats import t

    found = np.asarray(values, np.float64)
    if train <= 0 or test <= 0:
        raise ConfigError(f"{train:g} training and {test:g} tested patients, expected some of both")
    if len(found) < 2:
        raise UndefinedMetricError(f"an interval over folds needs two values, found {len(found)}")
    error = float(np.sqrt((1 / len(found) + test / train) * found.var(ddof=1)))
    half = float(t.ppf((1 + level) / 2, len(found) - 1)) * error
    return Interval(float(found.mean()) - half, float(found.mean()) + half, level, len(found), 0)


@dataclass(frozen=True)
class NestedCrossval:
    """The error of a recipe by nested cross-validation.

    Attributes:
        error: Mean loss, corrected for the smaller training sets inside.
        interval: Of it; ``draws`` is the number of outer folds of all repeats.
        inflation: How much wider than the naive interval of independent losses, 1 to sqrt(K).
    """

    error: float
    interval: Interval
    inflation: float


def nested_crossval_interval(
    inner: Sequence[Sequence[npt.NDArray[np.float64]]],
    outer: Sequence[Sequence[npt.NDArray[np.float64]]],
    *,
    level: float = 0.95,
) -> NestedCrossval:
    r"""Bates, Hastie and Tibshirani's interval of a mean loss by nested cross-validation.

    For each outer fold k the recipe is cross-validated on the K - 1 other folds (losses e_in), and once
    fitted on all of them and tested on k (losses e_out). (mean(e_in) - mean(e_out))^2 estimates the
    mean squared error of a cross-validation plus the variance of mean(e_out), which var(e_out) / n_k takes
    away. With MSE the mean over all folds and repeats, the half width is z s / sqrt(n) times
    sqrt(MSE) / (s / sqrt(n (K - 1) / K)), kept between 1 and sqrt(K) as in the paper (s: standard deviation
    of all e_in). The estimate is mean(e_in) - (1 + (K - 2) / K) (mean(e_in) - mean(e_out)): the inner models
    have fewer training patients. (The authors' package raises (K - 2) / K to the power 1.5; here it is as in
    the paper, and mean(e_out) is of the same folds instead of further ones.)

    It is for a loss that is a mean over patients: squared error, Brier score, error rate; not for AUC.
    MSE is noisy: the paper repeats with 200 dealings of the folds.

    Args:
        inner: Of each repeat and each of its K folds: losses (m,) of the inner cross-validation.
        outer: Of each repeat and each of its K folds: losses (n_k,) of the fold's patients.
        level: Of confidence.

    Raises:
        ConfigError: No repeat, repeats with another number of folds, fewer than three folds, a fold of one patient.

    Reference:
        Bates, Hastie and Tibshirani, 2024, J Am Stat Assoc 119(546):1434-1445, arXiv:2104.00673, algorithm 1;
        compared with https://github.com/stephenbates19/nestedcv.
    """
    from scipy.stats import norm

    folds = len(outer[0]) if outer else 0
    if not outer or len(inner) != len(outer) or any(len(one) != folds for one in (*inner, *outer)):
        raise ConfigError("nested cross-validation: expected the same number of folds in every repeat, inner and outer")
    if folds < 3 or any(len(losses) < 2 for one in outer for losses in one):
        raise ConfigError(f"nested cross-validation: {folds} folds, expected three or more with two patients or more")
    squares = []
    for ins, outs in zip(inner, outer, strict=True):
        for e_in, e_out in zip(ins, outs, strict=True):
            squares.append((np.mean(e_in) - np.mean(e_out)) ** 2 - np.var(e_out, ddof=1) / len(e_out))
    every_in = np.concatenate([losses for one in inner for losses in one])
    every_out = np.concatenate([losses for one in outer for losses in one])
    patients = len(every_out) / len(outer)
    spread = float(every_in.std(ddof=1))
    naive_inside = spread / np.sqrt(patients * (folds - 1) / folds)
    inflation = float(np.sqrt(max(0.0, float(np.mean(squares)))) / naive_inside) if spread else 1.0
    inflation = min(max(inflation, 1.0), float(np.sqrt(folds)))
    bias = (1 + (folds - 2) / folds) * float(every_in.mean() - every_out.mean())
    error = float(every_in.mean()) - bias
    half = float(norm.ppf((1 + level) / 2)) * spread / np.sqrt(patients) * inflation
    return NestedCrossval(error, Interval(error - half, error + half, level, len(squares), 0), inflation)
