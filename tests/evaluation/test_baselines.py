"""The simple models: out of fold, and the ones of scikit-learn and lifelines."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from wsikit.cohort.endpoints import ClassTarget, ContinuousTarget, SurvivalTarget
from wsikit.evaluation.baselines import baseline_predictions

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(60, 14)) * np.geomspace(0.1, 50, 14)
FOLD = np.arange(60) % 3
SIGNAL = FEATURES[:, 3] / FEATURES[:, 3].std()
TARGETS = {
    "class": ClassTarget((SIGNAL > 0).astype(np.int64), ("0", "1")),
    "three": ClassTarget(np.digitize(SIGNAL, [-0.5, 0.5]), ("a", "b", "c")),
    "survival": SurvivalTarget(np.exp(-SIGNAL) * RNG.exponential(size=60) + 0.01, RNG.random(60) < 0.7, "months"),
    "continuous": ContinuousTarget(3 + 2 * SIGNAL),
}


@pytest.mark.parametrize("kind", TARGETS)
def test_a_test_patient_changes_its_own_prediction_only(kind):
    before = baseline_predictions(FEATURES, TARGETS[kind], FOLD)
    changed = FEATURES.copy()
    changed[4] += 30  # of fold 1
    after = baseline_predictions(changed, TARGETS[kind], FOLD)
    fold = FOLD == 1
    others = fold & (np.arange(60) != 4)
    assert np.isfinite(before).all()
    assert np.array_equal(before[others], after[others])
    assert not np.allclose(before[4], after[4])
    assert not np.allclose(before[~fold], after[~fold])  # whose models learnt from it


def whitened(train):
    """Ten components of unit variance; of these two fits the second undoes what the first scaled by n - 1."""
    return make_pipeline(StandardScaler(), PCA(10, svd_solver="full"), StandardScaler(with_mean=False)).fit(train)


@pytest.mark.parametrize("kind", TARGETS)
def test_a_fold_by_hand(kind):
    train, test = FOLD != 2, FOLD == 2
    transform = whitened(FEATURES[train])
    x, asked = transform.transform(FEATURES[train]), transform.transform(FEATURES[test])
    target = TARGETS[kind]
    if isinstance(target, ClassTarget):
        expected = LogisticRegression(max_iter=2000).fit(x, target.label[train]).predict_proba(asked)
    elif isinstance(target, SurvivalTarget):
        table = pd.DataFrame(x).assign(t=target.time[train], e=target.event[train])
        expected = asked @ CoxPHFitter(penalizer=0.1).fit(table, "t", "e").params_.to_numpy()[:, None]
    else:
        expected = Ridge().fit(x, target.value[train]).predict(asked)[:, None]
    assert baseline_predictions(FEATURES, target, FOLD)[test] == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_signal_is_found():
    found = baseline_predictions(FEATURES, TARGETS["class"], FOLD)
    assert found.sum(1) == pytest.approx(np.ones(60))
    assert roc_auc_score(TARGETS["class"].label, found[:, 1]) > 0.85


@pytest.mark.parametrize("kind", TARGETS)
def test_features_without_any_spread_predict_what_is_usual(kind):
    """Slides with equally many tiles: no warning of a division by nothing, and no crash of Cox's fit."""
    target, found = TARGETS[kind], baseline_predictions(np.full((60, 1), np.log(7)), TARGETS[kind], FOLD)
    for number in range(3):
        train, test = np.flatnonzero(number != FOLD), number == FOLD
        if isinstance(target, ClassTarget):
            usual = np.bincount(target.label[train]) / len(train)
        else:
            usual = target.value[train].mean() if isinstance(target, ContinuousTarget) else 0.0
        assert found[test] == pytest.approx(np.tile(usual, (20, 1)), abs=1e-3)


@pytest.mark.parametrize("kind", TARGETS)
def test_columns_that_repeat_one_another_count_once(kind):
    """Two columns in ten disguises: rounding errors are no components."""
    two = FEATURES[:, 2:4]
    disguised = two @ np.random.default_rng(1).normal(size=(2, 10))
    found = baseline_predictions(disguised, TARGETS[kind], FOLD)
    train = disguised[FOLD != 0]
    scaler = StandardScaler().fit(train)
    pca = PCA(2, svd_solver="full").fit(scaler.transform(train))
    plain = baseline_predictions(pca.transform(scaler.transform(disguised)), TARGETS[kind], FOLD)
    assert found[FOLD == 0] == pytest.approx(plain[FOLD == 0], rel=1e-4, abs=1e-6)


def test_a_class_that_a_fold_does_not_train_gets_nothing():
    label = np.where(FOLD == 0, 2, np.arange(60) % 2)
    found = baseline_predictions(FEATURES, ClassTarget(label, ("a", "b", "c")), FOLD)
    assert (found[FOLD == 0, 2] == 0).all()
    assert found[FOLD == 0].sum(1) == pytest.approx(np.ones(20))
