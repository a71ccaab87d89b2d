"""Aggregators with loss terms, logits or draws of their own, in the loop: they learn, and a step may be split."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wsikit.cohort.endpoints import ClassLabel, ClassTarget, Survival, SurvivalTarget
from wsikit.metrics.auc import roc_auc
from wsikit.training.fit import fit, predict
from wsikit.training.settings import ModelSettings, TrainingSettings

LABEL = ClassLabel("label", ("0", "1"))
SURVIVAL = Survival(time="time", event="event", unit="months")
TRAIN, VALIDATION, TEST = np.arange(40), np.arange(40, 50), np.arange(50, 90)
SMALL = {"embed_dim": 16, "attention_dim": 8}
MODELS = {
    "acmil": SMALL,
    "additive": SMALL,
    "clam-mb": SMALL | {"dropout": 0.0},  # dropout falls otherwise on a step in parts than on a whole one
    "clam-sb": SMALL,
    "dsmil": {"query_dim": 8},
    "dtfd": SMALL,
    "lse": {"embed_dim": 16},
    "quantile": {"embed_dim": 16},
    "topk": {"embed_dim": 16, "k": 2},
}


@pytest.fixture(scope="module")
def rare(write_bags, toy_draw):
    """90 patients; of the 8 to 20 tiles of each odd one, a single one is planted."""
    features, label = toy_draw(3, patients=90)
    return write_bags(features), ClassTarget(np.asarray(label, np.int64), ("0", "1"))


def settings(name: str, **training):
    return {
        "model": ModelSettings(aggregator=name, options=MODELS[name]),
        "training": TrainingSettings(**{"device": "cpu", "learning_rate": 1e-2, "tile_dropout": 0.0} | training),
    }


@pytest.mark.parametrize("name", MODELS)
def test_a_label_that_hangs_on_one_tile_is_learnt(rare, name):
    bags, target = rare
    found = fit(bags, LABEL, target, train=TRAIN, validation=VALIDATION, **settings(name, epochs=15))
    prediction, _ = predict(found.model, found.task, bags, TEST)
    assert roc_auc(prediction[:, 1], target.label[TEST] == 1) > 0.85


@pytest.mark.parametrize("name", ["acmil", "clam-mb", "dsmil", "dtfd", "quantile"])
@pytest.mark.parametrize("endpoint", ["class", "survival"])
def test_a_step_in_parts_is_the_step_at_once(rare, name, endpoint):
    bags, target = rare
    of = (LABEL, target)
    if endpoint == "survival":
        time = np.random.default_rng(0).exponential(np.where(target.label == 1, 5.0, 30.0)).round(1) + 0.1
        of = (SURVIVAL, SurvivalTarget(time, np.ones(90, bool), "months"))
    chosen = settings(name, epochs=2, precision="64-true", batch_patients=13)
    ends = []
    for most in (100_000, 40):
        training = chosen["training"].model_copy(update={"max_step_tiles": most})
        found = fit(bags, *of, train=TRAIN, validation=VALIDATION, model=chosen["model"], training=training)
        ends.append({key: value.clone() for key, value in found.model.state_dict().items()})
    for key, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][key], atol=1e-6, rtol=0, msg=key)
