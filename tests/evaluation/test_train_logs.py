"""A training whose log cannot be written to in the middle of it: nothing of the model is lost, nor of the log."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from wsikit.evaluation.train import train


def logged(path):
    """Value of a metric at each epoch of each run, the first run first; and the runs' states."""
    with closing(sqlite3.connect(path)) as database:
        runs = database.execute("SELECT run_uuid, status FROM runs ORDER BY start_time").fetchall()
        asked = "SELECT step, value FROM metrics WHERE run_uuid = ? AND key = 'validation/loss' ORDER BY step"
        return [dict(database.execute(asked, run[:1])) for run in runs], [status for _, status in runs]


def test_a_broken_log_costs_no_training_and_gets_every_epoch_in_the_end(planted, experiment, tmp_path, capfd):
    pytest.importorskip("mlflow")
    training = {"epochs": 4, "device": "cpu"}
    plain = train(experiment(planted, tmp_path / "plain", training=training))
    given = experiment(planted, tmp_path / "logged", training=training, log={"mlflow": "experiment"})
    path, said = tmp_path / "logged" / "mlflow.db", []

    def watch(epoch):  # a table is taken away, and put back
        names = {1: ("metrics", "gone"), 3: ("gone", "metrics")}.get(epoch.number)
        if names is not None:
            with closing(sqlite3.connect(path)) as database:
                database.execute("ALTER TABLE {} RENAME TO {}".format(*names))

    capfd.readouterr()
    result = train(given, watch=watch, say=said.append)
    assert result.bundle.read_bytes() == plain.bundle.read_bytes()
    losses = {epoch.number: epoch.validation_loss for epoch in plain.history}
    assert logged(path) == ([losses], ["FINISHED"])
    told = [line for line in said if "MLflow" in line]
    assert len(told) == 2
    assert told[0].startswith("MLflow did not take epoch 2, training goes on: ")
    assert "no such table: metrics" in told[0]
    assert told[1] == "MLflow has all epochs again"
    assert capfd.readouterr() == ("", "")
    train(given)  # there is nothing left to train: a run of its own, with all epochs
    assert logged(path) == ([losses, losses], ["FINISHED", "FINISHED"])
    assert "mlflow" not in (tmp_path / "logged" / "run.json").read_text()
