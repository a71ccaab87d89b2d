"""Epochs in Weights & Biases' own file, offline: read back from it record by record."""

from __future__ import annotations

import json
import math
import struct
import time

import pytest

from wsikit.errors import ConfigError
from wsikit.training.epoch import Epoch
from wsikit.training.wandb_log import WandbLog

EPOCHS = [Epoch(n, 1.0 / n, 2.0 / n, math.nan if n == 2 else 0.5 + n / 100, 0.01 / n) for n in range(1, 4)]


def records(path):
    """What wandb wrote: blocks of 32 kB with records in one or several pieces, after a head of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    data, at, piece = path.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        if at + 7 + size > len(data):
            return  # not all of it is written yet
        piece += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last piece
            record = wandb_internal_pb2.Record()
            record.ParseFromString(piece)
            yield record
            piece = b""


def complete(path, seconds=60):
    """Its records once the last one is there: wandb's process writes them, also some while after ``finish``."""
    until = time.monotonic() + seconds
    while not (found := list(records(path))) or found[-1].WhichOneof("record_type") != "exit":
        assert time.monotonic() < until, f"{len(found)} records and no end after {seconds} s"
        time.sleep(0.05)
    return found


def test_every_epoch_is_in_the_file_and_the_settings_too(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "online")  # what the environment says does not send anything
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    config = {"training": {"epochs": 3}, "encoder": "toy"}
    log = WandbLog(tmp_path, "project", name="label", config=config, before=EPOCHS[:1])
    for epoch in EPOCHS[1:]:
        log(epoch)
    log.close()
    (file,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    found = complete(file)
    run = next(r.run for r in found if r.WhichOneof("record_type") == "run")
    assert (run.project, run.display_name) == ("project", "label")
    said = {u.key: json.loads(u.value_json) for u in run.config.update}
    assert {name: said[name] for name in config} == config
    history = []
    for record in found:
        if record.WhichOneof("record_type") == "history":
            items = {(i.key or ".".join(i.nested_key)): json.loads(i.value_json) for i in record.history.item}
            history.append({name: v for name, v in items.items() if name[0] != "_" or name == "_step"})
    for epoch, logged in zip(EPOCHS, history, strict=True):
        assert logged == {
            "_step": epoch.number, "train/loss": epoch.train_loss, "validation/loss": epoch.validation_loss,
            "learning/rate": epoch.learning_rate,
        } | ({} if epoch.number == 2 else {"validation/score": epoch.validation_score})  # fmt: skip
    text = b"".join(f.read_bytes() for f in (tmp_path / "wandb").rglob("*.wandb"))
    assert str(tmp_path).encode() not in text


def test_without_it_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"needs wandb: pip install 'wsikit\[wandb\]'"):
        WandbLog(tmp_path, "project", name="label", config={})
