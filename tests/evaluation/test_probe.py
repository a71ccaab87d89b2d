"""The linear probe: out of fold, it finds what ten components miss, and nothing where there is nothing."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score

from wsikit.cohort.endpoints import ClassTarget, ContinuousTarget, SurvivalTarget
from wsikit.evaluation.baselines import baseline_predictions
from wsikit.evaluation.probe import probe_predictions
from wsikit.metrics import harrell_c

RNG = np.random.default_rng(0)
N = 90
FOLD = np.arange(N) % 3
SIGNAL = RNG.normal(size=N)
FEATURES = RNG.normal(size=(N, 12)) @ RNG.normal(size=(12, 60)) + 0.5 * RNG.normal(
    size=(N, 60)
)  # of stains and scanners
FEATURES = (FEATURES + np.outer(SIGNAL, 0.7 * RNG.normal(size=60))).astype(np.float32)
TARGETS = {
    "class": ClassTarget((SIGNAL > 0).astype(np.int64), ("0", "1")),
    "three": ClassTarget(np.digitize(SIGNAL, [-0.5, 0.5]), ("a", "b", "c")),
    "survival": SurvivalTarget(np.exp(-SIGNAL) * RNG.exponential(size=N) + 0.01, RNG.random(N) < 0.7, "months"),
    "continuous": ContinuousTarget(3 + 2 * SIGNAL),
}


@pytest.mark.parametrize("kind", TARGETS)
def test_a_test_patient_changes_its_own_prediction_only(kind):
    before = probe_predictions(FEATURES, TARGETS[kind], FOLD)
    changed = FEATURES.copy()
    changed[4] += 30  # of fold 1
    after = probe_predictions(changed, TARGETS[kind], FOLD)
    others = (FOLD == 1) & (np.arange(N) != 4)
    assert np.isfinite(before).all()
    assert np.array_equal(before[others], after[others])
    assert not np.allclose(before[4], after[4])


def test_a_test_patients_outcome_decides_nothing():
    target = TARGETS["class"]
    flipped = ClassTarget(np.where(FOLD == 1, 1 - target.label, target.label), target.classes)
    before, after = (probe_predictions(FEATURES, t, FOLD) for t in (target, flipped))
    assert np.array_equal(before[FOLD == 1], after[FOLD == 1])
    assert not np.array_equal(before[FOLD == 0], after[FOLD == 0])


@pytest.mark.parametrize("kind", ["class", "continuous"])
def test_a_fold_is_one_of_scikit_learns_models_on_standardised_columns(kind):
    train, test, target = np.flatnonzero(FOLD != 2), FOLD == 2, TARGETS[kind]
    wide = FEATURES.astype(np.float64)
    x, asked = ((wide[rows] - wide[train].mean(0)) / wide[train].std(0) / np.sqrt(60) for rows in (train, test))
    found = probe_predictions(FEATURES, target, FOLD)[test]
    for power in range(-2, 3):
        if kind == "class":
            model = LogisticRegression(C=10.0**-power, max_iter=1000).fit(x, target.label[train])
            expected = model.predict_proba(asked)
        else:
            expected = Ridge(alpha=10.0**power).fit(x, target.value[train]).predict(asked)[:, None]
        if np.allclose(found, expected, atol=1e-3):
            return
    raise AssertionError("no penalty of the grid gives these predictions")


def test_signal_is_found_and_noise_is_not():
    found = probe_predictions(FEATURES, TARGETS["class"], FOLD)
    assert found.sum(1) == pytest.approx(np.ones(N))
    auc = roc_auc_score(TARGETS["class"].label, found[:, 1])
    assert auc > 0.75
    assert auc > roc_auc_score(TARGETS["class"].label, baseline_predictions(FEATURES, TARGETS["class"], FOLD)[:, 1])
    survival = TARGETS["survival"]
    risk = probe_predictions(FEATURES, survival, FOLD)[:, 0]
    assert harrell_c(risk, survival.time, survival.event, groups=FOLD) > 0.6
    noise = np.random.default_rng(3).normal(size=(N, 60))
    chance = probe_predictions(noise, TARGETS["class"], FOLD)
    assert 0.3 < roc_auc_score(TARGETS["class"].label, chance[:, 1]) < 0.7
    assert np.abs(chance - 0.5).mean() < 0.2  # a strong penalty was chosen: it does not claim to know


@pytest.mark.parametrize("kind", TARGETS)
def test_features_without_any_spread_predict_what_is_usual(kind):
    found = probe_predictions(np.ones((N, 5), np.float32), TARGETS[kind], FOLD)
    for number in range(3):
        assert np.ptp(found[number == FOLD], axis=0) == pytest.approx(0, abs=1e-9)


def test_a_class_of_one_training_patient_is_no_crash():
    label = np.zeros(N, np.int64)
    label[[0, 1, 2]] = 1  # one in each fold
    found = probe_predictions(FEATURES, ClassTarget(label, ("a", "b")), FOLD)
    assert np.isfinite(found).all()
    alone = np.where(FOLD == 0, 1, 0)
    assert (probe_predictions(FEATURES, ClassTarget(alone, ("a", "b")), FOLD)[FOLD == 0, 1] == 0).all()
