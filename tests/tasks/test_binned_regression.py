"""Soft labels are normal distributions in bins, and their mean is the value."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm

from wsikit.cohort.endpoints import ContinuousTarget
from wsikit.tasks.binned_regression import BinnedRegressionTask

VALUES = np.random.default_rng(0).normal(60, 12, 40)
TASK = BinnedRegressionTask.fitted(20, VALUES)
WIDTH = (TASK.last - TASK.first) / 19


def test_a_soft_label_is_the_normal_density_integrated_over_each_bin():
    value = float(np.median(VALUES))
    edges = TASK.centres[:, None] + [[-WIDTH / 2, WIDTH / 2]]
    by_hand = np.array([quad(norm(value, 0.75 * WIDTH).pdf, *edge)[0] for edge in edges.tolist()])
    np.testing.assert_allclose(TASK.soft_labels(np.array([value]))[0], by_hand / by_hand.sum(), atol=1e-9)


def test_the_mean_of_a_soft_label_is_the_value_also_at_the_extremes():
    labels = TASK.soft_labels(VALUES)
    np.testing.assert_allclose(labels.sum(1), 1, rtol=1e-12)
    np.testing.assert_allclose(labels @ TASK.centres, VALUES, atol=0.01 * WIDTH)
    found = TASK.predict(torch.as_tensor(np.log(labels + 1e-300)))
    np.testing.assert_allclose(found[:, 0], labels @ TASK.centres, rtol=1e-9)


def test_the_loss_is_cross_entropy_less_what_cannot_be_gained():
    logits = torch.as_tensor(np.random.default_rng(1).normal(size=(40, 20)))
    labels = TASK.soft_labels(VALUES)
    log_share = logits.log_softmax(1).numpy()
    entropy = -np.sum(labels * np.log(np.where(labels > 0, labels, 1)), 1)
    by_hand = np.mean(-np.sum(labels * log_share, 1) - entropy)
    assert float(TASK.loss(logits, ContinuousTarget(VALUES))) == pytest.approx(by_hand, abs=1e-12)
    perfect = torch.as_tensor(np.log(labels + 1e-300))
    assert float(TASK.loss(perfect, ContinuousTarget(VALUES))) == pytest.approx(0, abs=1e-9)


def test_bins_are_those_of_the_training_patients_and_others_are_held_inside():
    assert TASK.state() == {"first": VALUES.min() - 2 * WIDTH, "last": pytest.approx(VALUES.max() + 2 * WIDTH)}
    beyond = TASK.soft_labels(np.array([-1e6, 1e6]))
    np.testing.assert_allclose(beyond, TASK.soft_labels(np.array([VALUES.min(), VALUES.max()])), atol=1e-12)


def test_values_that_are_all_the_same_can_be_trained_on():
    flat = BinnedRegressionTask.fitted(8, np.full(5, 3.0))
    labels = flat.soft_labels(np.full(5, 3.0))
    np.testing.assert_allclose(labels @ flat.centres, 3.0)
