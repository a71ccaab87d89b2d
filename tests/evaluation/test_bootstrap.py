"""Bootstrap intervals: they cover what they should, and count what they leave out."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from wsikit.errors import ConfigError
from wsikit.evaluation.bootstrap import Interval, bootstrap_interval, paired_difference_interval
from wsikit.metrics import UndefinedMetricError, harrell_c, roc_auc


def test_interval_of_a_mean_is_the_normal_one():
    x = np.random.default_rng(0).normal(5, 2, 400)
    found = bootstrap_interval(lambda i: x[i].mean(), 400, draws=4000, level=0.9)
    half = 1.645 * x.std() / 20
    assert found.low == pytest.approx(x.mean() - half, abs=0.02)
    assert found.high == pytest.approx(x.mean() + half, abs=0.02)
    assert (found.level, found.draws, found.failed) == (0.9, 4000, 0)


def test_95_per_cent_of_the_intervals_hold_the_true_auc():
    """Two normal classes one standard deviation apart; the binomial error of 400 cohorts is 1.1 %."""
    rng, true_auc, cohorts, hits = np.random.default_rng(0), norm.cdf(1 / np.sqrt(2)), 400, 0
    positive = np.arange(100) < 40
    for _ in range(cohorts):
        score = rng.normal(size=100) + positive
        found = bootstrap_interval(lambda i, s=score: roc_auc(s[i], positive[i]), 100, draws=250, strata=positive)
        hits += found.low <= true_auc <= found.high
    assert 0.915 < hits / cohorts < 0.975


def test_intervals_of_harrells_c_hold_its_value():
    rng = np.random.default_rng(1)
    log_hazard = rng.normal(size=150)
    time, event = rng.exponential(np.exp(-log_hazard)), rng.random(150) < 0.7
    fold = np.arange(150) % 5
    value = harrell_c(log_hazard, time, event, groups=fold)
    found = bootstrap_interval(
        lambda i: harrell_c(log_hazard[i], time[i], event[i], groups=fold[i]), 150, draws=300, strata=fold
    )
    assert 0.5 < found.low < value < found.high < 1
    assert 0.05 < found.high - found.low < 0.2


def test_strata_keep_their_sizes_and_their_patients():
    strata = np.array(["b", "a", "b", "c", "a", "a", "b"])
    seen = []

    def record(patients):
        seen.append(patients)
        return 0.0

    bootstrap_interval(record, 7, draws=300, strata=strata)
    assert all(sorted(strata[i]) == sorted(strata) for i in seen)
    counts = np.bincount(np.concatenate(seen), minlength=7)
    assert counts[3] == 300  # the only one of its stratum
    assert np.abs(counts - 300).max() < 5 * np.sqrt(300)
    assert len({tuple(i) for i in seen}) > 200


def test_without_strata_everyone_may_be_drawn():
    seen = []
    bootstrap_interval(lambda i: float(seen.append(i) or 0), 5, draws=1000)
    counts = np.stack([np.bincount(i, minlength=5) for i in seen])
    assert counts.mean(axis=0) == pytest.approx(np.ones(5), abs=0.15)
    assert (counts == 0).mean() == pytest.approx(0.8**5, abs=0.03)


def test_undefined_draws_are_counted_and_left_out():
    positive = np.array([True, False, False, False])
    score = np.array([4.0, 1.0, 2.0, 3.0])
    found = bootstrap_interval(lambda i: roc_auc(score[i], positive[i]), 4, draws=2000)
    undefined = (3 / 4) ** 4 + (1 / 4) ** 4  # the positive never drawn, or nobody else
    assert found.failed / 2000 == pytest.approx(undefined, abs=0.04)
    assert (found.low, found.high) == (1.0, 1.0)  # a failure counted as 0.5 would show here
    assert bootstrap_interval(lambda i: roc_auc(score[i], positive[i]), 4, draws=200, strata=positive).failed == 0


def test_the_seed_decides():
    x = np.arange(30.0)
    one, same, other = (bootstrap_interval(lambda i: x[i].mean(), 30, draws=100, seed=s) for s in (3, 3, 4))
    assert one == same
    assert one != other


def test_a_paired_difference_is_narrower_than_its_parts():
    rng = np.random.default_rng(2)
    positive = np.arange(200) < 80
    shared = rng.normal(size=200) + positive
    a, b = shared + 0.1 * rng.normal(size=200), shared + 0.1 * rng.normal(size=200)

    def auc_a(i):
        return roc_auc(a[i], positive[i])

    def auc_b(i):
        return roc_auc(b[i], positive[i])

    alone = bootstrap_interval(auc_a, 200, draws=500)
    paired = paired_difference_interval(auc_a, auc_b, 200, draws=500)
    assert paired.high - paired.low < 0.4 * (alone.high - alone.low)
    assert paired.low < auc_a(np.arange(200)) - auc_b(np.arange(200)) < paired.high
    nothing = paired_difference_interval(auc_a, auc_a, 200, draws=50, level=0.8, seed=1, strata=positive)
    assert nothing == Interval(0.0, 0.0, 0.8, 50, 0)


def test_what_is_refused():
    with pytest.raises(UndefinedMetricError, match="not defined on any of 20 resamples of 3 patients"):
        bootstrap_interval(lambda i: roc_auc(i, i < 0), 3, draws=20)
    with pytest.raises(ConfigError, match="returned NaN on 10 of 10 resamples"):
        bootstrap_interval(lambda i: float("nan"), 3, draws=10)
    with pytest.raises(ConfigError, match="level must lie between 0 and 1.*found 95"):
        bootstrap_interval(lambda i: 0.0, 3, level=95)
    with pytest.raises(ConfigError, match="at least one patient and one draw.*found 0 and 2000"):
        bootstrap_interval(lambda i: 0.0, 0)
    with pytest.raises(ConfigError, match="strata must hold one label for each of 3 patients"):
        bootstrap_interval(lambda i: 0.0, 3, strata=[0, 1])
    with pytest.raises(ZeroDivisionError):  # only "undefined" is counted: a mistake is a mistake
        bootstrap_interval(lambda i: 1 / 0, 3)
