"""ComBat against its equations written out, one number at a time; and what it is for."""

from __future__ import annotations

import numpy as np
import pytest

from wsikit.errors import ConfigError
from wsikit.evaluation.combat import fit_combat
from wsikit.evaluation.separability import separability, stratified_folds


def sites(seed: int = 0, patients: int = 30, dim: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Patients of three sites that differ in mean and spread."""
    rng = np.random.default_rng(seed)
    site = rng.permutation(np.arange(patients) % 3)
    x = rng.normal(size=(patients, dim)) * np.array([1.0, 2.0, 0.5])[site][:, None]
    return x + np.array([0.0, 3.0, -2.0])[site][:, None] * rng.normal(1, 0.3, dim) + 10, site


def by_hand(x: np.ndarray, site: np.ndarray) -> np.ndarray:
    """Johnson et al. 2007, section 3: parametric shrinkage, loops and scalars, no covariates."""
    out = np.empty_like(x)
    n_features = x.shape[1]
    z, mean, sigma = np.empty_like(x), x.mean(0), np.empty(n_features)
    for g in range(n_features):
        total = 0.0
        for j in range(len(x)):
            total += (x[j, g] - x[site == site[j], g].mean()) ** 2
        sigma[g] = (total / len(x)) ** 0.5
        z[:, g] = (x[:, g] - mean[g]) / sigma[g]
    for i in np.unique(site):
        rows = np.flatnonzero(site == i)
        n = len(rows)
        hat = [float(z[rows, g].mean()) for g in range(n_features)]
        hat2 = [float(((z[rows, g] - hat[g]) ** 2).sum() / (n - 1)) for g in range(n_features)]
        bar, tau2 = np.mean(hat), np.var(hat, ddof=1)
        v, s2 = np.mean(hat2), np.var(hat2, ddof=1)
        lam, theta = (v**2 + 2 * s2) / s2, (v**3 + v * s2) / s2
        for g in range(n_features):
            star, star2 = hat[g], hat2[g]
            for _ in range(2000):
                star = (n * tau2 * hat[g] + star2 * bar) / (n * tau2 + star2)
                star2 = (theta + 0.5 * sum((z[j, g] - star) ** 2 for j in rows)) / (n / 2 + lam - 1)
            for j in rows:
                out[j, g] = sigma[g] / star2**0.5 * (z[j, g] - star) + mean[g]
    return out


def test_equals_the_paper_written_out():
    x, site = sites()
    np.testing.assert_allclose(fit_combat(x, site).apply(x, site), by_hand(x, site), rtol=1e-5)


def test_without_shrinkage_sites_have_equal_means_and_spreads():
    x, site = sites()
    fitted = fit_combat(x, site, shrink=False).apply(x, site)
    for i in range(3):
        np.testing.assert_allclose(fitted[site == i].mean(0), x.mean(0), atol=1e-9)
    spreads = [fitted[site == i].std(0, ddof=1) for i in range(3)]
    np.testing.assert_allclose(spreads[0], spreads[1])
    assert np.ptp([x[site == i].std() for i in range(3)]) > 0.5, "they were unequal before"


def test_fitted_on_some_it_corrects_others():
    x, site = sites(patients=1320, dim=12)
    train, test = np.arange(1200), np.arange(1200, 1320)
    fitted = fit_combat(x[train], site[train])
    before = separability(x[test], site[test], permutations=50, draws=100)
    after = separability(fitted.apply(x[test], site[test]), site[test], permutations=50, draws=100)
    assert before.value > 0.95
    assert before.p == pytest.approx(1 / 51)
    assert after.value - 1 / 3 < 0.2 * (before.value - 1 / 3), "what is left is what 400 patients of a site do not tell"


def test_features_that_never_change_stay_and_unknown_sites_are_refused():
    x, site = sites()
    x[:, 2] = 7.0
    x[site == 1, 3] = 4.0  # all patients of one site agree
    fitted = fit_combat(x, site)
    assert np.isfinite(fitted.apply(x, site)).all()
    np.testing.assert_array_equal(fitted.apply(x, site)[:, 2], 7.0)
    with pytest.raises(ConfigError, match="site number 3; the correction was fitted on 3 sites"):
        fitted.apply(x[:1], np.array([3]))
    with pytest.raises(ConfigError, match="site number 1 has 1 patients; at least 2"):
        fit_combat(x[:4], np.array([0, 0, 0, 1]))


def test_groups_without_a_difference_are_at_chance():
    """Over many cohorts p is spread evenly: at most about 1 in 20 is below 0.05."""
    rng = np.random.default_rng(3)
    p, values = [], []
    for i in range(60):
        group = rng.permutation(np.repeat([0, 1], [30, 10]))  # of unequal size
        found = separability(rng.normal(size=(40, 15)), group, permutations=40, draws=100, seed=i)
        p.append(found.p)
        values.append(found.value)
    assert abs(np.mean(values) - 0.5) < 0.05
    assert 0.35 < np.mean(p) < 0.65
    assert np.mean(np.array(p) <= 0.05) <= 0.12
    assert found.chance == 0.5
    assert found.interval.low <= found.value <= found.interval.high


def test_folds_hold_equal_shares_of_every_group():
    group = np.repeat([0, 1, 2], [11, 5, 7])
    fold = stratified_folds(group, 5, np.random.default_rng(0))
    counts = np.array([[((group == g) & (fold == f)).sum() for f in range(5)] for g in range(3)])
    assert np.ptp(counts, axis=1).max() <= 1
    assert np.ptp(counts.sum(0)) <= 1
    with pytest.raises(ConfigError, match="expected two groups or more, of at least 2 each"):
        separability(np.zeros((3, 2)), np.array([0, 0, 1]))
