"""Rare classes weigh as much as frequent ones, by what the training patients are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wsikit.cohort.endpoints import ClassLabel, ClassTarget, Continuous, ContinuousTarget, Survival, SurvivalTarget
from wsikit.cohort.several_labels import Labels, LabelsTarget
from wsikit.errors import ConfigError
from wsikit.tasks.balance import class_weights, label_weights, sampling_weights
from wsikit.tasks.task import create_task

RARE = ClassTarget(np.array([0] * 16 + [1] * 3 + [2]), ("a", "b", "c"))
SOME = LabelsTarget(
    np.array([[1, 0], [0, 1], [0, 0], [0, 1], [0, 1]], bool), np.array([[1, 1], [1, 1], [1, 0], [1, 1], [1, 1]], bool),
    ("er", "pr"),
)  # fmt: skip
TIMES = SurvivalTarget(np.arange(1.0, 6), np.ones(5, bool), "days")


def test_every_class_weighs_the_same_and_patients_one_in_the_mean():
    weights = class_weights(RARE)
    np.testing.assert_allclose(weights * [16, 3, 1], 20 / 3)
    assert weights[RARE.label].mean() == pytest.approx(1)
    np.testing.assert_allclose(class_weights(ClassTarget(np.array([0, 0, 2]), ("a", "b", "c"))), [0.75, 0, 1.5])
    np.testing.assert_allclose(label_weights(SOME), [[5 / 8, 5 / 2], [4 / 2, 4 / 6]])  # of 4 who have pr known


def test_sampling_draws_every_class_equally_often():
    share = sampling_weights(RARE)
    assert share.sum() == pytest.approx(1)
    np.testing.assert_allclose([share[RARE.label == c].sum() for c in range(3)], 1 / 3)


def test_weights_of_the_loss_are_the_training_patients_and_kept():
    endpoint = ClassLabel("y", RARE.classes)
    task = create_task(endpoint, RARE, balance="loss")
    plain = create_task(endpoint, RARE)
    logits = torch.as_tensor(np.random.default_rng(0).normal(size=(20, 3)))
    each = torch.nn.functional.cross_entropy(logits, torch.as_tensor(RARE.label), reduction="none").numpy()
    assert float(task.loss(logits, RARE)) == pytest.approx((each * class_weights(RARE)[RARE.label]).mean(), abs=1e-12)
    assert float(plain.loss(logits, RARE)) == pytest.approx(each.mean(), abs=1e-12)
    one = RARE.take(np.array([19]))  # a batch of one rare patient weighs what the patient weighs
    assert float(task.loss(logits[19:], one)) == pytest.approx(20 / 3 * each[19], abs=1e-12)
    again = create_task(endpoint, state=task.state())
    assert float(again.loss(logits, RARE)) == float(task.loss(logits, RARE))
    labels = create_task(Labels(SOME.names), SOME, balance="loss")
    again = create_task(Labels(SOME.names), state=labels.state())
    some = torch.as_tensor(np.random.default_rng(0).normal(size=(5, 2)))
    assert (
        float(again.loss(some, SOME))
        == float(labels.loss(some, SOME))
        != float(create_task(Labels(SOME.names), SOME).loss(some, SOME))
    )


@pytest.mark.parametrize(
    ("endpoint", "target", "balance", "words"),
    [
        (Survival(time="t", event="e", unit="days"), TIMES, "loss", "no class; use balance=none"),
        (Continuous("v"), ContinuousTarget(np.arange(5.0)), "sampling", "no class; use balance=none"),
        (Labels(SOME.names), SOME, "sampling", "several labels; use balance=loss"),
    ],
)
def test_a_balance_that_the_outcome_cannot_have_is_refused(endpoint, target, balance, words):
    with pytest.raises(ConfigError, match=words):
        create_task(endpoint, target, balance=balance)
