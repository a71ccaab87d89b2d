"""What is not known enters nothing; what is, is the textbook's."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from wsikit.cohort.several_labels import LabelsTarget
from wsikit.metrics.undefined import UndefinedMetricError
from wsikit.tasks.multi_label import MultiLabelTask

NAMES = ("a", "b", "c")


def drawn(seed, patients=30):
    rng = np.random.default_rng(seed)
    target = LabelsTarget(rng.random((patients, 3)) < [0.5, 0.2, 0.7], rng.random((patients, 3)) < 0.7, NAMES)
    return torch.as_tensor(rng.normal(size=(patients, 3)) * 3), target


def by_hand(logits, target, weights=((1, 1),) * 3):
    """Cell by cell in float64."""
    total, count = 0.0, 0
    for i in range(len(target)):
        for j in range(3):
            if target.known[i, j]:
                p = 1 / (1 + math.exp(-float(logits[i, j])))
                yes = int(target.positive[i, j])
                total -= weights[j][yes] * math.log(p if yes else 1 - p)
                count += 1
    return total / count


@pytest.mark.parametrize("seed", range(4))
def test_the_loss_is_that_of_the_known_cells(seed):
    logits, target = drawn(seed)
    assert float(MultiLabelTask(NAMES).loss(logits, target)) == pytest.approx(by_hand(logits, target), abs=1e-12)
    weights = np.array([[0.5, 2.0], [0.7, 1.5], [3.0, 0.6]])
    found = MultiLabelTask(NAMES, weights).loss(logits, target)
    assert float(found) == pytest.approx(by_hand(logits, target, weights), abs=1e-12)


def test_what_is_not_known_has_no_gradient_whatever_it_says():
    logits, target = drawn(1)
    logits.requires_grad_()
    MultiLabelTask(NAMES).loss(logits, target).backward()
    np.testing.assert_array_equal(logits.grad.numpy() != 0, target.known)
    logits = logits.detach()
    other = LabelsTarget(target.positive ^ ~target.known, target.known, NAMES)
    task = MultiLabelTask(NAMES)
    assert float(task.loss(logits, other)) == float(task.loss(logits, target))
    assert task.score(task.predict(logits), other) == task.score(task.predict(logits), target)


def test_nothing_known_is_no_loss_and_no_nan():
    logits = torch.zeros(2, 3, requires_grad=True)
    nothing = LabelsTarget(np.zeros((2, 3), bool), np.zeros((2, 3), bool), NAMES)
    loss = MultiLabelTask(NAMES).loss(logits, nothing)
    loss.backward()
    assert (float(loss.detach()), logits.grad.abs().max()) == (0, 0)


def test_the_score_is_the_mean_over_labels_of_those_who_have_it_known():
    logits, target = drawn(2)
    task = MultiLabelTask(NAMES)
    prediction = task.predict(logits)
    np.testing.assert_allclose(prediction, 1 / (1 + np.exp(-logits.numpy())))
    each = [roc_auc_score(target.positive[target.known[:, j], j], prediction[target.known[:, j], j]) for j in range(3)]
    assert task.score(prediction, target) == pytest.approx(np.mean(each))
    known = target.known.copy()
    known[target.positive[:, 1], 1] = False
    with pytest.raises(UndefinedMetricError, match="label 'b'"):
        task.score(prediction, LabelsTarget(target.positive, known, NAMES))
