"""Of counts how often each patient was drawn, a metric is what it is of the patients drawn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsikit.evaluation.bootstrap import Counted, bootstrap_interval, joined
from wsikit.metrics import UndefinedMetricError, calibration_intercept, calibration_slope, roc_auc
from wsikit.metrics.calibration import logit_of
from wsikit.metrics.counted import calibration_intercepts, calibration_slopes, roc_auc_counted

seeds = st.integers(0, 10_000)


def cohort(seed, most=30):
    """Scores with ties, outcomes that depend on them, folds; and counts, some of which leave much out."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, most))
    chance = np.round(rng.uniform(0.02, 0.98, n), int(rng.integers(1, 4)))
    positive = rng.random(n) < (0.5 + chance) / 2
    counts = rng.poisson(rng.choice([0.3, 1.0, 3.0]), (12, n)).astype(float)
    return chance, positive, rng.integers(0, 3, n), counts


def expected(metric, counts):
    found = []
    for row in counts.astype(int):
        try:
            found.append(metric(np.repeat(np.arange(len(row)), row)))
        except UndefinedMetricError:
            found.append(np.nan)
    return found


@given(seeds)
@settings(max_examples=60, deadline=None)
def test_the_auc(seed):
    score, positive, fold, counts = cohort(seed)
    for groups in (None, fold):
        found = roc_auc_counted(score, positive, groups=groups)(counts)
        of_rows = expected(
            lambda r, g=groups: roc_auc(score[r], positive[r], groups=None if g is None else g[r]), counts
        )
        np.testing.assert_allclose(found, of_rows, atol=1e-12)


@pytest.mark.parametrize(
    ("one", "many"), [(calibration_slope, calibration_slopes), (calibration_intercept, calibration_intercepts)]
)
@given(seed=seeds)
@settings(max_examples=60, deadline=None)
def test_calibration(one, many, seed):
    chance, positive, _, counts = cohort(seed)
    of_rows = expected(lambda r: one(chance[r], positive[r]), counts)
    np.testing.assert_allclose(many(logit_of(chance), positive, counts), of_rows, rtol=1e-6, atol=1e-6)


def test_a_counted_bootstrap_is_the_bootstrap():
    """The same resamples, the same number of them on which the metric is not defined."""
    chance, positive, fold, _ = cohort(11, most=20)
    n = len(chance)
    pairs = [
        (roc_auc, roc_auc_counted(chance, positive)),
        (calibration_slope, lambda counts: calibration_slopes(logit_of(chance), positive, counts)),
    ]
    for one, many in pairs:
        plain = lambda r, one=one: one(chance[r], positive[r])  # noqa: E731
        for strata in (None, fold):
            found = bootstrap_interval(Counted(plain, many), n, draws=300, strata=strata)
            slow = bootstrap_interval(plain, n, draws=300, strata=strata)
            assert (found.draws, found.failed) == (slow.draws, slow.failed)
            assert (found.low, found.high) == pytest.approx((slow.low, slow.high), rel=1e-6)
    assert slow.failed > 0


def test_a_number_of_statistics_is_counted_where_all_are():
    add = joined(lambda a, b: a + b, [Counted(len, lambda n: n.sum(1)), Counted(min, lambda n: n[:, 0])])
    assert isinstance(add, Counted)
    assert add([3, 4]) == 5
    np.testing.assert_array_equal(add.many(np.array([[1.0, 2.0], [0.0, 1.0]])), [4, 1])
    assert not isinstance(joined(lambda a, b: a + b, [add, len]), Counted)
    assert joined(lambda a, b: a - b, [len, min])([3, 4]) == -1.0
