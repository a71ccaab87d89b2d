"""Intervals that cover other training patients: by hand, and in simulated studies that fit anew."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t

from wsikit.errors import ConfigError
from wsikit.evaluation.unconditional import corrected_interval, nested_crossval_interval
from wsikit.metrics import UndefinedMetricError

COLUMNS, PATIENTS = 10, 40


def draw(rng, n):
    x = rng.normal(size=(n, COLUMNS))
    return x, x[:, 0] + rng.normal(size=n)


def losses(x, y, train, test):
    beta = np.linalg.lstsq(x[train], y[train], rcond=None)[0]
    return (y[test] - x[test] @ beta) ** 2


def folds_of(rng, rows, k):
    return np.array_split(rng.permutation(rows), k)


def test_corrected_interval_is_the_formula_and_does_not_shrink_by_repeating():
    values = np.array([0.71, 0.8, 0.64, 0.77, 0.7])
    found = corrected_interval(values, train=80, test=20)
    half = t.ppf(0.975, 4) * np.sqrt((1 / 5 + 0.25) * values.var(ddof=1))
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half))
    assert (found.level, found.draws) == (0.95, 5)
    many = corrected_interval(np.tile(values, 100), train=80, test=20)
    assert many.high - many.low > 2 * 1.9 * np.sqrt(0.25) * values.std()  # n_test / n_train stays


def nested_losses(rng, x, y, k=5):
    """One repeat of nested cross-validation: inner and outer losses of each fold."""
    inner, outer = [], []
    folds = folds_of(rng, np.arange(len(y)), k)
    for i, test in enumerate(folds):
        others = [f for j, f in enumerate(folds) if j != i]
        rest = np.concatenate(others)
        outer.append(losses(x, y, rest, test))
        inner.append(np.concatenate([losses(x, y, np.setdiff1d(rest, watch), watch) for watch in others]))
    return inner, outer


def test_nested_interval_by_hand():
    rng = np.random.default_rng(0)
    inner, outer = zip(*(nested_losses(rng, *draw(rng, 30)) for _ in range(4)), strict=True)
    found = nested_crossval_interval(inner, outer)
    a = np.array([(np.mean(i) - np.mean(o)) ** 2 for r, s in zip(inner, outer, strict=True)
                  for i, o in zip(r, s, strict=True)])  # fmt: skip
    b = np.array([np.var(o, ddof=1) / len(o) for s in outer for o in s])
    e_in, e_out = (np.concatenate([np.concatenate(r) for r in side]) for side in (inner, outer))
    error = e_in.std(ddof=1)
    inflation = np.clip(np.sqrt(max(0, (a - b).mean())) / (error / np.sqrt(30 * 4 / 5)), 1, np.sqrt(5))
    centre = e_in.mean() - (1 + 3 / 5) * (e_in.mean() - e_out.mean())
    assert found.error == pytest.approx(centre)
    assert found.inflation == pytest.approx(inflation)
    assert found.interval.high - centre == pytest.approx(1.959964 * error / np.sqrt(30) * inflation, rel=1e-6)
    assert found.interval.draws == 20


@pytest.mark.slow
def test_unconditional_intervals_cover_and_the_naive_one_does_not():
    """Of 150 simulated studies: the true error of the fitted recipe, against three intervals of its estimate."""
    hits, rng = {"naive": 0, "nested": 0, "corrected": 0}, np.random.default_rng(1)
    for _ in range(150):
        x, y = draw(rng, PATIENTS)
        fresh = draw(rng, 4000)
        beta = np.linalg.lstsq(x, y, rcond=None)[0]
        truth = float(((fresh[1] - fresh[0] @ beta) ** 2).mean())
        inner, outer = zip(*(nested_losses(rng, x, y) for _ in range(20)), strict=True)
        flat = np.concatenate(outer[0])
        half = 1.96 * flat.std(ddof=1) / np.sqrt(PATIENTS)
        hits["naive"] += abs(flat.mean() - truth) <= half
        nested = nested_crossval_interval(inner, outer).interval
        hits["nested"] += nested.low <= truth <= nested.high
        folds = [float(o.mean()) for r in outer[:5] for o in r]
        corrected = corrected_interval(folds, train=PATIENTS * 0.8, test=PATIENTS * 0.2)
        hits["corrected"] += corrected.low <= truth <= corrected.high
    assert hits["nested"] / 150 > 0.88
    assert hits["corrected"] / 150 > 0.88
    assert hits["naive"] < min(hits["nested"], hits["corrected"])


def test_what_is_refused():
    with pytest.raises(UndefinedMetricError, match="needs two values, found 1"):
        corrected_interval([0.5], train=8, test=2)
    with pytest.raises(ConfigError, match="0 training and 2 tested patients"):
        corrected_interval([0.5, 0.6], train=0, test=2)
    two = [np.ones(3), np.ones(3)]
    with pytest.raises(ConfigError, match="2 folds, expected three or more"):
        nested_crossval_interval([two], [two])
    with pytest.raises(ConfigError, match="same number of folds in every repeat"):
        nested_crossval_interval([[*two, np.ones(3)]], [two])
    with pytest.raises(ConfigError, match="same number of folds"):
        nested_crossval_interval([], [])
