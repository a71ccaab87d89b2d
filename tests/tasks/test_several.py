"""Several outcomes: the sum that was promised, no gradient where an outcome is not known, and refusals by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wsikit.cohort.endpoints import endpoint_from, endpoint_settings
from wsikit.errors import ConfigError
from wsikit.tasks.task import create_task

OUTCOMES = {
    "kind": {"kind": "class", "column": "a", "classes": ["x", "y", "z"]},
    "grade": {"kind": "ordinal", "column": "g", "classes": ["1", "2", "3"], "weight": 0.5},
    "size": {"kind": "continuous", "column": "n"},
    "life": {"kind": "survival", "time": "t", "event": "e", "unit": "months", "weight": 2},
}
ROWS = [
    {"a": "x", "g": "1", "n": "3", "t": "5", "e": "1"},
    {"a": "", "g": "3", "n": "", "t": "7", "e": "0"},
    {"a": "z", "g": "", "n": "4.5", "t": "", "e": ""},
    {"a": "y", "g": "2", "n": "-1", "t": "2", "e": ""},
    {"a": "", "g": "", "n": "8", "t": "9", "e": "1"},
    {"a": "x", "g": "2", "n": "", "t": "3", "e": "1"},
]


def several(**changes):
    endpoint = endpoint_from({"kind": "several", "outcomes": OUTCOMES} | changes)
    return endpoint, endpoint.parse(ROWS, [f"p{i}" for i in range(len(ROWS))])


def single(name):
    """The outcome alone, of those who have it."""
    own = {key: value for key, value in OUTCOMES[name].items() if key != "weight"}
    endpoint = endpoint_from(own)
    known = [i for i, row in enumerate(ROWS) if all(row[column] for column in endpoint.columns)]
    target = endpoint.parse([ROWS[i] for i in known], [f"p{i}" for i in known])
    return create_task(endpoint, target), target, known


def columns():
    """Which outputs are whose."""
    starts = np.cumsum([0] + [single(name)[0].outputs for name in OUTCOMES])
    return {name: slice(a, b) for name, a, b in zip(OUTCOMES, starts[:-1], starts[1:], strict=True)}


def test_all_patients_at_once_it_is_the_weighted_sum_of_the_outcomes_own_losses():
    endpoint, target = several()
    task = create_task(endpoint, target)
    outputs = torch.randn(6, task.outputs, dtype=torch.float64, generator=torch.manual_seed(0), requires_grad=True)
    expected = torch.zeros((), dtype=torch.float64)
    for name, mine in columns().items():
        own, alone, known = single(name)
        expected = expected + OUTCOMES[name].get("weight", 1) * own.loss(outputs[known, mine], alone)
    torch.testing.assert_close(task.loss(outputs, target), expected)


def test_over_the_steps_of_an_epoch_a_patient_counts_the_same_whoever_else_is_there():
    """Steps of 4 and 2 patients: their losses, weighed by their patients, are the mean over all who have it known."""
    names = {name: OUTCOMES[name] for name in ("kind", "size")}
    endpoint = endpoint_from({"kind": "several", "outcomes": names})
    target = endpoint.parse(ROWS, list("abcdef"))
    task = create_task(endpoint, target)
    outputs = torch.randn(6, task.outputs, dtype=torch.float64, generator=torch.manual_seed(1))
    parts = [np.arange(4), np.arange(4, 6)]
    steps = sum(task.loss(outputs[rows], target.take(rows)) * len(rows) / 6 for rows in parts)
    torch.testing.assert_close(steps, task.loss(outputs, target))


@pytest.mark.parametrize("weighting", ["fixed", "uncertainty"])
def test_an_outcome_that_is_not_known_has_exactly_no_gradient(weighting):
    endpoint, target = several(weighting=weighting)
    task = create_task(endpoint, target)
    outputs = torch.randn(6, task.outputs + task.free, generator=torch.manual_seed(2), requires_grad=True)
    task.loss(outputs, target).backward()
    for name, mine in columns().items():
        _, _, known = single(name)
        unknown = sorted(set(range(6)) - set(known))
        assert unknown
        assert outputs.grad[unknown, mine].eq(0).all()
        assert outputs.grad[known, mine].ne(0).any()
    few = np.array([2, 3])  # nobody among them has an event: life is without a loss, and so is its learnt weight
    part = outputs.detach()[few].requires_grad_()
    task.loss(part, target.take(few)).backward()
    assert part.grad[:, columns()["life"]].eq(0).all()
    assert part.grad[:, columns()["kind"]].ne(0).all()
    if weighting == "uncertainty":
        assert part.grad[:, task.outputs :].ne(0).any(0).tolist() == [True, True, True, False]


def test_learnt_weights_are_best_where_kendall_says():
    """Of exp(-u) L + u / 2 the least is at u = log 2 L; of a squared error, exp(-u) L / 2 + u / 2, at log L."""
    endpoint, target = several(weighting="uncertainty")
    task = create_task(endpoint, target)
    outputs = torch.randn(6, task.outputs, dtype=torch.float64, generator=torch.manual_seed(3))
    best = []
    for name, mine in columns().items():
        own, alone, known = single(name)
        best.append(own.loss(outputs[known, mine], alone) * (1 if name == "size" else 2))
    free = torch.stack(best).log().requires_grad_()
    task.loss(torch.cat([outputs, free.expand(6, -1)], 1), target).backward()
    torch.testing.assert_close(free.grad, torch.zeros(4, dtype=torch.float64), atol=1e-12, rtol=0)
    off = (free.detach() + 0.5).requires_grad_()
    task.loss(torch.cat([outputs, off.expand(6, -1)], 1), target).backward()
    assert (off.grad > 0).all()


def test_predictions_scores_and_state_are_the_outcomes_own():
    endpoint, target = several()
    task = create_task(endpoint, target)
    outputs = torch.randn(6, task.outputs, generator=torch.manual_seed(4))
    prediction, scores = task.predict(outputs), []
    assert task.columns[:3] == ("kind_probability_x", "kind_probability_y", "kind_probability_z")
    assert task.columns[-2:] == ("size_predicted", "life_log_risk")
    for number, (name, mine) in enumerate(columns().items()):
        own, alone, known = single(name)
        np.testing.assert_array_equal(prediction[:, task.columns_of[number]], own.predict(outputs[:, mine]))
        scores.append(own.score(own.predict(outputs[known, mine]), alone))
    assert task.score(prediction, target) == pytest.approx(np.mean(scores))
    again = create_task(endpoint_from(endpoint_settings(endpoint)), state=task.state())
    assert again.state() == task.state()
    np.testing.assert_array_equal(again.predict(outputs), prediction)
    assert again.weights == (1, 0.5, 1, 2)


def test_some_patients_are_taken_with_what_they_have():
    _, target = several()
    rows = np.array([5, 2, 0])
    took = target.take(rows)
    assert [part.known.tolist() for part in took.parts] == [
        [True, True, True], [True, False, True], [False, True, True], [True, False, True],
    ]  # fmt: skip
    assert took.parts[0].target.label.tolist() == [0, 2, 0]
    assert took.parts[2].target.value.tolist() == [4.5, 3]
    assert took.parts[3].target.time.tolist() == [3, 5]
    assert target.take(np.array([], np.int64)).codes(np.array([], np.int64)).tolist() == []


@pytest.mark.parametrize(("changes", "words"), [
    ({"outcomes": {"one": OUTCOMES["kind"]}}, "expected two or more names"),
    ({"outcomes": OUTCOMES | {"a/b": OUTCOMES["kind"]}}, "outcome 'a/b': expected a name of letters"),
    ({"outcomes": OUTCOMES | {"kind": {"kind": "class", "column": "a"}}}, "outcome 'kind': .*classes missing"),
    ({"outcomes": OUTCOMES | {"kind": OUTCOMES["kind"] | {"weight": 0}}}, "weight is 0, expected a number above 0"),
    ({"outcomes": OUTCOMES | {"deep": {"kind": "several"}}}, "outcome 'deep' is .*expected an endpoint of one outcome"),
    ({"stratify": "gade"}, "stratify is 'gade', expected one of .*did you mean 'grade'"),
    ({"weighting": "learnt"}, "weighting is 'learnt', expected one of \\['fixed', 'uncertainty'\\]"),
    ({"weights": [1, 2]}, "no setting 'weights'; did you mean 'weighting'"),
])  # fmt: skip
def test_settings_that_cannot_be_are_named(changes, words):
    with pytest.raises(ConfigError, match=words):
        several(**changes)


def test_an_outcome_that_nobody_has_is_named():
    endpoint, _ = several()
    rows = [row | {"t": ""} for row in ROWS]
    with pytest.raises(ConfigError, match="outcome 'life': none of 6 patients has it; fill in t, e"):
        endpoint.parse(rows, list("abcdef"))
