"""Average precision, F1 and kappa against scikit-learn, ties and groups included."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as reference

from wsikit.errors import ConfigError
from wsikit.metrics import UndefinedMetricError, average_precision, cohen_kappa, f1_score, macro_f1

scored = st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.integers(0, 2)), min_size=2, max_size=30)
graded = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30)


@given(rows=scored)
def test_average_precision_is_scikit_learns_and_in_groups_the_mean_over_positives(rows):
    score, positive, fold = (np.array(column) for column in zip(*rows, strict=True))
    if positive.all() or not positive.any():
        with pytest.raises(UndefinedMetricError, match="positive and negative patients"):
            average_precision(score, positive)
        return
    assert average_precision(score, positive) == pytest.approx(
        reference.average_precision_score(positive, score), abs=1e-12
    )
    assert average_precision(torch.tensor(score), torch.tensor(positive)) == average_precision(score, positive)
    parts = [(reference.average_precision_score(positive[fold == f], score[fold == f]), positive[fold == f].sum())
             for f in np.unique(fold[positive])]  # fmt: skip
    expected = sum(value * n for value, n in parts) / positive.sum()
    assert average_precision(score, positive, groups=fold) == pytest.approx(expected, abs=1e-12)


def test_average_precision_does_not_compare_folds():
    rng = np.random.default_rng(0)
    positive, fold = rng.random(200) < 0.3, np.arange(200) % 4
    score = rng.normal(size=200) + positive
    moved = score * np.array([1, 9, 0.1, 3])[fold] + np.array([0, 50, -50, 7])[fold]
    assert average_precision(moved, positive, groups=fold) == average_precision(score, positive, groups=fold)
    assert average_precision(moved, positive) < average_precision(score, positive) - 0.1


@given(rows=graded)
def test_f1_and_kappa_are_scikit_learns(rows):
    called, label = (np.array(column) for column in zip(*rows, strict=True))
    present = np.unique(label)
    expected = reference.f1_score(label, called, labels=present, average="macro", zero_division=0)
    assert macro_f1(called, label) == pytest.approx(expected, abs=1e-12)
    if (called == 1).any() or (label == 1).any():
        assert f1_score(called == 1, label == 1) == pytest.approx(
            reference.f1_score(label == 1, called == 1, zero_division=0), abs=1e-12
        )
    if len(np.unique(np.concatenate([called, label]))) > 1:
        for weights in ("none", "quadratic"):
            theirs = reference.cohen_kappa_score(
                called, label, labels=range(4), weights=None if weights == "none" else weights
            )
            assert cohen_kappa(called, label, classes=4, weights=weights) == pytest.approx(theirs, abs=1e-12)
    else:
        with pytest.raises(UndefinedMetricError, match="of one class and are called so"):
            cohen_kappa(called, label, classes=4)


def test_a_grade_missed_by_two_costs_more():
    label = [0, 0, 1, 1, 2, 2]
    near, far = [0, 1, 1, 1, 2, 2], [0, 2, 1, 1, 2, 2]
    plain = [cohen_kappa(c, label, classes=3) for c in (near, far)]
    assert plain[0] == pytest.approx(plain[1], abs=0.01)
    squared = [cohen_kappa(c, label, classes=3, weights="quadratic") for c in (near, far)]
    assert squared[0] > squared[1] + 0.2


def test_what_is_refused():
    with pytest.raises(UndefinedMetricError, match="none of 2 patients is positive and none is called so"):
        f1_score([0, 0], [0, 0])
    with pytest.raises(UndefinedMetricError, match="0 patients"):
        macro_f1([], [])
    with pytest.raises(ConfigError, match="found rows: 1 and 2"):
        macro_f1([0], [0, 1])
    with pytest.raises(ConfigError, match="called of row 1 is 3; there are classes 0 to 2"):
        cohen_kappa([0, 3], [0, 1], classes=3)
    with pytest.raises(ConfigError, match="weights 'linear', expected 'none' or 'quadratic'"):
        cohen_kappa([0, 1], [0, 1], classes=2, weights="linear")
    with pytest.raises(ConfigError, match="score of row 0 is nan"):
        average_precision([np.nan, 1.0], [0, 1])
