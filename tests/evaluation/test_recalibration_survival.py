"""Survival risks are recalibrated to what is true, and the gain is not that of having seen the outcome."""

from __future__ import annotations

import numpy as np
import pytest

from wsikit.errors import ConfigError
from wsikit.evaluation.recalibration_survival import cross_fitted_risks, fit_risks
from wsikit.metrics import UndefinedMetricError, survival_brier


def cohort(n, slope, hazard, seed=0, censored=1.5):
    """Log risks, times and events where the true hazard is ``hazard exp(slope log_risk)``."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    time, until = rng.exponential(1 / (hazard * np.exp(slope * x))), rng.exponential(censored, n)
    return x, np.minimum(time, until), time <= until


@pytest.mark.parametrize(("slope", "hazard"), [(0.4, 0.3), (1.0, 1.2), (1.8, 0.1)])
def test_the_planted_slope_and_hazard_are_found_under_censoring(slope, hazard):
    x, time, event = cohort(20000, slope, hazard)
    found = fit_risks(x, time, event, "slope", at=0.8)
    assert found.slope == pytest.approx(slope, abs=0.05)
    assert found.hazard == pytest.approx(0.8 * hazard, rel=0.06)
    truth = 1 - np.exp(-0.8 * hazard * np.exp(slope * x))
    assert np.abs(found(x) - truth).max() < 0.03
    assert np.abs(cross_fitted_risks(x, time, event, "slope", at=0.8) - truth).max() < 0.04


def test_the_intercept_moves_the_level_and_keeps_the_slope():
    x, time, event = cohort(20000, 1.0, 0.2)
    found = fit_risks(x, time, event, "intercept", at=0.5)
    assert found.slope == 1.0
    assert found.hazard == pytest.approx(0.1, rel=0.05)


def test_risks_that_know_nothing_gain_nothing_by_cross_fitting():
    """Outcomes apart from the log risks: fitted on everybody the score seems to fall below that of one risk for all."""
    gains, seeming = [], []
    for seed in range(60):
        x, time, event = cohort(40, 0.0, 0.8, seed, censored=5)
        one = np.full(40, 1 - np.exp(-0.8 * 0.8))
        plain = survival_brier(one, time, event, at=0.8)
        mended = cross_fitted_risks(x, time, event, "slope", at=0.8)
        gains.append(plain - survival_brier(mended, time, event, at=0.8))
        own = fit_risks(x, time, event, "slope", at=0.8)(x)
        seeming.append(plain - survival_brier(own, time, event, at=0.8))
    assert np.mean(gains) < 0 < np.mean(seeming)


def test_what_teaches_nothing_is_refused():
    x, time, event = cohort(30, 1.0, 0.5)
    with pytest.raises(UndefinedMetricError, match="none of 30 patients was followed to 1e"):
        fit_risks(x, time, event, "slope", at=1e6)
    with pytest.raises(UndefinedMetricError, match="none of 30 patients had the event until"):
        fit_risks(x, time, event, "intercept", at=time[event].min() / 2)
    with pytest.raises(UndefinedMetricError, match="calibration slope: 0 events"):
        fit_risks(x, time, np.zeros(30, bool), "slope", at=0.1)
    with pytest.raises(ConfigError, match="recalibrate: 'isotonic'"):
        fit_risks(x, time, event, "isotonic", at=0.1)
