"""Features come to one scale, and only training patients have a say in which."""

from __future__ import annotations

import numpy as np
import pytest

from wsikit.cohort.endpoints import ClassLabel, ClassTarget
from wsikit.training.fit import fit
from wsikit.training.scaling import SHRINKAGE, TILES, fit_scaling
from wsikit.training.settings import ModelSettings, TrainingSettings

TRAIN = np.arange(20)
MIX = np.array([[100, 0, 0, 0], [80, 30, 0, 0], [0, 0, 0.01, 0], [0, 2, 0, 2]], np.float64)


def features(seed=0, patients=30):
    """Columns whose spreads differ by four orders of magnitude, two of them nearly the same."""
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(rng.integers(20, 60), 4)) @ MIX.T + [5, 0, 1, -3] for _ in range(patients)]


@pytest.fixture(scope="module")
def bags(write_bags):
    return write_bags(features())


def scaled(bags, how, rows=TRAIN):
    """Scaled tiles of patients, and the weight of each tile: every patient counts the same."""
    mean, scale = fit_scaling(bags, TRAIN, how)
    assert mean.dtype == scale.dtype == np.float32
    parts = []
    for row in rows:
        x = bags[int(row)].x.astype(np.float64) - mean
        parts.append(x @ scale.astype(np.float64) if scale.ndim == 2 else x * scale)
    weight = np.concatenate([np.full(len(p), 1 / len(p)) for p in parts]) / len(parts)
    return np.concatenate(parts), weight


def covariance(bags, how):
    x, weight = scaled(bags, how)
    mean = weight @ x
    return mean, (x - mean).T @ ((x - mean) * weight[:, None])


def test_whitened_training_tiles_have_the_identity_as_covariance(bags):
    mean, cov = covariance(bags, "whiten")
    np.testing.assert_allclose(mean, 0, atol=1e-3)
    # A direction of variance w comes out as w / (w + 0.01): the least here is about 0.07.
    np.testing.assert_allclose(cov, np.eye(4), atol=0.15)
    correlation = np.corrcoef(np.concatenate([bags[int(r)].x.astype(np.float64) for r in TRAIN]).T)
    assert np.abs(correlation - np.eye(4)).max() > 0.8  # it was far from that


def test_whitening_is_the_formula_of_zca(bags):
    mean, scale = fit_scaling(bags, TRAIN, "whiten")
    x = [bags[int(r)].x.astype(np.float64) for r in TRAIN]
    expected_mean = np.mean([p.mean(0) for p in x], axis=0)
    cov = np.mean([(p - expected_mean).T @ (p - expected_mean) / len(p) for p in x], axis=0)
    std = np.sqrt(np.diag(cov))
    w, v = np.linalg.eigh(cov / np.outer(std, std))
    inverse_root = v @ np.diag((w + SHRINKAGE["whiten"]) ** -0.5) @ v.T
    np.testing.assert_allclose(mean, expected_mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(scale, np.diag(1 / std) @ inverse_root, rtol=1e-4, atol=1e-5)


def test_standardised_columns_have_unit_spread_and_keep_their_correlation(bags):
    mean, cov = covariance(bags, "standardise")
    np.testing.assert_allclose(mean, 0, atol=1e-3)
    np.testing.assert_allclose(np.diag(cov), 1, atol=1e-3)
    assert cov[0, 1] > 0.8


def test_none_leaves_features_as_they_are(bags):
    mean, scale = fit_scaling(bags, TRAIN, "none")
    assert (mean.tolist(), scale.tolist()) == ([0] * 4, [1] * 4)


def test_what_tells_patients_apart_for_whatever_reason_is_turned_down(write_bags):
    rng = np.random.default_rng(3)
    stain, disease = rng.normal(0, 3, 40), rng.normal(0, 0.3, 40)  # of each patient, along two directions
    x = [np.array([s, s, d]) + rng.normal(size=(60, 3)) for s, d in zip(stain, disease, strict=True)]
    x = [p @ np.diag([1, 1, 0.01]) for p in x]  # and the disease is in a column that hardly varies
    bags, rows = write_bags(x), np.arange(40)
    mean, scale = fit_scaling(bags, rows, "whiten-patients")
    tiles = [(bags[i].x.astype(np.float64) - mean) @ scale for i in rows]
    assert np.mean([np.square(t).mean() for t in tiles]) == pytest.approx(1, abs=0.02)  # over tiles and directions
    means = np.stack([t.mean(0) for t in tiles])
    found = [np.abs(np.corrcoef(means @ v, stain)[0, 1]) for v in np.linalg.eigh(np.cov(means.T))[1].T]
    before = np.stack([p.mean(0) / np.concatenate(x).std(0) for p in x])
    ratio = [m.var(0)[2] / m.var(0)[:2].mean() for m in (before, means)]
    assert ratio[1] > 1.7 * ratio[0]  # the disease against the stain
    assert max(found) > 0.95  # the stain is turned down, not taken away


def test_every_patient_weighs_the_same(write_bags):
    rng = np.random.default_rng(0)
    few, many = rng.normal(-10, 1, (10, 3)), rng.normal(10, 1, (TILES, 3))
    mean, _ = fit_scaling(write_bags([few, many]), np.array([0, 1]), "standardise")
    np.testing.assert_allclose(mean, (few.mean(0) + many.mean(0)) / 2, atol=0.01)  # and not near 10


@pytest.mark.parametrize("value", [0.0, 7.0, 60_000.0, 0.1])
@pytest.mark.parametrize("how", ["patients", "standardise", "whiten", "whiten-patients"])
def test_a_column_that_never_changes_is_left_at_zero(write_bags, how, value):
    x = [np.concatenate([p[:, :2], np.full((len(p), 1), value)], 1) for p in features(1, 12)]
    bags = write_bags(x)
    _, scale = fit_scaling(bags, np.arange(12), how)
    assert np.isfinite(scale).all()
    assert not scale[..., 2].any()
    if how.startswith("whiten"):
        assert not scale[2].any()  # and it reaches no other column, whatever a later slide has there


@pytest.mark.parametrize("how", ["patients", "standardise", "whiten", "whiten-patients"])
def test_other_patients_have_no_say(bags, write_bags, how):
    changed = features()
    for row in range(20, 30):
        changed[row] = changed[row] * 50 + 1000
    other = write_bags(changed)
    for one, two in zip(fit_scaling(bags, TRAIN, how), fit_scaling(other, TRAIN, how), strict=True):
        np.testing.assert_array_equal(one, two)
    before = fit_scaling(bags, np.arange(30), how)[1]
    assert np.abs(before - fit_scaling(other, np.arange(30), how)[1]).max() > 1e-3  # with them it would differ


def test_the_fitted_model_carries_the_training_patients_scale(bags):
    target = ClassTarget(np.arange(30) % 2, ("0", "1"))
    found = fit(
        bags, ClassLabel("y", ("0", "1")), target, train=TRAIN, validation=np.arange(20, 26),
        model=ModelSettings(aggregator="mean"), training=TrainingSettings(epochs=1, device="cpu", scaling="whiten"),
    )  # fmt: skip
    mean, scale = fit_scaling(bags, TRAIN, "whiten")
    np.testing.assert_array_equal(found.model.mean.numpy(), mean)
    np.testing.assert_array_equal(found.model.scale.numpy(), scale)
