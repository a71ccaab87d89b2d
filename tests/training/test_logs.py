"""Which logs are asked for, where MLflow's may be, and that all begin or none."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from wsikit.errors import ConfigError
from wsikit.training.epoch import Epoch
from wsikit.training.logs import LogSettings, begin_logs


def test_nobody_gets_a_log_without_asking(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "experiment")
    monkeypatch.setenv("WANDB_PROJECT", "project")
    logs = begin_logs(LogSettings(), tmp_path, name="label", config={}, before=(), say=print)
    for log in logs:
        log(Epoch(1, 1.0, 1.0, 1.0, 1.0))
        log.close()
    assert {p.name for p in tmp_path.iterdir()} <= {"history.csv", "tensorboard"}


@pytest.mark.parametrize(
    "uri", ["https://mlflow.example.org/path", "http://127.0.0.1:5000", "sqlite:////data/mlflow.db"]
)
def test_places_that_mlflow_may_be_told_of(uri):
    assert LogSettings(mlflow="experiment", mlflow_uri=uri).mlflow_uri == uri


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("sqlite:///mlflow.db", "the path is not absolute; expected https://HOST"),
        ("mlruns", "expected https://HOST"),
        ("file:///data/mlruns", "expected https://HOST"),
        ("http://", "expected https://HOST"),
        ("https://user:secret@mlflow.example.org", "no place for a password: set MLFLOW_TRACKING_USERNAME"),
    ],
)
def test_places_that_it_may_not(uri, said):
    with pytest.raises(ValidationError, match=said):
        LogSettings(mlflow="experiment", mlflow_uri=uri)
    with pytest.raises(ValidationError, match=r"name the experiment, too \(mlflow: NAME\)"):
        LogSettings(mlflow_uri="https://mlflow.example.org")


def test_where_one_cannot_begin_the_others_are_closed_and_nothing_else_is_written(tmp_path):
    wandb = pytest.importorskip("wandb")
    pytest.importorskip("mlflow")
    (tmp_path / "mlflow.db").write_text("no database, but more than sixteen bytes of text")
    settings = LogSettings(wandb="project", mlflow="experiment")
    with pytest.raises(ConfigError, match="file is not a database"):
        begin_logs(settings, tmp_path, name="label", config={}, before=(), say=print)
    assert wandb.run is None
    assert {p.name for p in tmp_path.iterdir()} == {"mlflow.db", "wandb"}
