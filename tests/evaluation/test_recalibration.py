"""Recalibration: the maximum likelihood fit of others, learnt without the patient it is applied to."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from wsikit.errors import ConfigError
from wsikit.evaluation.recalibration import cross_fitted, fit_recalibration
from wsikit.metrics import UndefinedMetricError, brier_score, calibration_intercept, calibration_slope, roc_auc


def cohort(seed, n=400):
    """Probabilities that are too extreme and too high, and outcomes."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(size=n)
    positive = rng.random(n) < 1 / (1 + np.exp(-(logit - 1)))
    return 1 / (1 + np.exp(-(2 * logit + 0.5))), positive


def test_slope_and_intercept_are_those_of_a_plain_logistic_regression():
    chance, positive = cohort(0)
    logit = np.log(chance / (1 - chance))
    theirs = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(logit[:, None], positive)
    found = fit_recalibration(chance, positive, "slope")
    assert found.slope == pytest.approx(theirs.coef_[0, 0], rel=1e-5)
    assert found.intercept == pytest.approx(theirs.intercept_[0], rel=1e-5)
    assert found(chance) == pytest.approx(theirs.predict_proba(logit[:, None])[:, 1], rel=1e-5)


def test_after_it_the_mean_is_right_and_with_slope_the_slope_too():
    chance, positive = cohort(1)
    plain = fit_recalibration(chance, positive, "intercept")
    assert (plain.slope, plain.patients) == (1.0, 400)
    assert plain(chance).mean() == pytest.approx(positive.mean(), abs=1e-9)
    both = fit_recalibration(chance, positive, "slope")(chance)
    assert calibration_slope(both, positive) == pytest.approx(1, abs=1e-6)
    assert calibration_intercept(both, positive) == pytest.approx(0, abs=1e-6)
    assert roc_auc(both, positive) == roc_auc(chance, positive)


def test_nobody_teaches_the_recalibration_that_is_applied_to_them():
    chance, positive = cohort(2, 60)
    before = cross_fitted(chance, positive, "slope")
    for i in (3, 17):
        turned = positive.copy()
        turned[i] = ~turned[i]
        part = np.random.default_rng(0).permutation(60) % 5
        others = part != part[i]
        learnt = fit_recalibration(chance[others], positive[others], "slope")
        assert learnt.patients == others.sum()
        assert before[i] == pytest.approx(float(learnt(chance[i])), abs=1e-12)


def test_measured_on_its_teachers_it_looks_better_than_on_others_and_cross_fitted_it_does_not():
    gains = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        chance, positive, later = 0.5 + rng.normal(0, 0.1, 40), rng.random(40) < 0.5, rng.random(40) < 0.5
        learnt = fit_recalibration(chance, positive, "slope")
        apart = cross_fitted(chance, positive, "slope")
        here, there = brier_score(chance, positive), brier_score(chance, later)
        gains.append(
            [
                here - brier_score(learnt(chance), positive),
                here - brier_score(apart, positive),
                there - brier_score(learnt(chance), later),
            ]
        )
    seen, crossed, truth = np.mean(gains, axis=0)
    assert seen > truth + 0.015
    assert crossed < truth + 0.003


def test_what_cannot_be_learnt():
    with pytest.raises(UndefinedMetricError, match="0 positives among 3 patients"):
        fit_recalibration(np.array([0.1, 0.2, 0.3]), np.zeros(3, bool), "intercept")
    with pytest.raises(ConfigError, match="recalibrate: 'platt', expected 'intercept', or 'slope'"):
        fit_recalibration(np.array([0.1, 0.2]), np.array([True, False]), "platt")
