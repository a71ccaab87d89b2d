"""One aggregator learns several outcomes, each from a signal of its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wsikit.cohort.endpoints import ClassLabel, endpoint_from
from wsikit.errors import ConfigError
from wsikit.metrics.auc import roc_auc
from wsikit.training.bundle import Bundle, load_bundle, save_bundle
from wsikit.training.fit import fit, predict
from wsikit.training.settings import ModelSettings, TrainingSettings

PATIENTS = 64
TRAIN, VALIDATION, TEST = np.arange(40), np.arange(40, 46), np.arange(46, PATIENTS)
MODEL = ModelSettings(options={"embed_dim": 16, "attention_dim": 8, "dropout": 0.0})
OUTCOMES = {
    "kind": {"kind": "class", "column": "a", "classes": ["0", "1"]},
    "grade": {"kind": "class", "column": "b", "classes": ["0", "1"]},
    "life": {"kind": "survival", "time": "t", "event": "e", "unit": "months"},
}


@pytest.fixture(scope="module")
def planted(write_bags):
    """Bags and rows of a table: tiles of three kinds, of which each decides an outcome; some are not known."""
    rng = np.random.default_rng(7)
    signs = rng.permuted(np.tile([0, 1], (3, PATIENTS // 2)), axis=1)  # (3, P)
    features, rows = [], []
    for i in range(PATIENTS):
        x = rng.normal(size=(rng.integers(8, 16), 6))
        for outcome in range(3):
            if signs[outcome, i]:
                x[rng.integers(len(x), size=3), 2 * outcome] += 5
        features.append(x)
        time = rng.exponential(np.exp(3 - 2 * signs[2, i])) + 0.1
        row = {
            "a": str(signs[0, i]),
            "b": str(signs[1, i]),
            "t": f"{time:.3f}",
            "e": "1" if rng.random() < 0.8 else "0",
        }
        rows.append(row | ({"b": ""} if i % 3 == 0 else {}) | ({"t": ""} if i % 4 == 1 else {}))
    return write_bags(features), rows, signs


def learn(bags, rows, names, *, train=TRAIN, endpoint=None, **changes):
    several = {"kind": "several", "outcomes": {name: OUTCOMES[name] for name in names}}
    endpoint = endpoint or endpoint_from(several | {k: changes.pop(k) for k in ("weighting",) if k in changes})
    target = endpoint.parse(rows, [f"p{i}" for i in range(PATIENTS)])
    settings = {"epochs": 40, "device": "cpu", "tile_dropout": 0.0, "learning_rate": 0.01}
    found = fit(
        bags, endpoint, target, train=train, validation=VALIDATION, model=MODEL,
        training=TrainingSettings(**settings | changes),
    )  # fmt: skip
    return found, endpoint, target


@pytest.mark.parametrize("weighting", ["fixed", "uncertainty"])
def test_each_outcome_is_learnt_from_its_own_signal(planted, weighting, tmp_path):
    bags, rows, signs = planted
    found, endpoint, _ = learn(bags, rows, OUTCOMES, weighting=weighting, epochs=120)
    said, _ = predict(found.model, found.task, bags, TEST)
    assert found.task.columns == (
        "kind_probability_0", "kind_probability_1", "grade_probability_0", "grade_probability_1", "life_log_risk"
    )  # fmt: skip
    for column, outcome in ((1, 0), (3, 1), (4, 2)):
        own = [roc_auc(said[:, column], signs[other, TEST] == 1) for other in range(3)]
        assert own[outcome] > 0.8, (column, own)
        assert own[outcome] > max(value for other, value in enumerate(own) if other != outcome) + 0.15, (column, own)
    again = load_bundle(save_bundle(Bundle(found.model, found.task, endpoint, facts()), tmp_path / "model"))
    np.testing.assert_array_equal(predict(again.model, again.task, bags, TEST)[0], said)
    assert again.endpoint == endpoint
    if weighting == "uncertainty":
        assert (again.model.free.abs() > 0.01).all()


def facts():
    return {"aggregator": {"name": "abmil", "options": MODEL.options}, "in_dim": 6, "encoder": {"key": "toy-0000"}}


def test_an_outcome_that_weighs_nothing_changes_nothing(planted):
    """The first outcome's loss and gradients, beside another, are those of a training with it alone."""
    bags, rows, _ = planted
    settings = {"epochs": 5, "precision": "64-true", "clip": 1e6}
    alone, _, _ = learn(bags, rows, (), endpoint=ClassLabel("a", ("0", "1")), **settings)
    tiny = {"kind": OUTCOMES["kind"], "grade": OUTCOMES["grade"] | {"weight": 1e-30}}
    both, _, _ = learn(bags, rows, (), endpoint=endpoint_from({"kind": "several", "outcomes": tiny}), **settings)
    for name, value in alone.model.aggregator.state_dict().items():
        torch.testing.assert_close(both.model.aggregator.state_dict()[name], value, rtol=1e-9, atol=1e-12)
    for one, other in zip(alone.history, both.history, strict=True):
        assert other.train_loss == pytest.approx(one.train_loss, rel=1e-9)
        assert other.validation_loss == pytest.approx(one.validation_loss, rel=1e-9)


def test_training_without_anybody_who_has_an_outcome_is_refused_by_name(planted):
    bags, rows, _ = planted
    without = np.array([i for i in TRAIN if not rows[i]["b"]])
    words = "training: none of 14 training patients has outcome 'grade' known: it cannot be learnt there"
    with pytest.raises(ConfigError, match=words):
        learn(bags, rows, OUTCOMES, train=without)
    with pytest.raises(ConfigError, match="the endpoint is several outcomes; use balance=loss"):
        learn(bags, rows, OUTCOMES, balance="sampling")
