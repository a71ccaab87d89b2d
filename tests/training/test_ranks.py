"""Two processes train one model: the steps of one, and no one waits for a rank that has failed."""

from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np
import psutil
import pytest
import torch
from safetensors import safe_open

from wsikit.cohort.endpoints import ClassLabel, ClassTarget, Survival, SurvivalTarget
from wsikit.errors import ConfigError, StoreError
from wsikit.processes import WorkerDiedError
from wsikit.training.fit import fit
from wsikit.training.settings import ModelSettings, TrainingSettings

TRAIN, VALIDATION = np.arange(25), np.arange(25, 32)
ABMIL = ModelSettings(options={"embed_dim": 16, "attention_dim": 8, "dropout": 0.0})
CLAM = ModelSettings(aggregator="clam-mb", options={"embed_dim": 16, "attention_dim": 8, "dropout": 0.0})
SECONDS = 100
"""Longer than any training here takes; without an end, a rank that waits for another would wait half an hour."""


class Killed(Exception):
    """Stands for the end of the process."""


def outcome(kind, label):
    if kind == "class":
        return ClassLabel("y", ("0", "1")), ClassTarget(label, ("0", "1"))
    rng = np.random.default_rng(0)
    times = SurvivalTarget(rng.exponential(np.where(label == 1, 5.0, 30.0)) + 0.1, rng.random(40) < 0.7, "months")
    return Survival(time="t", event="e", unit="months"), times


def train(toy, *, kind="class", model=ABMIL, train=TRAIN, checkpoint=None, watch=lambda epoch: None, **changes):
    bags, label = toy
    endpoint, target = outcome(kind, label)
    small = {"epochs": 4, "device": "cpu", "batch_patients": 9, "tile_dropout": 0.3, "devices": 2}
    return fit(
        bags, endpoint, target, train=train, validation=VALIDATION, model=model,
        training=TrainingSettings(**small | changes), checkpoint=checkpoint, watch=watch,
    )  # fmt: skip


SLOW = pytest.mark.slow
SETTINGS = [
    # AdamW turns rounding into steps where there is no gradient, as of the bias under Cox's loss: hence SGD
    pytest.param({"kind": "survival", "optimizer": "sgd"}, id="Cox over everybody"),
    pytest.param({"model": CLAM}, id="batches of 9, 8 and 8; own loss terms; weights without a gradient", marks=SLOW),
    pytest.param({"optimizer": "sgd", "batch_patients": 1, "train": np.arange(9)}, id="one rank has none", marks=SLOW),
    pytest.param({"max_step_tiles": 30}, id="in parts", marks=SLOW),
    pytest.param({"balance": "sampling", "mixup": 0.3, "keep": "best", "patience": 2, "learning_rate": 0.05,
                  "epochs": 30}, id="sampling, mixup, the best epoch", marks=SLOW),
]  # fmt: skip


@pytest.mark.parametrize("changes", SETTINGS)
def test_two_processes_make_the_steps_of_one(toy, changes, capfd):
    alone = train(toy, devices=1, **changes)
    both = train(toy, **changes)
    assert both.best == alone.best
    assert len(both.history) == len(alone.history)
    if changes.get("keep") == "best":  # all ranks stopped, and early
        assert len(both.history) == both.best + 2 < 30
    for one, other in zip(alone.history, both.history, strict=True):
        np.testing.assert_allclose(other.validation_loss, one.validation_loss, rtol=1e-4)
        np.testing.assert_allclose(other.train_loss, one.train_loss, rtol=1e-4)
    weights = both.model.state_dict()
    for key, value in alone.model.state_dict().items():
        torch.testing.assert_close(weights[key], value, rtol=1e-3, atol=2e-5, msg=lambda m, key=key: f"{key}: {m}")
    still = train(toy, devices=1, **changes | {"learning_rate": 1e-9, "epochs": 1})
    assert (alone.model.head.weight - still.model.head.weight).abs().max() > 1e-3  # there was something to get wrong
    assert capfd.readouterr() == ("", "")


def content(path):
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


@SLOW
def test_going_on_ends_with_the_same_bits_and_dropout_differs_between_ranks(toy, tmp_path):
    model = ABMIL.model_copy(update={"options": ABMIL.options | {"dropout": 0.25}})

    def stop(epoch):
        if epoch.number == 2:
            raise Killed

    whole = train(toy, model=model, checkpoint=tmp_path / "whole")
    with pytest.raises(Killed):
        train(toy, model=model, checkpoint=tmp_path / "parts", watch=stop)
    again = train(toy, model=model, checkpoint=tmp_path / "parts")
    assert again.history == whole.history
    one, other = content(tmp_path / "whole"), content(tmp_path / "parts")
    assert one[1] == other[1]
    assert one[0].keys() == other[0].keys()
    for key, value in one[0].items():
        assert torch.equal(value, other[0][key]), key
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[key]), key
    assert not torch.equal(one[0]["rng.cpu"], one[0]["rng.cpu.1"])
    with pytest.raises(ConfigError, match=r"training\.devices: stored 2, asked for None"):
        train(toy, model=model, checkpoint=tmp_path / "parts", devices=1)


def in_time(work):
    """What ``work`` raises, if it ends in time."""
    found = []

    def run():
        try:
            work()
        except BaseException as e:
            found.append(e)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(SECONDS)
    assert not thread.is_alive(), "a rank waits for another"
    assert found
    return found[0]


def ranks():
    return [p for p in psutil.Process().children() if "spawn_main" in " ".join(p.cmdline())]


def test_an_error_in_one_rank_ends_all_and_is_the_one_that_is_raised(write_bags, toy_draw):
    features, label = toy_draw(0)
    features[31][0, 0] = np.nan  # of the last patient, whom only the second rank reads
    error = in_time(lambda: train((write_bags(features), label), scaling="none"))
    assert isinstance(error, StoreError)
    assert "s031" in str(error)
    assert any("in process 2 of 2" in note for note in error.__notes__)
    assert not ranks()


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is of POSIX systems")
def test_a_rank_that_is_killed_is_named(toy):
    def kill(epoch):
        if epoch.number == 1:
            last = max(ranks(), key=lambda process: (process.create_time(), process.pid))  # a clock of 10 ms
            last.send_signal(signal.SIGKILL)
            time.sleep(0.5)

    error = in_time(lambda: train(toy, watch=kill, epochs=2000))
    assert isinstance(error, WorkerDiedError)
    assert "process 2 of 2 that train together died (exit code -9" in str(error)
    assert not ranks()


def test_devices_that_are_not_there(toy):
    with pytest.raises(ValueError, match="device 'cuda:1' is a single one, and devices is 2"):
        TrainingSettings(device="cuda:1", devices=2)
    if torch.cuda.device_count() < 64:
        with pytest.raises(ConfigError, match="devices is 64, and there are [0-9]+ GPUs here"):
            train(toy, device="cuda", devices=64)
