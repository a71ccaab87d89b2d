"""Calibration: of patients called 30 % likely, are 30 % positive?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wsikit.errors import ConfigError
from wsikit.metrics.undefined import UndefinedMetricError, as_flags, as_numbers, same_length

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

EDGE = 1e-6
"""Probabilities are kept this far from 0 and 1 before their logit is taken: models in float32 give exact ones."""


def brier_score(probability: Any, label: Any) -> float:
    """Mean squared difference of probability and outcome.

    Of one column, mean((p - y)^2), as scikit-learn's ``brier_score_loss``; of C columns, the mean over
    patients of the sum over classes, as Brier defined it (for two classes twice the former).

    Args:
        probability: (P,) of the positive class, or (P, C) of every class.
        label: (P,) bool or 0/1, or the number of the true class.

    Returns:
        0 (certain and right) to 1 for one column, to 2 for several.

    Raises:
        UndefinedMetricError: No patients.
        ConfigError: Columns of different lengths, a probability outside 0 to 1, a label that is no class.

    Example:
        >>> brier_score([0.1, 0.8], [0, 1])
        0.025

    Reference:
        Brier, 1950, Mon Weather Rev 78(1):1-3.
    """
    import numpy as np

    if np.ndim(probability) < 2:
        chance, positive = _checked(probability, label)
        if len(chance) == 0:
            raise UndefinedMetricError("the Brier score of no patients is not defined")
        return float(np.round(np.mean((chance - positive) ** 2), 15))
    table, number = as_numbers("probability", probability, ndim=2), as_numbers("label", label)
    same_length(probability=table, label=number)
    _in_range(table)
    if not np.isin(number, np.arange(table.shape[1])).all():
        raise ConfigError(f"label holds {number.max():g}; probability has classes 0 to {table.shape[1] - 1}")
    if len(table) == 0:
        raise UndefinedMetricError("the Brier score of no patients is not defined")
    truth = number[:, None] == np.arange(table.shape[1])
    return float(np.mean(((table - truth) ** 2).sum(1)))


@dataclass(frozen=True)
class CalibrationCurve:
    """Predicted and observed shares of positives, bin by bin, from the lowest probabilities to the highest.

    Attributes:
        predicted: (K,) mean probability in each bin.
        observed: (K,) share of positives in it.
        patients: (K,) int64.
    """

    predicted: npt.NDArray[np.float64]
    observed: npt.NDArray[np.float64]
    patients: npt.NDArray[np.int64]


def calibration_curve(probability: Any, positive: Any, *, bins: int = 10) -> CalibrationCurve:
    """The calibration curve in bins of equally many patients.

    Patients are sorted by probability and dealt into ``bins`` runs whose sizes differ by one at most;
    patients of equal probability are never parted, so a bin may be larger and there may be fewer of them.

    Args:
        probability: (P,) of the positive class.
        positive: (P,) bool or 0/1.
        bins: At most so many.

    Raises:
        UndefinedMetricError: No patients.
        ConfigError: Columns of different lengths, a probability outside 0 to 1, less than one bin.

    Example:
        >>> calibration_curve([0.1, 0.2, 0.7, 0.8], [0, 0, 1, 0], bins=2).observed.tolist()
        [0.0, 0.5]
    """
    import numpy as np

    chance, flag = _checked(probability, positive)
    if bins < 1:
        raise ConfigError(f"{bins} bins, expected at least one")
    if len(chance) == 0:
        raise UndefinedMetricError("the calibration of no patients is not defined")
    order = np.argsort(chance, kind="stable")
    chance, flag = chance[order], flag[order]
    wanted = np.arange(len(chance)) * bins // len(chance)
    bin_of = wanted[np.searchsorted(chance, chance)]  # that of the first patient of equal probability
    _, bin_of, patients = np.unique(bin_of, return_inverse=True, return_counts=True)
    return CalibrationCurve(
        np.bincount(bin_of, chance) / patients, np.bincount(bin_of, flag) / patients, patients.astype(np.int64)
    )


def expected_calibration_error(probability: Any, positive: Any, *, bins: int = 10) -> float:
    """Mean distance of predicted and observed share in the bins of :func:`calibration_curve`, weighted by their size.

    Bins hold equally many patients, and not equal widths of probability, because a bin of one patient
    is as far off as can be. The error is never 0, not even of a perfect model: with few patients in a bin
    the observed share scatters. Compare it with :func:`calibration_error_by_chance`.

    Args:
        probability: (P,) of the positive class (or of the class that is called, with ``positive`` = it is right).
        positive: (P,) bool or 0/1.
        bins: At most so many.

    Returns:
        0 to 1.

    Raises:
        UndefinedMetricError: No patients.
        ConfigError: As :func:`calibration_curve`.

    Example:
        >>> expected_calibration_error([0.25, 0.25, 0.75, 0.75], [0, 1, 1, 1], bins=2)
        0.25

    Reference:
        Naeini, Cooper and Hauskrecht, 2015, AAAI; bins of equal size: Nguyen and O'Connor, 2015, EMNLP,
        arXiv:1508.05154.
    """
    import numpy as np

    curve = calibration_curve(probability, positive, bins=bins)
    return float(np.abs(curve.predicted - curve.observed) @ curve.patients / curve.patients.sum())


def calibration_error_by_chance(probability: Any, *, bins: int = 10, draws: int = 200, seed: int = 0) -> float:
    """What :func:`expected_calibration_error` is on average where the probabilities are true.

    Outcomes are drawn from the probabilities themselves, ``draws`` times.

    Args:
        probability: (P,) of the positive class.
        bins: As for the error.
        draws: How often outcomes are drawn.
        seed: Of the drawing.

    Raises:
        UndefinedMetricError: No patients.
        ConfigError: As :func:`calibration_curve`.

    Example:
        >>> calibration_error_by_chance([0.0, 1.0], bins=2)
        0.0

    Reference:
        Bröcker and Smith, 2007, Weather Forecast 22(3):651-661, doi:10.1175/WAF993.1 (consistency resampling).
    """
    import numpy as np

    chance = as_numbers("probability", probability)
    rng = np.random.default_rng(seed)
    found = [expected_calibration_error(chance, rng.random(len(chance)) < chance, bins=bins) for _ in range(draws)]
    return float(np.mean(found))


def calibration_slope(probability: Any, positive: Any) -> float:
    r"""Slope b of the logistic recalibration logit P(positive) = a + b logit(p), with a free intercept.

    1 is right; below 1 the probabilities are too extreme (overfitting), above 1 too timid.

    Args:
        probability: (P,) of the positive class; kept 1e-6 from 0 and 1.
        positive: (P,) bool or 0/1.

    Raises:
        UndefinedMetricError: One class only, equal probabilities, or classes that a threshold parts
            without error (the slope is then infinite).
        ConfigError: Columns of different lengths, a probability outside 0 to 1.

    Example:
        >>> round(calibration_slope([0.2, 0.2, 0.2, 0.8, 0.8, 0.8], [0, 0, 1, 1, 1, 0]), 6)
        0.5

    Reference:
        Cox, 1958, Biometrika 45(3-4):562-565, doi:10.1093/biomet/45.3-4.562; Van Calster et al., 2019, BMC Med
        17:230, doi:10.1186/s12916-019-1466-7.
    """
    import numpy as np

    from wsikit.metrics.counted import calibration_slopes

    logit, flag = _logits(probability, positive, "slope")
    if np.ptp(logit) < 1e-9:
        raise UndefinedMetricError("calibration slope: all probabilities are equal")
    low, high = logit[flag], logit[~flag]
    if low.min() >= high.max() or high.min() >= low.max():
        raise UndefinedMetricError("calibration slope: a threshold parts the classes without error; it is infinite")
    return float(calibration_slopes(logit, flag, np.ones((1, len(logit))))[0])


def calibration_intercept(probability: Any, positive: Any) -> float:
    r"""Intercept a of logit P(positive) = a + logit(p), with the slope held at 1: calibration in the large.

    0 is right; above 0 the probabilities are too low on average, below 0 too high.

    Args:
        probability: (P,) of the positive class; kept 1e-6 from 0 and 1.
        positive: (P,) bool or 0/1.

    Raises:
        UndefinedMetricError: One class only (the intercept is then infinite).
        ConfigError: Columns of different lengths, a probability outside 0 to 1.

    Example:
        >>> round(calibration_intercept([0.5, 0.5, 0.5, 0.5], [0, 1, 1, 1]), 6)  # log(3)
        1.098612

    Reference:
        As :func:`calibration_slope`.
    """
    import numpy as np

    from wsikit.metrics.counted import calibration_intercepts

    logit, flag = _logits(probability, positive, "intercept")
    return float(calibration_intercepts(logit, flag, np.ones((1, len(logit))))[0])


def _logits(probability: Any, positive: Any, name: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:

    chance, flag = _checked(probability, positive)
    if flag.all() or not flag.any():
        raise UndefinedMetricError(
            f"calibration {name}: {int(flag.sum())} positives among {len(flag)} patients, expected some of both classes"
        )
    return logit_of(chance), flag


def logit_of(chance: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """log(p / (1 - p)) of probabilities, which are kept :data:`EDGE` from 0 and 1."""
    import numpy as np

    chance = np.clip(chance, EDGE, 1 - EDGE)
    return np.asarray(np.log(chance) - np.log1p(-chance), np.float64)


def _checked(probability: Any, positive: Any) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    chance, flag = as_numbers("probability", probability), as_flags("positive", positive)
    same_length(probability=chance, positive=flag)
    _in_range(chance)
    return chance, flag


def _in_range(chance: npt.NDArray[np.float64]) -> None:
    import numpy as np

    outside = (chance < 0) | (chance > 1 + 1e-9)
    if outside.any():
        row = np.argwhere(outside)[0]
        raise ConfigError(f"probability of row {int(row[0])} is {chance[tuple(row)]:g}; expected 0 to 1")
