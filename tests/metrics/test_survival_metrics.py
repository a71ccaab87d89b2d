"""Uno's C, survival curves and the slope of log risks, against numbers of other programs."""

from __future__ import annotations

import lifelines
import numpy as np
import pandas as pd
import pytest
from lifelines.datasets import load_gbsg2, load_rossi

from wsikit.errors import ConfigError
from wsikit.metrics import (
    UndefinedMetricError,
    baseline_hazard,
    censoring_curve,
    cox_slope,
    harrell_c,
    kaplan_meier,
    uno_c,
)


@pytest.fixture(scope="module")
def fitted():
    """Of two data sets the Cox model of lifelines, its log risks, times and events."""
    found = {}
    gbsg2 = pd.get_dummies(load_gbsg2(), drop_first=True).astype(float)
    for name, data, time, event in (("rossi", load_rossi(), "week", "arrest"), ("gbsg2", gbsg2, "time", "cens")):
        model = lifelines.CoxPHFitter().fit(data, time, event)
        risk = np.log(model.predict_partial_hazard(data)).to_numpy()
        found[name] = model, risk, data[time].to_numpy(float), data[event].to_numpy() == 1
    return found


@pytest.mark.parametrize(("name", "value"), [("rossi", 0.645587438), ("gbsg2", 0.683270096)])
def test_unos_c_is_that_of_scikit_survival(fitted, name, value):
    # concordance_index_ipcw of scikit-survival at these fits, tau the 90 % quantile of the event times
    _, risk, time, event = fitted[name]
    known = censoring_curve(time, event)
    found = uno_c(risk, time, event, censoring=known, tau=np.quantile(time[event], 0.9))
    assert found == pytest.approx(value, abs=2e-9)


def test_without_censoring_unos_c_is_harrells():
    rng = np.random.default_rng(0)
    risk, time = rng.integers(0, 5, 60).astype(float), rng.integers(1, 30, 60).astype(float)
    event = np.ones(60, bool)
    found = uno_c(risk, time, event, censoring=censoring_curve(time, event), tau=1e9)
    assert found == pytest.approx(harrell_c(risk, time, event), abs=1e-12)


def test_blocks_of_pairs_add_up(fitted, monkeypatch):
    _, risk, time, event = fitted["rossi"]
    known = censoring_curve(time, event)
    whole = uno_c(risk, time, event, censoring=known, tau=40)
    monkeypatch.setattr("wsikit.metrics.uno_c._CELLS", 1000, raising=False)
    import sys

    monkeypatch.setattr(sys.modules["wsikit.metrics.uno_c"], "_CELLS", 1000)
    assert uno_c(risk, time, event, censoring=known, tau=40) == pytest.approx(whole, abs=1e-12)


def test_followed_for_half_as_long_unos_c_stays_and_harrells_moves():
    """What the weights are for: a risk that matters early only, in a cohort with and without late censoring."""
    rng = np.random.default_rng(1)
    risk = rng.normal(size=6000)
    early = rng.exponential(np.exp(-2 * risk))
    time = np.where(early < 1, early, 1 + rng.exponential(2, 6000))  # after 1 the risk says nothing
    censored = rng.uniform(0, 3, 6000)
    seen, event = np.minimum(time, censored), time <= censored
    truth = uno_c(risk, time, np.ones(6000, bool), censoring=censoring_curve(time, np.ones(6000, bool)), tau=2.0)
    found = uno_c(risk, seen, event, censoring=censoring_curve(seen, event), tau=2.0)
    assert abs(found - truth) < 0.01
    assert abs(harrell_c(risk, seen, event) - harrell_c(risk, time, np.ones(6000, bool))) > 0.02


def test_a_tau_beyond_the_training_is_refused_in_words():
    known = censoring_curve([1, 2, 3], [1, 1, 0])
    with pytest.raises(UndefinedMetricError, match="all training patients are censored before an event at 4"):
        uno_c([3, 2, 1], [4, 5, 6], [1, 1, 0], censoring=known, tau=9)
    with pytest.raises(UndefinedMetricError, match="no comparable pair among 3 patients with 0 events before 2"):
        uno_c([3, 2, 1], [4, 5, 6], [1, 1, 0], censoring=known, tau=2)
    with pytest.raises(ConfigError, match="tau is 0"):
        uno_c([3, 2, 1], [4, 5, 6], [1, 1, 0], censoring=known, tau=0)


@pytest.mark.parametrize("name", ["rossi", "gbsg2"])
def test_curves_are_those_of_lifelines(fitted, name):
    model, risk, time, event = fitted[name]
    at = np.concatenate([np.unique(time), np.unique(time) + 0.5, [0.0]])
    theirs = lifelines.KaplanMeierFitter().fit(time, event).predict(at).to_numpy()
    assert kaplan_meier(time, event).at(at) == pytest.approx(theirs, abs=1e-12)
    hazard = model.baseline_cumulative_hazard_
    found = baseline_hazard(risk, time, event).at(hazard.index.to_numpy())
    assert found == pytest.approx(hazard.to_numpy().ravel(), rel=1e-9)


def test_the_censored_of_a_time_leave_after_its_events():
    curve = censoring_curve([1, 1, 2, 2, 3], [1, 0, 1, 0, 0])
    assert curve.at([0.9, 1, 2, 3]).tolist() == pytest.approx([1, 3 / 4, 3 / 8, 0])
    assert curve.until == 3


@pytest.mark.parametrize("name", ["rossi", "gbsg2"])
@pytest.mark.parametrize("share", [1.0, 0.4, -0.7])
def test_the_slope_is_lifelines_coefficient(fitted, name, share):
    _, risk, time, event = fitted[name]
    x = share * risk + np.random.default_rng(2).normal(size=len(risk))
    theirs = lifelines.CoxPHFitter().fit(pd.DataFrame({"x": x, "t": time, "e": event}), "t", "e").params_["x"]
    assert cox_slope(x, time, event) == pytest.approx(theirs, abs=1e-5)
    assert cox_slope(x / 4 + 9, time, event) == pytest.approx(4 * cox_slope(x, time, event), rel=1e-8)


def test_a_slope_that_is_not_there():
    with pytest.raises(UndefinedMetricError, match="infinite"):
        cox_slope([4.0, 3, 2, 1], [1, 2, 3, 4], [1, 1, 1, 1])
    with pytest.raises(UndefinedMetricError, match="0 events among 2 patients"):
        cox_slope([1.0, 2.0], [1, 2], [0, 0])
    with pytest.raises(UndefinedMetricError, match="expected events and different risks"):
        cox_slope([1.0, 1.0], [1, 2], [1, 1])
