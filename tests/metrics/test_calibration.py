"""Calibration and net benefit: scikit-learn, a solver of the likelihood's equations, and the formula by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from sklearn.calibration import calibration_curve as reference_curve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss

from wsikit.errors import ConfigError
from wsikit.metrics import (
    UndefinedMetricError,
    brier_score,
    calibration_curve,
    calibration_error_by_chance,
    calibration_intercept,
    calibration_slope,
    expected_calibration_error,
    net_benefit,
)

rows = st.lists(st.tuples(st.sampled_from([0.0, 0.05, 0.2, 0.5, 0.8, 1.0]), st.booleans()), min_size=1, max_size=40)


def patients(seed, n=300, slope=1.0, intercept=0.0):
    """Probabilities, and outcomes whose logit is intercept + slope * that of the probability."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(0, 1.5, n)
    return 1 / (1 + np.exp(-logit)), rng.random(n) < 1 / (1 + np.exp(-intercept - slope * logit))


@given(rows=rows)
def test_brier_score_is_scikit_learns_and_twice_that_of_one_column(rows):
    p, y = (np.array(column) for column in zip(*rows, strict=True))
    assert brier_score(p, y) == pytest.approx(brier_score_loss(y, p, pos_label=True), abs=1e-12)
    assert brier_score(np.stack([1 - p, p], 1), y.astype(int)) == pytest.approx(2 * brier_score(p, y), abs=1e-12)


def test_curve_is_scikit_learns_where_no_probabilities_are_equal():
    p, y = patients(0, 200)
    observed, predicted = reference_curve(y, p, n_bins=10, strategy="quantile")
    found = calibration_curve(p, y, bins=10)
    assert found.patients.tolist() == [20] * 10
    assert found.predicted == pytest.approx(predicted, abs=1e-12)
    assert found.observed == pytest.approx(observed, abs=1e-12)
    expected = np.abs(predicted - observed).mean()
    assert expected_calibration_error(p, y, bins=10) == pytest.approx(expected, abs=1e-12)


@given(rows=rows, bins=st.integers(1, 12))
def test_patients_of_equal_probability_are_never_parted(rows, bins):
    p, y = (np.array(column) for column in zip(*rows, strict=True))
    found = calibration_curve(p, y, bins=bins)
    assert found.patients.sum() == len(p)
    assert len(found.patients) <= min(bins, len(np.unique(p)))
    assert (np.diff(found.predicted) > 0).all()
    assert found.predicted @ found.patients == pytest.approx(p.sum())
    assert found.observed @ found.patients == pytest.approx(y.sum())
    shuffled = np.random.default_rng(0).permutation(len(p))
    assert np.array_equal(calibration_curve(p[shuffled], y[shuffled], bins=bins).patients, found.patients)


@pytest.mark.parametrize("seed", range(4))
def test_slope_is_that_of_an_unpenalised_logistic_regression(seed):
    p, y = patients(seed, slope=0.4 + 0.4 * seed, intercept=0.5)
    model = LogisticRegression(C=1e12, tol=1e-10, max_iter=10_000).fit(np.log(p / (1 - p))[:, None], y)
    assert calibration_slope(p, y) == pytest.approx(model.coef_[0, 0], rel=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_intercept_makes_the_mean_probability_that_of_the_outcomes(seed):
    p, y = patients(seed, intercept=seed - 1.5)
    logit = np.log(p / (1 - p))
    expected = brentq(lambda a: (1 / (1 + np.exp(-logit - a))).sum() - y.sum(), -20, 20, xtol=1e-12)
    assert calibration_intercept(p, y) == pytest.approx(expected, abs=1e-8)


def test_slope_and_intercept_find_what_was_planted():
    p, y = patients(9, n=200_000, slope=0.6, intercept=0.0)
    assert calibration_slope(p, y) == pytest.approx(0.6, abs=0.02)
    p, y = patients(9, n=200_000, intercept=-0.7)
    assert calibration_slope(p, y) == pytest.approx(1, abs=0.02)
    assert calibration_intercept(p, y) == pytest.approx(-0.7, abs=0.02)


def test_newton_survives_certain_probabilities():
    p = np.array([0.0, 0.0, 1.0, 1.0, 0.5, 0.5, 0.0, 1.0])
    y = np.array([0, 1, 1, 0, 1, 0, 0, 1])
    slope = calibration_slope(p, y)
    assert 0 < slope < 0.2
    assert np.isfinite(calibration_intercept(p, y))


def test_a_perfect_model_is_as_far_off_as_chance_has_it():
    """The error of 200 true models, and what is said of them beforehand, agree; of a false one they do not."""
    found, told = [], []
    for seed in range(200):
        p, y = patients(seed, 60)
        found.append(expected_calibration_error(p, y))
        told.append(calibration_error_by_chance(p, draws=20, seed=seed))
    assert np.mean(found) > 0.08  # far from 0, although every probability is true
    assert np.mean(found) == pytest.approx(np.mean(told), abs=0.01)
    p, y = patients(0, 60, slope=-1)
    assert expected_calibration_error(p, y) > 2 * calibration_error_by_chance(p)


def test_net_benefit_by_hand():
    p, y = np.array([0.1, 0.3, 0.3, 0.6, 0.9]), np.array([0, 0, 1, 0, 1])
    # at 0.3: four treated, two needlessly, each worth 3/7 of a true one
    assert net_benefit(p, y, thresholds=[0.3, 0.5, 0.95]) == pytest.approx([(2 - 2 * 3 / 7) / 5, (1 - 1) / 5, 0.0])
    cuts = np.linspace(0.01, 0.99, 50)
    everybody = net_benefit(np.ones(5), y, thresholds=cuts)
    assert everybody == pytest.approx(0.4 - 0.6 * cuts / (1 - cuts))
    perfect = net_benefit(y.astype(float), y, thresholds=cuts)
    assert perfect == pytest.approx(np.full(50, 0.4))


def test_what_is_refused():
    with pytest.raises(ConfigError, match="probability of row 1 is 1.2; expected 0 to 1"):
        brier_score([0.1, 1.2], [0, 1])
    with pytest.raises(ConfigError, match="label holds 2; probability has classes 0 to 1"):
        brier_score([[0.1, 0.9]], [2])
    with pytest.raises(ConfigError, match="0 bins, expected at least one"):
        calibration_curve([0.5], [1], bins=0)
    with pytest.raises(UndefinedMetricError, match="calibration of no patients"):
        calibration_curve([], [])
    with pytest.raises(UndefinedMetricError, match="calibration slope: all probabilities are equal"):
        calibration_slope([0.5, 0.5], [0, 1])
    for y in ([0, 0, 1, 1], [1, 1, 0, 0]):
        with pytest.raises(UndefinedMetricError, match="parts the classes without error"):
            calibration_slope([0.1, 0.2, 0.8, 0.9], y)
    for function in (calibration_slope, calibration_intercept):
        with pytest.raises(UndefinedMetricError, match="2 positives among 2 patients"):
            function([0.1, 0.9], [1, 1])
    with pytest.raises(ConfigError, match="thresholds go from 0 to 0.5; expected above 0 and below 1"):
        net_benefit([0.1], [1], thresholds=[0, 0.5])
    with pytest.raises(ConfigError, match="probability goes from -1 to 0.5"):
        net_benefit([-1, 0.5], [0, 1], thresholds=[0.5])
    with pytest.raises(UndefinedMetricError, match="no patients"):
        net_benefit([], [], thresholds=[0.5])
