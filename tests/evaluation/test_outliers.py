"""Like patients are flagged about as often as stated, by binomial limits; others nearly all."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom
from sklearn.covariance import LedoitWolf

from wsikit.errors import ConfigError
from wsikit.evaluation.outliers import fit_reference, held_out_distances, reference_from, unlikeness


def cohort(rng, n, dim=24, *, mixing=None):
    """Mean features of patients: a few causes behind many columns, as in real features, of very different spread."""
    mixing = np.random.default_rng(7).normal(size=(8, dim)) if mixing is None else mixing
    x = rng.normal(size=(n, len(mixing))) @ mixing + 0.4 * rng.normal(size=(n, dim))
    return (x + 3) * np.geomspace(0.01, 100, dim)


def flagged(known, new, folds=4):
    """Of new patients those that are flagged, compared fold by fold."""
    part, pairs = np.arange(len(known)) % folds, []
    for number in range(folds):
        reference = fit_reference(known[part != number])
        pairs.append((reference.distances(known[part == number]), reference.distances(new)))
    return unlikeness(pairs)


@pytest.mark.parametrize(("dim", "patients"), [(24, 200), (300, 120)])
def test_distances_are_those_of_scikit_learns_ledoit_wolf(dim, patients):
    x = cohort(np.random.default_rng(0), patients, dim)
    standard = (x - x.mean(0)) / x.std(0)
    theirs = np.sqrt(LedoitWolf(assume_centered=True).fit(standard).mahalanobis(standard) / dim)
    assert fit_reference(x).distances(x) == pytest.approx(theirs, rel=1e-6)


def test_a_file_gives_back_the_same_distances():
    x = cohort(np.random.default_rng(1), 60)
    reference = fit_reference(x)
    assert reference_from(reference.arrays()).distances(x) == pytest.approx(reference.distances(x), rel=1e-5)


def test_like_patients_are_flagged_at_the_stated_rate():
    count = 0
    for seed in range(40):  # 40 cohorts of 150, and 50 new patients each: the rate is over cohorts, too
        rng = np.random.default_rng(seed)
        found = flagged(cohort(rng, 150), cohort(rng, 50))
        assert found.rate == pytest.approx(1 / 151)
        count += int(found.flagged.sum())
    # patients of one cohort are compared with the same others, so limits are those of a wider beta-binomial: twice
    low, high = binom.ppf([0.005, 0.995], 2000, 1 / 151)
    assert low / 2 <= count <= 2 * high


def test_new_patients_one_at_a_time_keep_to_exact_binomial_limits():
    mixing = np.random.default_rng(7).normal(size=(2, 4))
    count = 0
    for seed in range(1500):
        x = cohort(np.random.default_rng([5, seed]), 41, 4, mixing=mixing)
        count += int(flagged(x[:40], x[40:]).flagged[0])
    assert binom.ppf(5e-5, 1500, 1 / 41) <= count <= binom.ppf(1 - 5e-5, 1500, 1 / 41)


@pytest.mark.parametrize("what", ["stain", "encoder", "noise"])
def test_unlike_patients_are_flagged(what):
    rng = np.random.default_rng(3)
    known, new = cohort(rng, 200), cohort(rng, 60)
    spread = known.std(0)
    other = {
        "stain": new + 1.5 * spread * np.sign(rng.normal(size=24)),  # another mean, moderately
        "encoder": cohort(rng, 60, mixing=np.random.default_rng(8).normal(size=(8, 24))),  # other correlations only
        "noise": known.mean(0) + spread * rng.normal(size=(60, 24)),  # the same mean and spread, no correlations
    }[what]
    found, like = flagged(known, other), flagged(known, new)
    assert found.flagged.mean() > 0.9
    assert np.median(found.score) > 1.5 * np.median(like.score)
    assert like.flagged.mean() < 0.1


def test_a_column_that_never_changed_shows_when_it_does():
    x = cohort(np.random.default_rng(4), 80)
    x[:, 5] = 2.0
    new = x[:3].copy()
    new[1, 5] = 2.5
    found = flagged(x, new).flagged
    assert found.tolist() == [False, True, False]


def test_the_share_counts_training_patients_as_far_or_farther():
    found = unlikeness([([1.0, 2.0, 3.0], [2.0, 5.0, 0.0]), ([4.0], [5.0, 5.0, 0.0])])
    assert found.share.tolist() == [0.5, 0.0, 1.0]
    assert (found.known, found.rate) == (4, 0.2)
    assert found.flagged.tolist() == [False, True, False]
    assert found.score.tolist() == pytest.approx([(1 + 1.25) / 2, (2.5 + 1.25) / 2, 0])


def test_cross_fitted_distances_are_those_of_new_patients_and_not_of_fitted_ones():
    rng = np.random.default_rng(6)
    x, new = cohort(rng, 35), cohort(rng, 400)
    reference = fit_reference(x)
    typical = np.median(reference.distances(new))
    assert np.median(held_out_distances(x)) == pytest.approx(typical, rel=0.1)
    assert np.median(reference.distances(x)) < 0.93 * typical  # who fitted it looks nearer than anybody new


def test_too_few_patients_are_refused():
    with pytest.raises(
        ConfigError, match=r"shape \(2, 3\), expected \(n, D\) finite numbers of three patients or more"
    ):
        fit_reference(np.zeros((2, 3)))
    with pytest.raises(ConfigError, match="no distances of held-out patients"):
        unlikeness([([], [1.0])])
