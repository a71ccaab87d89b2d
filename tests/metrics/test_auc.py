"""AUC against scikit-learn, and what pooling over folds does to a model that learned nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from wsikit.errors import ConfigError
from wsikit.metrics import UndefinedMetricError, macro_auc, roc_auc

rows = st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.integers(0, 2)), min_size=2, max_size=25)


@given(rows=rows)
def test_equals_scikit_learn_and_the_count_of_pairs_in_groups(rows):
    score, positive, fold = (np.array(column) for column in zip(*rows, strict=True))
    if positive.all() or not positive.any():
        with pytest.raises(UndefinedMetricError):
            roc_auc(score, positive)
    else:
        assert roc_auc(score, positive) == pytest.approx(roc_auc_score(positive, score), abs=1e-12)
    wins = np.where(score[:, None] == score, 0.5, score[:, None] > score)
    pairs = positive[:, None] & ~positive & (fold[:, None] == fold)
    if pairs.any():
        assert roc_auc(score, positive, groups=fold) == pytest.approx(wins[pairs].mean(), abs=1e-12)
    else:
        with pytest.raises(UndefinedMetricError, match="in . groups"):
            roc_auc(score, positive, groups=fold)


def test_tensors_and_arrays_agree():
    rng = np.random.default_rng(0)
    score, positive = rng.normal(size=50).astype(np.float32), rng.random(50) < 0.4
    fold = np.arange(50) % 3
    expected = roc_auc(score, positive, groups=fold)
    score_tensor = torch.tensor(score, requires_grad=True)
    assert roc_auc(score_tensor, torch.tensor(positive), groups=torch.tensor(fold)) == expected
    assert roc_auc(torch.tensor(score).bfloat16(), positive) == roc_auc(
        torch.tensor(score).bfloat16().float(), positive
    )


def test_models_that_learned_nothing_are_at_one_half():
    """Ten folds; each model knows the prevalence of its training folds and nothing of the patient."""
    rng = np.random.default_rng(0)
    pooled, inside = [], []
    for _ in range(800):
        positive, fold = rng.random(100) < 0.4, np.arange(100) % 10
        prevalence = np.array([positive[fold != f].mean() for f in range(10)])
        score = prevalence[fold] + 0.07 * rng.normal(size=100)
        pooled.append(roc_auc(score, positive))
        inside.append(roc_auc(score, positive, groups=fold))
    error = np.std(inside) / np.sqrt(len(inside))
    assert error < 0.004
    assert abs(np.mean(inside) - 0.5) < 3 * error
    assert np.mean(pooled) == pytest.approx(0.465, abs=0.01)
    assert np.mean(pooled) < 0.5 - 10 * np.std(pooled) / np.sqrt(len(pooled))


def test_macro_auc_is_the_mean_over_classes():
    rng = np.random.default_rng(1)
    label = rng.integers(0, 4, 200)
    scores = rng.dirichlet(np.ones(4), 200) + 0.3 * np.eye(4)[label]
    scores /= scores.sum(axis=1, keepdims=True)
    expected = roc_auc_score(label, scores, multi_class="ovr", average="macro")
    assert macro_auc(scores, label) == pytest.approx(expected, abs=1e-12)
    assert macro_auc(torch.tensor(scores), torch.tensor(label)) == pytest.approx(expected, abs=1e-12)
    fold = np.arange(200) % 5
    shifted = scores + np.arange(5)[fold][:, None]
    in_folds = np.mean([roc_auc(scores[:, c], label == c, groups=fold) for c in range(4)])
    assert macro_auc(shifted, label, groups=fold) == pytest.approx(in_folds, abs=1e-12)


def test_macro_auc_is_over_the_classes_present():
    scores = np.array([[0.9, 0.1, 0.0], [0.3, 0.7, 0.0], [0.6, 0.4, 0.0], [0.7, 0.3, 0.0]])
    label = np.array([0, 1, 1, 0])
    assert macro_auc(scores, label) == macro_auc(scores[:, :2], label) == 1.0


@pytest.mark.parametrize(
    ("score", "positive", "groups"), [([1, 2], [1, 1], None), ([1, 2], [0, 1], [0, 1]), ([], [], None)]
)
def test_no_pair_is_an_error_and_no_number(score, positive, groups):
    with pytest.raises(UndefinedMetricError, match="no pair of a positive and a negative"):
        roc_auc(score, positive, groups=groups)


def test_macro_auc_names_the_class_without_a_pair():
    with pytest.raises(UndefinedMetricError, match="class 2 against the others: no pair"):
        macro_auc(np.eye(3)[[0, 1, 2]], [0, 1, 2], groups=[0, 0, 1])
    with pytest.raises(UndefinedMetricError, match="class 1 against the others"):
        macro_auc(np.eye(3)[[1, 1]], [1, 1])
    with pytest.raises(UndefinedMetricError, match="no class is present"):
        macro_auc(np.zeros((0, 3)), [])


def test_what_is_refused():
    with pytest.raises(ConfigError, match="score of row 0 is nan"):
        roc_auc([np.nan, 1.0], [0, 1])
    with pytest.raises(ConfigError, match="positive of row 1 is 3"):
        roc_auc([0.0, 1.0], [0, 3])
    with pytest.raises(ConfigError, match="found rows: score 2, positive 3"):
        roc_auc([0.0, 1.0], [0, 1, 1])
    with pytest.raises(ConfigError, match="label of row 1 is 2; scores have classes 0 to 1"):
        macro_auc(np.zeros((2, 2)), [0, 2])
