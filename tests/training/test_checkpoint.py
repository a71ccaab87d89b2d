"""A training that was interrupted ends with the bits of one that was not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors import safe_open

from wsikit.cohort.endpoints import ClassLabel, ClassTarget, Survival, SurvivalTarget
from wsikit.errors import ConfigError
from wsikit.training.fit import fit
from wsikit.training.settings import ModelSettings, TrainingSettings

TRAIN, VALIDATION = np.arange(24), np.arange(24, 32)
MODEL = ModelSettings(aggregator="abmil", options={"embed_dim": 16, "attention_dim": 8, "dropout": 0.25})


class Killed(Exception):
    """Stands for the end of the process."""


def outcome(kind, label):
    if kind == "class":
        return ClassLabel("y", ("0", "1")), ClassTarget(label, ("0", "1"))
    rng = np.random.default_rng(0)
    times = SurvivalTarget(rng.exponential(np.where(label == 1, 5.0, 30.0)) + 0.1, rng.random(40) < 0.7, "months")
    return Survival(time="t", event="e", unit="months"), times


def train(toy, path, *, kind="class", stop_after=None, model=MODEL, rows=TRAIN, **changes):
    bags, label = toy
    endpoint, target = outcome(kind, label)
    training = TrainingSettings(**({"epochs": 6, "device": "cpu", "batch_patients": 5} | changes))

    def watch(epoch):
        if epoch.number == stop_after:
            raise Killed

    return fit(
        bags, endpoint, target, train=rows, validation=VALIDATION, model=model, training=training,
        watch=watch, checkpoint=path,
    )  # fmt: skip


def content(path):
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


SETTINGS = {
    "adamw": {},
    "sgd": {"optimizer": "sgd", "learning_rate": 0.05},
    "best": {"keep": "best", "patience": 2, "learning_rate": 0.05},
    "sampling": {"balance": "sampling", "bag_tiles": 7, "mixup": 0.3},
    "bf16": {"precision": "bf16-mixed"},
    "double": {"precision": "64-true"},
    "parts": {"max_step_tiles": 30},
    "survival": {"kind": "survival"},
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("stop_after", [1, 4])
def test_going_on_ends_with_the_same_bits(toy, tmp_path, name, stop_after):
    whole = train(toy, tmp_path / "whole", **SETTINGS[name])
    if len(whole.history) <= stop_after:
        pytest.skip("it stops before it could be interrupted")
    with pytest.raises(Killed):
        train(toy, tmp_path / "parts", stop_after=stop_after, **SETTINGS[name])
    torch.rand(3)  # whatever the process did with torch's generator in between
    again = train(toy, tmp_path / "parts", **SETTINGS[name])
    assert again.history == whole.history
    assert again.best == whole.best
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[key]), key
    one, other = content(tmp_path / "whole"), content(tmp_path / "parts")
    assert one[1] == other[1]  # optimizer's groups, schedule, numpy's generator
    assert one[0].keys() == other[0].keys()
    for key, value in one[0].items():
        assert torch.equal(value, other[0][key]), key
    moments = [key for key in one[0] if key.startswith("optimizer.")]
    assert any(one[0][key].float().abs().max() > 0 for key in moments)


def test_a_checkpoint_changes_nothing_and_a_finished_training_is_not_run_again(toy, tmp_path):
    plain, kept = train(toy, None), train(toy, tmp_path / "kept")
    for key, value in plain.model.state_dict().items():
        assert torch.equal(value, kept.model.state_dict()[key]), key
    before = (tmp_path / "kept").read_bytes()
    again = train(toy, tmp_path / "kept", stop_after=6)  # no epoch is left that could be watched
    assert again.history == kept.history
    assert (tmp_path / "kept").read_bytes() == before


def test_what_would_have_gone_wrong_without_the_generators(toy, tmp_path):
    """The comparison above can fail: with another state of either generator the weights differ."""
    whole = train(toy, tmp_path / "whole")
    with pytest.raises(Killed):
        train(toy, tmp_path / "parts", stop_after=2)
    tensors, metadata = content(tmp_path / "parts")
    from safetensors.torch import save_file

    torch.manual_seed(99)
    save_file(tensors | {"rng.cpu": torch.get_rng_state()}, tmp_path / "parts", metadata=metadata)
    again = train(toy, tmp_path / "parts")
    assert not torch.equal(whole.model.head.weight, again.model.head.weight)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epochs": 7}, "training.epochs: stored 6, asked for 7"),
        ({"seed": 3}, "training.seed: stored 0, asked for 3"),
        ({"rows": np.arange(23)}, "train.patients: stored '24', asked for '23'"),
        ({"model": MODEL.model_copy(update={"options": {"embed_dim": 8}})}, "model.options.embed_dim: stored 16"),
        ({"kind": "survival"}, "endpoint.kind: stored 'class', asked for 'survival'"),
    ],
)
def test_another_training_does_not_go_on_from_it(toy, tmp_path, changes, words):
    with pytest.raises(Killed):
        train(toy, tmp_path / "one", stop_after=1)
    before = (tmp_path / "one").read_bytes()
    with pytest.raises(ConfigError, match=words):
        train(toy, tmp_path / "one", **changes)
    assert (tmp_path / "one").read_bytes() == before


def test_other_labels_are_another_training(toy, tmp_path):
    bags, label = toy
    with pytest.raises(Killed):
        train(toy, tmp_path / "one", stop_after=1)
    turned = label.copy()
    turned[3] = 1 - turned[3]
    with pytest.raises(ConfigError, match=r"train\.outcomes"):
        train((bags, turned), tmp_path / "one")


@pytest.mark.parametrize("text", [b"", b"not a checkpoint at all", b"\x10\x00\x00\x00\x00\x00\x00\x00{}"])
def test_a_damaged_file_is_named(toy, tmp_path, text):
    (tmp_path / "one").write_bytes(text)
    with pytest.raises(ConfigError, match="one: not a checkpoint.*remove it to begin anew"):
        train(toy, tmp_path / "one")
