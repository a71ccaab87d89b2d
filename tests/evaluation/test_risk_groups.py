"""Risk groups of out-of-fold risks, and log-rank tests that hold their level on cohorts without an effect."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from lifelines.statistics import multivariate_logrank_test
from scipy.stats import chi2

from wsikit.errors import ConfigError
from wsikit.evaluation import risk_groups as module
from wsikit.evaluation.risk_groups import log_rank, risk_groups, training_cuts
from wsikit.metrics import UndefinedMetricError


def cohort(rng, patients, *, whole=True):
    """(time, event) without any effect, about 60 % events; whole months make many ties."""
    death, leave = rng.exponential(20, patients), rng.exponential(30, patients)
    time = np.minimum(death, leave)
    return (np.ceil(time) if whole else time), death <= leave


def statistics(time, event, labels):
    """Our own statistic of each row of labels (M, P), for patients in any order."""
    order = np.argsort(-time, kind="stable")
    moments = module._Moments.of(time[order], event[order])
    return module._statistics(labels[:, order], labels.max() + 1, event[order], moments)


@pytest.mark.parametrize("groups", [2, 3, 5])
@pytest.mark.parametrize("whole", [True, False])
def test_statistic_is_that_of_lifelines_for_every_row(groups, whole):
    rng = np.random.default_rng(groups)
    time, event = cohort(rng, 80, whole=whole)
    labels = rng.integers(0, groups, (20, 80))
    expected = [multivariate_logrank_test(time, row, event).test_statistic for row in labels]
    assert statistics(time, event, labels) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_result_is_that_of_lifelines_and_takes_any_labels():
    rng = np.random.default_rng(0)
    time, event = cohort(rng, 120)
    group = np.array(["low", "middle", "high"])[rng.integers(0, 3, 120)]
    found = log_rank(time * np.where(group == "high", 0.4, 1), event, group, permutations=500)
    expected = multivariate_logrank_test(time * np.where(group == "high", 0.4, 1), group, event)
    assert found.statistic == pytest.approx(expected.test_statistic, rel=1e-9)
    assert found.p_chi2 == pytest.approx(expected.p_value, rel=1e-9)
    assert found.p_chi2 < 0.001
    assert found.p_permutation == 1 / 501
    assert found.permutations == 500


def test_p_of_permutation_is_that_of_all_orders():
    time, event = np.array([1.0, 2, 3, 4, 5, 6]), np.array([True, True, True, False, True, True])
    group = np.array([0, 0, 1, 0, 1, 1])
    every = np.array(list(permutations(group)))
    values = statistics(time, event, every)
    observed = statistics(time, event, group[None])[0]
    exact = (values >= observed - 1e-9).mean()
    assert log_rank(time, event, group, permutations=20_000).p_permutation == pytest.approx(exact, abs=0.012)
    assert 0.05 < exact < 0.6


def test_labels_move_inside_their_fold_only(monkeypatch):
    rng = np.random.default_rng(1)
    folds, labels = rng.integers(0, 4, 60), rng.integers(0, 3, 60)
    shuffled = module._shuffled(labels, folds, 500, rng)
    for fold in range(4):
        rows = np.sort(shuffled[:, folds == fold], axis=1)
        assert (rows == np.sort(labels[folds == fold])).all()
    mean = np.array([labels[folds == f].mean() for f in range(4)])[folds]
    assert np.abs(shuffled.mean(axis=0) - mean).max() < 0.2  # every patient gets every label of the fold
    time, event = cohort(rng, 60)
    whole = log_rank(time, event, labels, fold=folds, permutations=300)
    monkeypatch.setattr(module, "_CELLS", 60 * 7)  # in blocks of seven permutations
    assert log_rank(time, event, labels, fold=folds, permutations=300).p_permutation == pytest.approx(
        whole.p_permutation, abs=0.1
    )


def test_a_fold_that_is_a_confounder_is_no_effect():
    """Fold 1 has the short times and most of the high risks; inside the folds the groups are alike."""
    rng = np.random.default_rng(2)
    fold = np.repeat([0, 1], 100)
    time = rng.exponential(np.where(fold == 1, 5.0, 50.0))
    group = rng.random(200) < np.where(fold == 1, 0.8, 0.2)
    event = np.ones(200, bool)
    assert log_rank(time, event, group, permutations=300).p_permutation < 0.01
    assert log_rank(time, event, group, fold=fold, permutations=300).p_permutation > 0.05


@pytest.mark.slow
def test_training_cuts_hold_their_level_and_the_best_cut_does_not():
    """400 cohorts without an effect: p < 0.05 in about 5 % by training cuts, in about 40 % by the best cut."""
    rng, limit, patients = np.random.default_rng(0), chi2.ppf(0.95, 1), 120
    honest = permuted = best = 0
    for number in range(400):
        time, event = cohort(rng, patients, whole=False)
        fold = rng.permutation(np.arange(patients) % 5)
        # Five models, each with its own zero: what they agree on has nothing to do with the times.
        shared, scale = rng.normal(size=patients), rng.normal(0, 3, 5)
        risks = shared + 0.5 * rng.normal(size=(5, patients)) + scale[:, None]
        cuts = {f: training_cuts(risks[f, fold != f]) for f in range(5)}
        out_of_fold = risks[fold, np.arange(patients)]
        group = risk_groups(out_of_fold, fold, cuts)
        assert 0.3 < group.mean() < 0.7
        honest += statistics(time, event, group[None])[0] > limit
        if number < 200:
            permuted += log_rank(time, event, group, fold=fold, permutations=99, seed=number).p_permutation <= 0.05
        tried = np.sort(shared)[patients // 10 : -patients // 10]
        best += statistics(time, event, (shared > tried[:, None]).astype(int)).max() > limit
    assert 0.02 < honest / 400 < 0.085  # the binomial error is 1.1 %
    assert 0.01 < permuted / 200 < 0.10
    assert best / 400 > 0.3


def test_groups_are_numbered_by_the_cuts_of_the_patients_own_fold():
    risk = [0.1, 0.5, 0.9, 10.0, 20.0, 30.0]
    found = risk_groups(risk, [0, 0, 0, 1, 1, 1], {0: [0.3, 0.7], 1: [10.0, 25.0], 2: [0.0, 1.0]})
    assert found.tolist() == [0, 1, 2, 0, 1, 2]  # 10.0 equals its cut: the lower group
    assert found.dtype == np.int64


def test_training_cuts_are_quantiles():
    risks = np.random.default_rng(3).normal(size=300)
    cuts = training_cuts(risks, (1 / 3, 2 / 3))
    assert [(risks > c).sum() for c in cuts] == [200, 100]


@pytest.mark.parametrize(
    ("risks", "quantiles", "match"),
    [
        ([1.0, 1.0, 1.0], (0.5,), "3 training patients take 1 value.*nearly a constant has no risk groups"),
        ([1.0, 1.0, 1.0, 1.0, 2.0], (1 / 3, 2 / 3), "do not part them"),
        ([0.0, 1.0, 1.0, 1.0], (0.5,), "do not part them"),
        ([], (0.5,), "training_risks are empty"),
        ([1.0, np.nan], (0.5,), "training_risks of row 1 is nan"),
        ([1.0, 2.0], (0.7, 0.3), "quantiles must increase inside 0 to 1"),
        ([1.0, 2.0], (0.0,), "quantiles must increase inside 0 to 1"),
        ([1.0, 2.0], (), "quantiles must increase inside 0 to 1"),
    ],
)
def test_cuts_that_are_refused(risks, quantiles, match):
    with pytest.raises(ConfigError, match=match):
        training_cuts(risks, quantiles)


@pytest.mark.parametrize(
    ("fold", "cuts", "match"),
    [
        (["a", "b"], {"a": [1.0]}, r"no cut points for fold 'b'; they are given for \['a'\]"),
        (["a", "b"], {"a": [1.0], "b": [1.0, 2.0]}, "fold 'b' are .*expected 1 increasing ones, as many as fold 'a'"),
        (["a", "a"], {"a": [2.0, 1.0]}, "expected 2 increasing ones"),
        (["a"], {"a": [1.0]}, "fold must hold one label for each of 2 patients"),
    ],
)
def test_groups_that_are_refused(fold, cuts, match):
    with pytest.raises(ConfigError, match=match):
        risk_groups([1.0, 2.0], fold, cuts)


@pytest.mark.parametrize(
    ("time", "event", "group"),
    [
        ([1, 2, 3], [1, 1, 0], [0, 0, 0]),
        ([1, 2, 3], [0, 0, 0], [0, 1, 0]),
        ([1, 2, 3, 4], [0, 0, 1, 1], [0, 0, 1, 1]),  # group 0 had left before the first event
        ([2, 2, 2], [1, 1, 1], [0, 1, 0]),
        ([], [], []),
    ],
)
def test_where_there_is_no_statistic(time, event, group):
    with pytest.raises(UndefinedMetricError, match="no log-rank statistic: . group"):
        log_rank(time, event, group)


def test_tests_that_are_refused():
    with pytest.raises(ConfigError, match="time of row 1 is 0; it must be above 0"):
        log_rank([1, 0], [1, 1], [0, 1])
    with pytest.raises(ConfigError, match="at least one permutation"):
        log_rank([1, 2], [1, 1], [0, 1], permutations=0)
    with pytest.raises(ConfigError, match="group must hold one label for each of 2"):
        log_rank([1, 2], [1, 1], [0, 1, 1])
