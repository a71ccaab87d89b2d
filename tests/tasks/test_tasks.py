"""Each task: a loss that is the textbook's, predictions that mean what their columns say, a score that ranks."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from wsikit.cohort.endpoints import (
    ClassLabel,
    ClassTarget,
    Continuous,
    ContinuousTarget,
    Ordinal,
    Survival,
    SurvivalTarget,
)
from wsikit.cohort.several_labels import Labels, LabelsTarget
from wsikit.metrics.undefined import UndefinedMetricError
from wsikit.tasks.task import create_task

RNG = np.random.default_rng(0)
P = 30
TWO = ClassTarget(np.arange(P) % 2, ("no", "yes"))
THREE = ClassTarget(np.arange(P) % 3, ("a", "b", "c"))
TIMES = SurvivalTarget(RNG.exponential(10, P).round() + 1, RNG.random(P) < 0.6, "months")
NUMBERS = ContinuousTarget(RNG.normal(50, 12, P))
GRADES = ClassTarget(np.arange(P) % 3, ("I", "II", "III"), ordered=True)
LABELS = LabelsTarget(RNG.random((P, 3)) < 0.4, RNG.random((P, 3)) < 0.8, ("er", "pr", "her2"))
CASES = {
    "two": (ClassLabel("y", TWO.classes), TWO),
    "three": (ClassLabel("y", THREE.classes), THREE),
    "survival": (Survival(time="t", event="e", unit="months"), TIMES),
    "number": (Continuous("v"), NUMBERS),
    "grades": (Ordinal("g", GRADES.classes), GRADES),
    "labels": (Labels(LABELS.names), LABELS),
    "binned": (Continuous("v", bins=12), NUMBERS),
}


def outputs_of(task, dtype=torch.float32, seed=0):
    return torch.randn(P, task.outputs, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.fixture(params=CASES)
def case(request):
    endpoint, target = CASES[request.param]
    return create_task(endpoint, target), endpoint, target


def test_a_task_is_rebuilt_from_its_state(case):
    task, endpoint, target = case
    again = create_task(endpoint, state=json.loads(json.dumps(task.state())))
    outputs = outputs_of(task)
    np.testing.assert_array_equal(again.predict(outputs), task.predict(outputs))
    assert float(again.loss(outputs, target)) == float(task.loss(outputs, target))
    assert (again.columns, again.metric, again.outputs) == (task.columns, task.metric, task.outputs)


def test_predictions_have_a_column_for_each_name(case):
    task, _, _ = case
    prediction = task.predict(outputs_of(task))
    assert prediction.shape == (P, len(task.columns))
    assert prediction.dtype == np.float64


def test_loss_has_a_gradient_and_its_step_goes_down(case):
    task, _, target = case
    outputs = outputs_of(task).requires_grad_()
    loss = task.loss(outputs, target)
    loss.backward()
    assert outputs.grad.abs().max() > 0
    assert task.loss(outputs.detach() - 0.1 * outputs.grad, target) < loss


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_widened_before_the_loss_and_float64_is_kept(case, dtype):
    task, _, target = case
    half = outputs_of(task, dtype)
    assert task.loss(half, target).dtype == torch.float32
    assert float(task.loss(half, target)) == pytest.approx(float(task.loss(half.double(), target)), rel=1e-5)
    assert task.loss(half.double(), target).dtype == torch.float64


def test_loss_does_not_depend_on_the_order_of_patients(case):
    task, _, target = case
    outputs, order = outputs_of(task, torch.float64), np.random.default_rng(1).permutation(P)
    turned = task.loss(outputs[torch.as_tensor(order)], target.take(order))
    assert float(turned) == pytest.approx(float(task.loss(outputs, target)), rel=1e-12)


def test_loss_of_equal_outputs_is_that_of_knowing_nothing():
    assert float(create_task(*CASES["two"]).loss(torch.zeros(P, 2), TWO)) == pytest.approx(math.log(2))
    assert float(create_task(*CASES["three"]).loss(torch.zeros(P, 3), THREE)) == pytest.approx(math.log(3))
    assert float(create_task(*CASES["number"]).loss(torch.zeros(P, 1), NUMBERS)) == pytest.approx(1, rel=1e-5)


def test_probabilities_are_the_softmax_and_named_in_the_endpoints_order():
    task = create_task(*CASES["three"])
    assert task.columns == ("probability_a", "probability_b", "probability_c")
    outputs = outputs_of(task)
    prediction = task.predict(outputs)
    np.testing.assert_allclose(prediction.sum(1), 1, rtol=1e-12)
    odds = np.exp(outputs.double().numpy())
    np.testing.assert_allclose(prediction, odds / odds.sum(1, keepdims=True), rtol=1e-9)
    assert np.isfinite(task.predict(torch.tensor([[1e4, 0.0, -1e4]]))).all()


def test_scores_are_those_of_the_reference_libraries():
    task = create_task(*CASES["two"])
    prediction = task.predict(outputs_of(task))
    assert task.score(prediction, TWO) == pytest.approx(roc_auc_score(TWO.label, prediction[:, 1]))
    task = create_task(*CASES["three"])
    prediction = task.predict(outputs_of(task))
    assert task.score(prediction, THREE) == pytest.approx(
        roc_auc_score(THREE.label, prediction, multi_class="ovr", average="macro")
    )
    task = create_task(*CASES["number"])
    prediction = task.predict(outputs_of(task))
    assert task.score(prediction, NUMBERS) == pytest.approx(spearmanr(prediction[:, 0], NUMBERS.value).statistic)


def test_survival_scores_and_loss_agree_that_higher_is_worse():
    from lifelines.utils import concordance_index

    task = create_task(*CASES["survival"])
    # Of two at the same time, who has the event lives shorter than who is lost.
    early = torch.as_tensor(0.1 * TIMES.event - TIMES.time)[:, None] / 5
    assert task.score(task.predict(early), TIMES) == 1
    assert task.score(task.predict(-early), TIMES) == 0
    assert task.loss(early, TIMES) < task.loss(0 * early, TIMES) < task.loss(-early, TIMES)
    # lifelines wants higher = lives longer
    some = task.predict(outputs_of(task))
    assert task.score(some, TIMES) == pytest.approx(concordance_index(TIMES.time, -some[:, 0], TIMES.event))


def test_only_survival_needs_the_whole_cohort_in_a_step():
    needs = {name: create_task(*case).whole_cohort for name, case in CASES.items()}
    assert {name for name, whole in needs.items() if whole} == {"survival"}


def test_only_classes_are_handed_to_an_aggregators_own_loss():
    for name, (endpoint, target) in CASES.items():
        own = create_task(endpoint, target).own_target(target)
        if isinstance(target, ClassTarget) and not target.ordered:
            assert own.tolist() == target.label.tolist()
        else:
            assert own is None, name


def test_groups_limit_who_is_compared(case):
    task, _, target = case
    if task.metric == "quadratic kappa":
        pytest.skip("it compares a patient with its own grade, and with no other patient")
    prediction = task.predict(outputs_of(task))
    groups = np.arange(P) // 10
    shifted = prediction + 1000 * groups[:, None]  # other intercepts in other groups
    assert task.score(shifted, target, groups) == pytest.approx(task.score(prediction, target, groups))
    assert task.score(shifted, target) != pytest.approx(task.score(prediction, target), abs=1e-3)


def test_a_number_is_predicted_in_its_own_unit():
    task = create_task(*CASES["number"])
    assert task.state() == {"mean": NUMBERS.value.mean(), "std": NUMBERS.value.std()}
    np.testing.assert_allclose(task.predict(torch.zeros(2, 1)), NUMBERS.value.mean())
    exact = torch.as_tensor((NUMBERS.value - NUMBERS.value.mean()) / NUMBERS.value.std())[:, None]
    np.testing.assert_allclose(task.predict(exact)[:, 0], NUMBERS.value, rtol=1e-12)
    assert float(task.loss(exact, NUMBERS)) == pytest.approx(0, abs=1e-20)


def test_a_number_that_never_changes_can_be_trained_on():
    flat = ContinuousTarget(np.full(5, 3.0))
    task = create_task(Continuous("v"), flat)
    assert task.state() == {"mean": 3.0, "std": 1.0}
    assert float(task.loss(torch.zeros(5, 1), flat)) == 0


def test_a_score_that_is_not_defined_is_an_error_and_not_a_number():
    for name, target in {
        "two": ClassTarget(np.ones(4, np.int64), TWO.classes),
        "survival": SurvivalTarget(np.ones(4), np.ones(4, bool), "months"),
    }.items():
        task = create_task(*CASES[name])
        with pytest.raises(UndefinedMetricError):
            task.score(np.random.default_rng(0).random((4, len(task.columns))), target)
