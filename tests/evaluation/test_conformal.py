"""Sets hold the truth as often as promised where patients are alike, by binomial limits, and not under shift."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from wsikit.errors import ConfigError
from wsikit.evaluation.conformal import (
    HeldOutClasses,
    HeldOutNumbers,
    check_enough,
    class_p_values,
    class_sets,
    number_intervals,
)

DRAWS = 1500


def limits(share, draws=DRAWS):
    """Where a count of hits of true rate ``share`` lies but once in 10,000 times."""
    return binom.ppf([5e-5, 1 - 5e-5], draws, share)


def patients(rng, n, *, shift=0.0, rare=0.5):
    """Scores of two overlapping classes; ``shift`` moves what a model sees and leaves the classes as they are."""
    label = (rng.random(n) < rare).astype(np.int64)
    return rng.normal(size=n) + 1.5 * label + shift, label


def judged(x, slope):
    """(n, 2) probabilities of a model that is neither right nor calibrated: coverage must not depend on that."""
    chance = 1 / (1 + np.exp(-slope * (x - 1)))
    return np.stack([1 - chance, chance], 1)


def hits(coverage, *, folds, n=60, shift=0.0, rare=0.5, by_class=False, of=None):
    """In how many of many cohorts the set of one new patient holds the true class: independent draws."""
    found = []
    for seed in range(DRAWS):
        rng = np.random.default_rng([seed, folds])
        x, label = patients(rng, 1, shift=shift, rare=rare if of is None else of)
        slopes = rng.uniform(0.5, 4, folds)  # each fold has models of its own
        cohort = []
        for slope in slopes:
            known, truth = patients(rng, n // folds, rare=rare)
            cohort.append(HeldOutClasses(judged(known, slope), truth, judged(x, slope)))
        found.append(class_sets(class_p_values(cohort, by_class=by_class), coverage)[0, label[0]])
    return int(np.sum(found))


@pytest.mark.parametrize("coverage", [0.8, 0.9])
def test_the_sets_of_one_model_cover_exactly_as_promised(coverage):
    low, high = limits(np.ceil(61 * coverage) / 61)  # what n = 60 continuous scores give, neither less nor more
    assert low <= hits(coverage, folds=1) <= high


def test_the_sets_of_five_folds_cover_as_promised_though_the_bound_is_lower():
    low, high = limits(0.9)
    found = hits(0.9, folds=5)
    assert low <= found
    assert found <= limits(0.95)[1]  # and are not simply all classes
    assert high < DRAWS


def test_under_shift_the_promise_does_not_hold():
    assert hits(0.9, folds=5, shift=-2.5) < 0.8 * DRAWS < limits(0.9)[0]


def test_a_rare_class_is_covered_only_where_classes_are_compared_apart():
    low, _ = limits(0.9)
    assert hits(0.9, folds=1, n=200, rare=0.1, of=1.0) < low  # all patients together: the frequent class pays
    assert hits(0.9, folds=1, n=200, rare=0.1, of=1.0, by_class=True) >= low


def test_the_fold_of_a_held_out_patient_is_judged_by_its_own_models_only():
    one = HeldOutClasses(np.array([[0.8, 0.2], [0.7, 0.3]]), np.array([0, 1]), np.array([[0.75, 0.25]]))
    other = HeldOutClasses(np.array([[0.1, 0.9]]), np.array([1]), np.array([[0.05, 0.95]]))
    # class 0: 0.3 is no better than 0.75 in the first fold, none in the second: (1 + 1 + 0) / 4
    # class 1: none is no better than 0.25 in the first, 0.9 is no better than 0.95 in the second: (1 + 0 + 1) / 4
    assert class_p_values([one, other]).tolist() == [[0.5, 0.5]]
    # by class: class 0 has one patient (0.8), class 1 two (0.3 and 0.9)
    assert class_p_values([one, other], by_class=True).tolist() == [[0.5, 2 / 3]]


def test_an_empty_and_a_full_set():
    known = HeldOutClasses(np.tile([0.95, 0.05], (19, 1)), np.zeros(19, np.int64), np.array([[0.6, 0.4]]))
    p = class_p_values([known])
    assert p.tolist() == [[0.05, 0.05]]
    assert class_sets(p, 0.9).tolist() == [[False, False]]
    assert class_sets(p, 0.96).tolist() == [[True, True]]


@pytest.mark.parametrize("folds", [1, 4])
def test_intervals_cover_as_promised_and_not_under_shift(folds):
    def inside(shift):
        count = 0
        for seed in range(DRAWS):
            rng = np.random.default_rng([9, seed])
            truth, cohort = rng.standard_t(3) + shift, []
            for _ in range(folds):
                bias, value = rng.normal(0, 0.3), rng.standard_t(3, 40 // folds)
                cohort.append(HeldOutNumbers(np.full(len(value), bias), value, np.array([bias])))
            low, high = number_intervals(cohort, 0.9)[0]
            count += low <= truth <= high
        return count

    low, high = limits(37 / 41)
    assert low <= inside(0.0)
    assert inside(0.0) <= (high if folds == 1 else limits(0.96)[1])
    assert inside(4.0) < 0.5 * DRAWS


def test_many_patients_are_taken_in_parts(monkeypatch):
    rng = np.random.default_rng(0)
    one = HeldOutNumbers(rng.normal(size=30), rng.normal(size=30), rng.normal(size=50))
    whole = number_intervals([one], 0.8)
    monkeypatch.setattr("wsikit.evaluation.conformal._CELLS", 100)
    assert np.array_equal(number_intervals([one], 0.8), whole)


def test_too_few_held_out_patients_are_named():
    check_enough([9], 0.9, ["all"])
    with pytest.raises(
        ConfigError, match=r"coverage 0.9 needs 9 held-out patients, the models have 8, .* at most 0.89"
    ):
        check_enough([8], 0.9, ["all"])
    with pytest.raises(ConfigError, match=r"coverage 0.95 needs 19 held-out patients of class 'II', the models have 3"):
        check_enough([40, 3], 0.95, ["I", "II"])
    with pytest.raises(ConfigError, match=r"coverage is 90, expected a share between 0 and 1, as 0.9 is"):
        check_enough([9], 90, ["all"])
    with pytest.raises(ConfigError, match="do not fit together"):
        class_p_values([HeldOutClasses(np.ones((3, 2)), np.zeros(2, np.int64), np.ones((1, 2)))])
