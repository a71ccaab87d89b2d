"""The course of a training as a table, and as TensorBoard's events where it is installed."""

from __future__ import annotations

import csv
import math
import warnings

import pytest

from wsikit.training.epoch import Epoch, history_from, plain_history
from wsikit.training.log import TrainingLog

EPOCHS = [Epoch(n, 1.0 / n, 2.0 / n, math.nan if n == 2 else 0.5 + n / 100, 0.01 / n) for n in range(1, 6)]


def test_the_table_is_whole_after_every_epoch_and_goes_on(tmp_path):
    log = TrainingLog(tmp_path)
    for number, epoch in enumerate(EPOCHS[:3], 1):
        log(epoch)
        with (tmp_path / "history.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [float(row["train_loss"]) for row in rows] == [e.train_loss for e in EPOCHS[:number]]
    log.close()
    whole = TrainingLog(tmp_path / "whole")
    again = TrainingLog(tmp_path, EPOCHS[:2])  # the third was lost with the process
    for epoch in EPOCHS[:2]:
        whole(epoch)
    for epoch in EPOCHS[2:]:
        whole(epoch)
        again(epoch)
    whole.close()
    again.close()
    assert (tmp_path / "history.csv").read_bytes() == (tmp_path / "whole" / "history.csv").read_bytes()


def test_epochs_survive_json_with_what_is_not_a_number():
    again = history_from(plain_history(EPOCHS))
    assert plain_history(EPOCHS)[1]["validation_score"] is None
    assert [e.number for e in again] == [1, 2, 3, 4, 5]
    assert math.isnan(again[1].validation_score)
    assert again[2:] == tuple(EPOCHS[2:])


def test_events_are_those_of_the_epochs_and_a_lost_one_is_taken_back(tmp_path):
    pytest.importorskip("tensorboard")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own imports
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    log = TrainingLog(tmp_path)
    for epoch in EPOCHS[:3]:
        log(epoch)
    log.close()
    log = TrainingLog(tmp_path, EPOCHS[:2])
    for epoch in [Epoch(3, 9.0, 9.0, 0.9, 0.9), *EPOCHS[3:]]:
        log(epoch)
    log.close()
    found = EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    losses = {e.step: e.value for e in found.Scalars("train/loss")}
    assert losses == pytest.approx({1: 1.0, 2: 0.5, 3: 9.0, 4: 0.25, 5: 0.2})
    assert [e.step for e in found.Scalars("validation/score")] == [1, 3, 4, 5]  # NaN is no point of a curve
    assert set(found.Tags()["scalars"]) == {"train/loss", "validation/loss", "validation/score", "learning/rate"}
