"""CORN as its paper writes it, probabilities that are some, and the call of the median."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import cohen_kappa_score

from wsikit.cohort.endpoints import ClassTarget
from wsikit.metrics.undefined import UndefinedMetricError
from wsikit.tasks.classification import called
from wsikit.tasks.ordinal import OrdinalTask

CLASSES = ("0", "1", "2", "3")


def drawn(seed, patients=25):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 4, patients)
    return torch.as_tensor(rng.normal(size=(patients, 3)) * 2), ClassTarget(label, CLASSES, ordered=True)


def paper_loss(logits, label, weights=(1, 1, 1, 1)):
    """Equation 6, set by set: S_k are the patients that reached grade k, and f_k the probability of going beyond."""
    total, count = 0.0, 0
    for k in range(3):
        for z, y in zip(logits[:, k].tolist(), label.tolist(), strict=True):
            if y >= k:
                f = 1 / (1 + math.exp(-z))
                total -= weights[y] * math.log(f if y > k else 1 - f)
                count += 1
    return total / count


@pytest.mark.parametrize("seed", range(4))
def test_the_loss_is_the_papers(seed):
    logits, target = drawn(seed)
    assert float(OrdinalTask(CLASSES).loss(logits, target)) == pytest.approx(
        paper_loss(logits, target.label), abs=1e-12
    )
    weights = np.array([0.5, 2.0, 1.0, 3.0])
    found = float(OrdinalTask(CLASSES, weights).loss(logits, target))
    assert found == pytest.approx(paper_loss(logits, target.label, weights), abs=1e-12)


def test_a_grade_that_was_not_reached_has_no_gradient():
    logits = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    OrdinalTask(CLASSES).loss(logits, ClassTarget(np.array([0, 2]), CLASSES, ordered=True)).backward()
    assert (logits.grad != 0).tolist() == [[True, False, False], [True, True, True]]


def test_probabilities_are_products_of_going_on_and_stopping():
    logits, _ = drawn(5)
    found = OrdinalTask(CLASSES).predict(logits)
    f = 1 / (1 + np.exp(-logits.numpy()))
    by_hand = np.stack([1 - f[:, 0], f[:, 0] * (1 - f[:, 1]), f[:, 0] * f[:, 1] * (1 - f[:, 2]), f.prod(1)], 1)
    np.testing.assert_allclose(found, by_hand, rtol=1e-12)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-12)
    extreme = OrdinalTask(CLASSES).predict(torch.tensor([[1e4, -1e4, 1e4], [-1e4, 1e4, 1e4]]))
    np.testing.assert_allclose(extreme, [[0, 1, 0, 0], [1, 0, 0, 0]], atol=1e-12)


def test_the_call_is_the_median_and_not_the_most_probable_class():
    target = ClassTarget(np.zeros(3, np.int64), CLASSES, ordered=True)
    prediction = np.array([[0.4, 0.2, 0.2, 0.2], [0.1, 0.1, 0.1, 0.7], [0.6, 0.0, 0.0, 0.4]])
    assert called(prediction, target).tolist() == [1, 3, 0]
    assert called(prediction, ClassTarget(target.label, CLASSES)).tolist() == [0, 3, 0]
    logits, _ = drawn(6)
    beyond = torch.sigmoid(logits).cumprod(1)  # the authors' rule
    found = called(OrdinalTask(CLASSES).predict(logits), drawn(6)[1])
    assert found.tolist() == (beyond > 0.5).sum(1).tolist()


def test_the_score_is_quadratic_kappa():
    logits, target = drawn(7)
    task = OrdinalTask(CLASSES)
    prediction = task.predict(logits)
    by_hand = cohen_kappa_score(target.label, called(prediction, target), weights="quadratic", labels=[0, 1, 2, 3])
    assert task.score(prediction, target) == pytest.approx(by_hand)
    perfect = np.eye(4)[target.label]
    assert task.score(perfect, target) == 1
    with pytest.raises(UndefinedMetricError):
        task.score(np.eye(4)[[1, 1, 1]], ClassTarget(np.ones(3, np.int64), CLASSES, ordered=True))
