"""Risk groups by cut points from training patients, and log-rank tests that hold their level."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.errors import ConfigError
from wsikit.metrics.undefined import UndefinedMetricError, as_codes, as_flags, as_numbers, same_length

Numbers = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]

_CELLS = 2**21  # permutations x patients held at once


def training_cuts(training_risks: Any, quantiles: Sequence[float] = (0.5,)) -> Numbers:
    """Cut points between risk groups: quantiles of the risks that a model gives its own training patients.

    There is no function that looks for the cut with the best log-rank test. Such a cut is chosen
    by the outcome it is then tested on, and the test does not know: in cohorts without any
    effect, the best of all cuts between the 10 % and the 90 % quantile has p < 0.05 in about
    four of ten, and the curves it draws look just as convincing.

    Args:
        training_risks: (T,) risks of the training patients, by the model of the fold.
        quantiles: Increasing, between 0 and 1; Q of them make Q + 1 groups.

    Returns:
        (Q,) cut points, increasing.

    Raises:
        ConfigError: Quantiles that are not increasing inside 0 to 1, no patients, or risks so tied
            that two groups would have the same bounds (a model that predicts a constant).

    Example:
        >>> training_cuts([1.0, 2.0, 3.0, 4.0, 5.0], (1 / 3, 2 / 3)).round(2).tolist()
        [2.33, 3.67]

    Reference:
        Altman et al., 1994, J Natl Cancer Inst 86(11):829-835, doi:10.1093/jnci/86.11.829.
    """
    risks, shares = as_numbers("training_risks", training_risks), as_numbers("quantiles", quantiles)
    if len(shares) == 0 or (np.diff(shares) <= 0).any() or shares[0] <= 0 or shares[-1] >= 1:
        raise ConfigError(f"quantiles must increase inside 0 to 1, as (1/3, 2/3) do; found {shares.tolist()}")
    if len(risks) == 0:
        raise ConfigError("training_risks are empty; give the risks of the fold's training patients")
    cuts = np.quantile(risks, shares)
    # A cut at the highest risk leaves no training patient above it: groups would be a fiction.
    if (np.diff(cuts) <= 0).any() or cuts[-1] >= risks.max():
        raise ConfigError(
            f"risks of {len(risks)} training patients take {len(np.unique(risks))} value(s), and quantiles "
            f"{shares.tolist()} do not part them; a model that predicts nearly a constant has no risk groups"
        )
    return np.asarray(cuts, np.float64)


def risk_groups(risk: Any, fold: Any, cut_points: Mapping[Any, Any]) -> Codes:
    """Number of each patient's risk group, by the cut points of the patient's own fold.

    Risks of different folds come from different models and are not comparable, so neither is a
    cut: each fold has its own, from :func:`training_cuts` of the patients its model was
    trained on.

    Args:
        risk: (P,) out-of-fold risks, higher = worse.
        fold: (P,) the fold in which each patient was tested.
        cut_points: Fold -> (Q,) increasing cut points; the same Q for all.

    Returns:
        (P,) int64, 0 (lowest risk) to Q. A risk that equals a cut is in the lower group.

    Raises:
        ConfigError: A fold without cut points, or with others' number of them, or not increasing.

    Example:
        >>> risk_groups([0.2, 0.9, 12.0, 19.0], ["a", "a", "b", "b"], {"a": [0.5], "b": [15.0]}).tolist()
        [0, 1, 0, 1]
    """
    risk, codes = as_numbers("risk", risk), as_codes("fold", fold, len(risk))
    labels: list[Hashable] = np.unique(np.asarray(fold)).tolist()
    missing = [label for label in labels if label not in cut_points]
    if missing:
        raise ConfigError(f"no cut points for fold {missing[0]!r}; they are given for {list(cut_points)}")
    cuts = [as_numbers(f"cut points of fold {label!r}", cut_points[label]) for label in labels]
    groups = np.zeros(len(risk), np.int64)
    for number, (label, cut) in enumerate(zip(labels, cuts, strict=True)):
        if len(cut) != len(cuts[0]) or (np.diff(cut) <= 0).any():
            raise ConfigError(
                f"cut points of fold {label!r} are {cut.tolist()}; expected {len(cuts[0])} increasing ones, "
                f"as many as fold {labels[0]!r} has"
            )
        here = codes == number
        groups[here] = np.searchsorted(cut, risk[here], side="left")
    return groups


@dataclass(frozen=True)
class LogRank:
    """Result of a log-rank test.

    Attributes:
        statistic: Chi-square with one degree of freedom less than there are groups.
        p_chi2: By that distribution: groups of independent patients, and many events.
        p_permutation: Share of relabelled cohorts with a statistic at least as large, the observed
            one counted among them: (1 + larger) / (1 + permutations), so never 0.
        permutations: How many relabelled cohorts.
    """

    statistic: float
    p_chi2: float
    p_permutation: float
    permutations: int


def log_rank(
    time: Any, event: Any, group: Any, *, fold: Any = None, permutations: int = 2000, seed: int = 0
) -> LogRank:
    """Whether the survival of groups differs, by the log-rank statistic and by permutation.

    With out-of-fold groups the patients are not independent: the cut points of a fold hold
    information on the other folds. Permuting the labels inside the folds keeps the sizes of
    the groups in each fold as they are. Few events are no obstacle to it either. What neither
    p forgives is a group chosen by outcome: see :func:`training_cuts`.

    Args:
        time: (P,) > 0, any unit.
        event: (P,) bool or 0/1, True = it happened.
        group: (P,) labels of two or more groups, of any type.
        fold: (P,) labels are permuted among the patients of a fold; None permutes among all.
        permutations: How many.
        seed: Of the permutations.

    Raises:
        UndefinedMetricError: One group only, or no event at a time when two groups were under observation.
        ConfigError: Columns of different lengths, a time that is not above 0, an event other than 0 or 1.

    Example:
        >>> result = log_rank([5, 7, 9, 1, 2, 3], [1, 1, 0, 1, 1, 1], ["low"] * 3 + ["high"] * 3)
        >>> round(result.statistic, 3), round(result.p_chi2, 3)
        (5.052, 0.025)

    Reference:
        Mantel, 1966, Cancer Chemother Rep 50(3):163-170; Peto and Peto, 1972, J R Stat Soc A 135(2),
        doi:10.2307/2344317. Statistic and p_chi2 are those of lifelines' ``multivariate_logrank_test``.
    """
    from lifelines.statistics import multivariate_logrank_test

    time, event = as_numbers("time", time), as_flags("event", event)
    same_length(time=time, event=event)
    if (time <= 0).any():
        row = int(np.argmax(time <= 0))
        raise ConfigError(f"time of row {row} is {time[row]:g}; it must be above 0")
    if permutations < 1:
        raise ConfigError(f"at least one permutation is needed; found {permutations}")
    labels, folds = as_codes("group", group, len(time)), as_codes("fold", fold, len(time))

    order = np.argsort(-time, kind="stable")  # latest first, as _Moments wants them
    time, event, labels, folds = time[order], event[order], labels[order], folds[order]
    moments = _Moments.of(time, event)
    n_groups = int(labels.max(initial=0)) + 1
    if n_groups < 2 or not _information(labels, moments):
        raise UndefinedMetricError(
            f"no log-rank statistic: {n_groups} group(s), {int(event.sum())} events; it needs an event at a time "
            "when patients of two groups are under observation"
        )
    found = multivariate_logrank_test(time, labels, event)
    observed = float(_statistics(labels[None], n_groups, event, moments)[0])

    rng, larger, left = np.random.default_rng(seed), 0, permutations
    while left:
        rows = min(left, max(1, _CELLS // len(time)))
        shuffled = _shuffled(labels, folds, rows, rng)
        # Equal up to rounding is equal: few patients make many permutations with the observed statistic.
        larger += int((_statistics(shuffled, n_groups, event, moments) >= observed * (1 - 1e-9)).sum())
        left -= rows
    return LogRank(float(found.test_statistic), float(found.p_value), (1 + larger) / (1 + permutations), permutations)


@dataclass(frozen=True)
class _Moments:
    """What the log-rank statistic needs of the cohort whatever the groups; patients latest first.

    Attributes:
        last: (K,) row of the last patient under observation at each time with an event.
        at_risk: (K,) how many are under observation.
        variance: (K,) d (n - d) / ((n - 1) n^2) of d events among n at risk.
        expected: (P,) events expected of each patient: the cumulative hazard at the patient's time.
    """

    last: Codes
    at_risk: Numbers
    variance: Numbers
    expected: Numbers

    @classmethod
    def of(cls, time: Numbers, event: npt.NDArray[np.bool_]) -> _Moments:
        distinct, deaths = np.unique(-time[event], return_counts=True)
        last = np.searchsorted(-time, distinct, side="right") - 1
        n = np.asarray(last + 1, np.float64)
        # One patient at risk tells nothing, and the divisor is 0: the product is 0 with any other.
        variance = np.asarray(deaths * (n - deaths) / (np.maximum(n - 1, 1) * n**2), np.float64)
        hazard = np.append(np.cumsum((deaths / n)[::-1])[::-1], 0.0)  # at each moment, and before the first
        expected = hazard[np.searchsorted(distinct, -time, side="left")]
        return cls(last, n, variance, expected)


def _information(labels: Codes, moments: _Moments) -> bool:
    """Whether two groups are under observation at a time that tells them apart."""
    mixed = np.maximum.accumulate(labels)[moments.last] != np.minimum.accumulate(labels)[moments.last]
    return bool((mixed & (moments.variance > 0)).any())


def _statistics(labels: Codes, n_groups: int, event: npt.NDArray[np.bool_], moments: _Moments) -> Numbers:
    """Log-rank statistic of each row of labels, (M, P) -> (M,)."""
    member = labels[None] == np.arange(n_groups)[:, None, None]  # (G, M, P)
    excess = member @ (event - moments.expected)  # (G, M), events observed less expected
    at_risk = np.cumsum(member, axis=2, dtype=np.int32)[:, :, moments.last].astype(np.float64)  # (G, M, K)
    covariance = -np.einsum("gmk,hmk,k->mgh", at_risk, at_risk, moments.variance, optimize=True)
    own = at_risk @ (moments.variance * moments.at_risk)  # (G, M)
    covariance += own.T[:, :, None] * np.eye(n_groups)
    # Rows and excesses sum to zero, so the pseudo-inverse of all groups is the usual inverse of all but one.
    inverse = np.linalg.pinv(covariance, rcond=1e-9, hermitian=True)
    return np.asarray(np.einsum("gm,mgh,hm->m", excess, inverse, excess), np.float64)


def _shuffled(labels: Codes, folds: Codes, rows: int, rng: np.random.Generator) -> Codes:
    """The labels in ``rows`` random orders, (rows, P), each moved inside its fold only."""
    home = np.argsort(folds, kind="stable")
    drawn = np.argsort(folds + rng.random((rows, len(labels))), axis=1)  # fold by fold, each in a random order
    shuffled = np.empty((rows, len(labels)), np.int64)
    shuffled[:, home] = labels[drawn]
    return shuffled
