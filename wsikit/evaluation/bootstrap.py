"""Intervals of a metric, and of the difference of two, by resampling patients."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.errors import ConfigError
from wsikit.metrics.undefined import UndefinedMetricError, as_codes

Patients = npt.NDArray[np.int64]
"""(P,) row numbers of patients; one who was drawn twice is there twice."""
_COUNTS = 500_000
"""Counts that are held at once."""

Statistic = Callable[[Patients], float]


@dataclass(frozen=True)
class Counted:
    """A statistic that also takes many resamples at once, which is quicker than one after the other.

    Attributes:
        of: The statistic.
        many: The same from counts (D, P), how often each patient was drawn: (D,), NaN where it is not defined.
    """

    of: Statistic
    many: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]

    def __call__(self, patients: Patients) -> float:
        """Of some patients."""
        return self.of(patients)


def joined(how: Callable[..., Any], each: Sequence[Statistic]) -> Statistic:
    """A number made of several statistics; ``how`` takes floats or arrays of them."""

    def of(patients: Patients) -> float:
        return float(how(*(one(patients) for one in each)))

    counted = [one for one in each if isinstance(one, Counted)]
    return of if len(counted) < len(each) else Counted(of, lambda counts: how(*(one.many(counts) for one in counted)))


@dataclass(frozen=True)
class Interval:
    """A percentile interval.

    Attributes:
        low: Its lower end.
        high: Its upper end.
        level: 0 to 1, the share of such intervals that hold the true value, were their assumptions met.
        draws: Resamples that were made.
        failed: Of these, how many the statistic was not defined on; they are left out. More than a
            few per cent of failures make the interval one about easier cohorts: give strata.
    """

    low: float
    high: float
    level: float
    draws: int
    failed: int


def bootstrap_interval(
    statistic: Statistic,
    n_patients: int,
    *,
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    strata: Any = None,
) -> Interval:
    """Percentile interval of a statistic over patients drawn with replacement.

    The interval is conditional on the fitted models: predictions are resampled, nothing is
    trained again. It says how the number would vary with other patients of the same kind, and
    not how it would with other training sets or seeds, so it is a lower bound on what a new
    study would see. Resample patients, never slides or tiles: those of one patient are alike.

    Args:
        statistic: Row numbers of the drawn patients (P,) -> float. Where it is not defined on them
            it raises UndefinedMetricError, as wsikit's metrics do. A :class:`Counted` one is quicker.
        n_patients: P, the patients of the cohort.
        draws: How many resamples.
        level: Of confidence, between 0 and 1.
        seed: The same seed and strata give the same resamples.
        strata: (P,) labels of any type; every resample has as many patients of each as the cohort.
            Fold and class together (``[f"{f}/{c}" for ...]``) keep an out-of-fold AUC defined on
            every resample.

    Raises:
        UndefinedMetricError: The statistic is not defined on any of the resamples.
        ConfigError: A level or number that makes no sense, strata of another length, or a
            statistic that returns NaN (it cannot be told from a mistake).

    Example:
        >>> from wsikit.metrics import roc_auc
        >>> score, positive = np.arange(40) % 23, np.arange(40) >= 20
        >>> found = bootstrap_interval(lambda i: roc_auc(score[i], positive[i]), 40, draws=200, strata=positive)
        >>> found.low < roc_auc(score, positive) < found.high
        True

    Reference:
        Efron and Tibshirani, 1993, An Introduction to the Bootstrap, chapter 13 (percentile intervals).
    """
    if not 0 < level < 1:
        raise ConfigError(f"level must lie between 0 and 1, as 0.95 does; found {level}")
    drawn = resamples(n_patients, draws=draws, seed=seed, strata=strata)
    values = _of_counts(statistic, drawn, n_patients) if isinstance(statistic, Counted) else _of_each(statistic, drawn)
    failed = draws - len(values)
    if not values:
        raise UndefinedMetricError(f"the statistic is not defined on any of {draws} resamples of {n_patients} patients")
    if np.isnan(values).any():
        raise ConfigError(
            f"the statistic returned NaN on {int(np.isnan(values).sum())} of {draws} resamples; let it raise "
            "UndefinedMetricError where it is not defined, so that such resamples are counted"
        )
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2]).tolist()
    return Interval(low, high, level, draws, failed)


def _of_each(statistic: Statistic, drawn: Iterator[Patients]) -> list[float]:
    """The statistic of each resample that it is defined on."""
    values = []
    for patients in drawn:
        with contextlib.suppress(UndefinedMetricError):
            values.append(float(statistic(patients)))
    return values


def _of_counts(statistic: Counted, drawn: Iterator[Patients], n_patients: int) -> list[float]:
    """The same, of many resamples at once, as far as the memory for them goes."""
    values: list[float] = []
    while some := list(itertools.islice(drawn, max(1, _COUNTS // n_patients))):
        counts = np.stack([np.bincount(patients, minlength=n_patients) for patients in some])
        found = statistic.many(counts.astype(np.float64))
        values += found[~np.isnan(found)].tolist()
    return values


def paired_difference_interval(
    statistic_a: Statistic,
    statistic_b: Statistic,
    n_patients: int,
    *,
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    strata: Any = None,
) -> Interval:
    """Percentile interval of ``statistic_a - statistic_b``, both taken on the same resamples.

    Two models that err on the same patients differ by less than their two intervals suggest:
    overlapping intervals do not mean that there is no difference. A resample on which either
    is not defined counts as failed. The other arguments, the errors and what the interval is
    conditional on are those of :func:`bootstrap_interval`.

    Args:
        statistic_a: Row numbers of the drawn patients (P,) -> float.
        statistic_b: The same of the other model.
        n_patients: P, the patients of the cohort.
        draws: How many resamples.
        level: Of confidence, between 0 and 1.
        seed: Of the resamples.
        strata: (P,) labels; every resample has as many patients of each as the cohort.
    """
    return bootstrap_interval(
        joined(lambda a, b: a - b, [statistic_a, statistic_b]),
        n_patients,
        draws=draws,
        level=level,
        seed=seed,
        strata=strata,
    )


def resamples(n_patients: int, *, draws: int, seed: int, strata: Any) -> Iterator[Patients]:
    """Rows of patients (P,) drawn with replacement, each in the place of one of its own stratum, ``draws`` times.

    Raises:
        ConfigError: No patient, no draw, or strata of another length.
    """
    if n_patients < 1 or draws < 1:
        raise ConfigError(f"at least one patient and one draw are needed; found {n_patients} and {draws}")
    stratum = as_codes("strata", strata, n_patients)
    members = np.argsort(stratum, kind="stable")  # the patients, stratum by stratum
    sizes = np.bincount(stratum)
    first, size = np.repeat(np.cumsum(sizes) - sizes, sizes), np.repeat(sizes, sizes)  # (P,) along members
    rng = np.random.default_rng(seed)
    for _ in range(draws):
        yield members[first + rng.integers(0, size)]
