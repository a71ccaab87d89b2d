"""Harrell's C against lifelines and scikit-survival, and pairs that stay inside their fold."""

from __future__ import annotations

import importlib

import lifelines
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lifelines.datasets import load_gbsg2, load_rossi
from lifelines.utils import concordance_index

from wsikit.errors import ConfigError
from wsikit.metrics import UndefinedMetricError, harrell_c


def tied_cohort(seed, patients=150):
    rng = np.random.default_rng(seed)
    risk = rng.integers(-10, 10, patients) / 4
    return risk, rng.integers(1, 15, patients), rng.random(patients) < 0.6


@pytest.mark.parametrize(
    ("table", "time", "event", "expected"),
    [
        (load_rossi().astype(float), "week", "arrest", 0.640329247),
        (pd.get_dummies(load_gbsg2(), drop_first=True).astype(float), "time", "cens", 0.691851028),
    ],
    ids=["rossi", "gbsg2"],
)
def test_value_at_the_lifelines_fit(table, time, event, expected):
    cox = lifelines.CoxPHFitter().fit(table, time, event)
    risk = cox.predict_log_partial_hazard(table)
    found = harrell_c(risk, table[time], table[event])
    assert found == pytest.approx(expected, abs=1e-9)
    assert found == pytest.approx(cox.concordance_index_, abs=1e-12)
    assert harrell_c(*(torch.tensor(c.to_numpy()) for c in (risk, table[time], table[event]))) == found


patients = st.lists(st.tuples(st.integers(0, 4), st.integers(1, 4), st.booleans()), min_size=2, max_size=20)


@given(rows=patients)
def test_ties_are_counted_as_by_lifelines(rows):
    risk, time, event = (np.array(column) for column in zip(*rows, strict=True))
    try:
        expected = concordance_index(time, -risk, event)
    except ZeroDivisionError:
        with pytest.raises(UndefinedMetricError):
            harrell_c(risk, time, event)
    else:
        assert harrell_c(risk, time, event) == pytest.approx(expected, abs=1e-12)


# concordance_index_censored of scikit-survival 0.28.0 on tied_cohort(0), (1), (2)
SCIKIT_SURVIVAL = [0.5371735298830316, 0.5028207607994842, 0.47438837920489296]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equals_scikit_survival(seed):
    risk, time, event = tied_cohort(seed)
    assert harrell_c(risk, time, event) == pytest.approx(SCIKIT_SURVIVAL[seed], abs=1e-12)


def test_equals_the_installed_scikit_survival():
    metrics = pytest.importorskip("sksurv.metrics")
    for seed in range(20):
        risk, time, event = tied_cohort(seed)
        expected = metrics.concordance_index_censored(event, time, risk)[0]
        assert harrell_c(risk, time, event) == pytest.approx(expected, abs=1e-12)


def test_blocks_do_not_change_the_count(monkeypatch):
    risk, time, event = tied_cohort(3)
    whole = harrell_c(risk, time, event)
    file = importlib.import_module("wsikit.metrics.harrell_c")  # by attribute the name is the function's
    monkeypatch.setattr(file, "_CELLS", 7 * len(risk))
    assert harrell_c(risk, time, event) == whole


def test_groups_pool_the_pairs_of_each_group():
    risk, time, event = tied_cohort(4)
    fold = np.random.default_rng(4).integers(0, 5, len(risk))
    won = pairs = 0
    for i in np.flatnonzero(event):
        for j in range(len(risk)):
            if fold[i] == fold[j] and (time[j] > time[i] or (time[j] == time[i] and not event[j])):
                won, pairs = won + (risk[i] > risk[j]) + (risk[i] == risk[j]) / 2, pairs + 1
    assert harrell_c(risk, time, event, groups=fold) == pytest.approx(won / pairs, abs=1e-12)
    assert harrell_c(risk, time, event, groups=[f"fold {f}" for f in fold]) == pytest.approx(won / pairs, abs=1e-12)


def test_groups_do_not_compare_one_models_scale_with_anothers():
    rng = np.random.default_rng(5)
    log_hazard, fold = rng.normal(size=400), np.arange(400) % 4
    time, event = rng.exponential(np.exp(-log_hazard)), np.ones(400, bool)
    honest = harrell_c(log_hazard, time, event, groups=fold)
    of_their_own_models = log_hazard * np.array([1, 5, 0.2, 30])[fold] + np.array([0, 40, -7, 3])[fold]
    assert harrell_c(of_their_own_models, time, event, groups=fold) == pytest.approx(honest, abs=1e-12)
    assert harrell_c(of_their_own_models, time, event) < honest - 0.1


@pytest.mark.parametrize(
    ("time", "event", "groups"),
    [([1, 2], [0, 0], None), ([3, 3], [1, 1], None), ([1, 2], [1, 1], [0, 1]), ([], [], None)],
)
def test_no_comparable_pair_is_an_error_and_no_number(time, event, groups):
    with pytest.raises(UndefinedMetricError, match="no comparable pair among"):
        harrell_c(np.arange(len(time)), time, event, groups=groups)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"risk": [1.0, np.nan, 2.0]}, "risk of row 1 is nan; it must be finite"),
        ({"event": [1, 2, 0]}, "event of row 1 is 2; it must be 0 or 1"),
        ({"time": [1, 2]}, "found rows: risk 3, time 2, event 3"),
        ({"risk": [[1.0], [2.0], [3.0]]}, r"risk must have 1 axis.*found shape \(3, 1\)"),
        ({"groups": [0, 1]}, "groups must hold one label for each of 3 patients"),
        ({"groups": [0.0, np.nan, 1.0]}, "groups of row 1 is missing"),
    ],
)
def test_what_is_refused(change, match):
    arguments = {"risk": [1.0, 2.0, 3.0], "time": [1, 2, 3], "event": [1, 1, 0]} | change
    with pytest.raises(ConfigError, match=match):
        harrell_c(**arguments)
