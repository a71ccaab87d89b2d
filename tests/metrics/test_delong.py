"""DeLong's test: the definition by every pair, and p values that are uniform where there is no difference."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kstest, norm
from sklearn.metrics import roc_auc_score

from wsikit.errors import ConfigError
from wsikit.metrics import UndefinedMetricError, delong_test


def by_every_pair(a, b, positive):
    """AUCs, standard error and p as DeLong et al. define them, from the m x n table of wins."""
    wins = [np.where(s[positive][:, None] == s[~positive], 0.5, s[positive][:, None] > s[~positive]) for s in (a, b)]
    v10, v01 = np.stack([w.mean(1) for w in wins]), np.stack([w.mean(0) for w in wins])
    m, n = wins[0].shape
    covariance = np.cov(v10) / m + np.cov(v01) / n
    contrast = np.array([1, -1])
    difference = contrast @ [w.mean() for w in wins]
    error = np.sqrt(contrast @ covariance @ contrast)
    return difference, error, 2 * norm.sf(abs(difference / error))


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_definition_with_ties(seed):
    rng = np.random.default_rng(seed)
    positive = rng.random(70) < 0.4
    a = rng.integers(0, 9, 70) + 3.0 * positive
    b = a + rng.integers(-3, 4, 70)
    found = delong_test(a, b, positive)
    assert found.auc == pytest.approx((roc_auc_score(positive, a), roc_auc_score(positive, b)), abs=1e-12)
    difference, error, p = by_every_pair(a, b, positive)
    assert (found.difference, found.standard_error, found.p) == pytest.approx((difference, error, p), rel=1e-9)


def test_p_values_of_equally_good_scores_are_uniform():
    rng, positive, found = np.random.default_rng(0), np.arange(120) < 50, []
    for _ in range(500):
        shared = rng.normal(size=120) + positive
        a, b = (shared + rng.normal(size=120) for _ in range(2))
        found.append(delong_test(a, b, positive).p)
    assert kstest(found, "uniform").pvalue > 0.01
    assert 0.02 < np.mean(np.array(found) < 0.05) < 0.09


def test_the_same_order_is_no_difference():
    score, positive = np.arange(10.0), np.arange(10) > 3
    found = delong_test(score, 2 * score + 7, positive)
    assert (found.difference, found.p) == (0.0, 1.0)


def test_what_is_refused():
    with pytest.raises(UndefinedMetricError, match="found 1 positive, 2 negative"):
        delong_test([1, 2, 3], [1, 2, 3], [0, 0, 1])
    with pytest.raises(ConfigError, match="found rows: score_b 1, positive 4"):
        delong_test([1, 2, 3, 4], [1], [0, 0, 1, 1])
