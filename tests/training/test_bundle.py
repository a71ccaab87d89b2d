"""A bundle predicts what the model predicted, bit for bit, and anything else is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from wsikit.cohort.endpoints import ClassLabel, ClassTarget, Continuous, ContinuousTarget, Survival, SurvivalTarget
from wsikit.errors import ConfigError
from wsikit.training.bundle import Bundle, load_bundle, save_bundle
from wsikit.training.fit import fit, predict
from wsikit.training.settings import ModelSettings, TrainingSettings

ALL = np.arange(40)


def train(toy, kind, **training):
    bags, label = toy
    rng = np.random.default_rng(0)
    endpoint, target = {
        "class": (ClassLabel("grade", ("low", "high")), ClassTarget(label, ("low", "high"))),
        "survival": (
            Survival(time="t", censored="c", unit="weeks"),
            SurvivalTarget(rng.exponential(5, 40) + 0.1, rng.random(40) < 0.7, "weeks"),
        ),
        "number": (Continuous("age"), ContinuousTarget(60 + 10 * label + rng.normal(size=40))),
    }[kind]
    model = ModelSettings(aggregator="abmil", options={"embed_dim": 8, "attention_dim": 4, "heads": 2})
    found = fit(
        bags, endpoint, target, train=np.arange(24), validation=np.arange(24, 32),
        model=model, training=TrainingSettings(**({"epochs": 2, "device": "cpu"} | training)),
    )  # fmt: skip
    facts = {
        "aggregator": {"name": model.aggregator, "options": model.options},
        "in_dim": 6,
        "encoder": {"key": "toy-0000"},
        "thresholds": {"probability": 0.25},
    }
    return found, Bundle(found.model, found.task, endpoint, facts)


@pytest.mark.parametrize("kind", ["class", "survival", "number"])
@pytest.mark.parametrize("training", [{"scaling": "whiten"}, {"scaling": "none"}, {"precision": "64-true"}])
def test_a_bundle_predicts_the_same_bits(toy, tmp_path, kind, training):
    found, bundle = train(toy, kind, **training)
    path = save_bundle(bundle, tmp_path / "models" / "a.safetensors")
    loaded = load_bundle(path)
    before, attention = predict(found.model, found.task, toy[0], ALL, with_attention=True)
    after, again = predict(loaded.model, loaded.task, toy[0], ALL, with_attention=True)
    np.testing.assert_array_equal(after, before)
    for one, other in zip(attention, again, strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(np.unique(before)) > 10  # predictions that could differ
    assert loaded.endpoint == bundle.endpoint
    assert loaded.task.state() == bundle.task.state()
    assert loaded.task.columns == bundle.task.columns
    assert not loaded.model.training
    assert {k: loaded.facts[k] for k in bundle.facts} == bundle.facts


def test_saving_again_replaces_the_whole_file(toy, tmp_path):
    _, bundle = train(toy, "class")
    path = save_bundle(bundle, tmp_path / "a.safetensors")
    first = path.read_bytes()
    save_bundle(load_bundle(path), path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]  # nothing half-written is left
    with safe_open(path, framework="pt") as file:
        facts = json.loads(file.metadata()["wsikit"])
    assert facts["thresholds"] == {"probability": 0.25}
    assert len(path.read_bytes()) == len(first)


def test_facts_that_json_cannot_hold_are_refused_and_nothing_is_replaced(toy, tmp_path):
    _, bundle = train(toy, "class")
    path = save_bundle(bundle, tmp_path / "a.safetensors")
    before = path.read_bytes()
    bad = Bundle(bundle.model, bundle.task, bundle.endpoint, dict(bundle.facts) | {"thresholds": {"p": float("nan")}})
    with pytest.raises(ValueError, match="JSON"):
        save_bundle(bad, path)
    assert path.read_bytes() == before


def test_what_is_no_bundle_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"no model .*none.safetensors: expected a .safetensors bundle"):
        load_bundle(tmp_path / "none.safetensors")
    (tmp_path / "noise.safetensors").write_bytes(b"not weights at all" * 10)
    (tmp_path / "empty.safetensors").write_bytes(b"")
    for name in ("noise", "empty"):
        with pytest.raises(ConfigError, match=f"{name}.safetensors: not a model bundle"):
            load_bundle(tmp_path / f"{name}.safetensors")
    for name, metadata in (("bare", None), ("other", {"wsikit": json.dumps({"format": "else"})})):
        save_file({"x": torch.zeros(2)}, tmp_path / f"{name}.safetensors", metadata=metadata)
        with pytest.raises(ConfigError, match=f"{name}.safetensors: weights without wsikit's facts"):
            load_bundle(tmp_path / f"{name}.safetensors")


def test_a_cut_short_bundle_is_refused(toy, tmp_path):
    _, bundle = train(toy, "class")
    path = save_bundle(bundle, tmp_path / "a.safetensors")
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ConfigError, match="not a model bundle"):
        load_bundle(path)


def test_a_later_version_is_refused(tmp_path):
    facts = {"wsikit": json.dumps({"format": "wsikit-bundle", "version": "3"})}
    save_file({"x": torch.zeros(2)}, tmp_path / "new.safetensors", metadata=facts)
    with pytest.raises(ConfigError, match="bundle version 3, this wsikit reads 1 and 2; update wsikit"):
        load_bundle(tmp_path / "new.safetensors")
