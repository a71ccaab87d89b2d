"""Epochs in MLflow's own file and on its own server, read back by its own client; and what is sent to nobody."""

from __future__ import annotations

import getpass
import math
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from contextlib import closing
from pathlib import Path

import pytest

from wsikit.errors import ConfigError
from wsikit.training.epoch import Epoch, curves
from wsikit.training.lasting_log import LastingLog
from wsikit.training.mlflow_log import FORCED, PATIENCE, MlflowLog

EPOCHS = [Epoch(n, 1.0 / n, 2.0 / n, math.nan if n == 2 else 0.5 + n / 100, 0.01 / n) for n in range(1, 5)]
CONFIG = {"training": {"epochs": 4, "clip": None}, "encoder": "toy", "options": {}}
PARAMETERS = {"training.epochs": "4", "training.clip": "null", "encoder": "toy", "options": "{}"}
ELSEWHERE = ("PYTEST_CURRENT_TEST", "CI", "GITHUB_ACTIONS", "MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK")

ALONE = """
import sys
seen = []
def hook(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        seen.append((event, args[-2:]))
        raise OSError(f"the test allows no network: {args}")
sys.addaudithook(hook)
import threading, time
from pathlib import Path
from wsikit.training.epoch import Epoch
from wsikit.training.mlflow_log import MlflowLog
log = MlflowLog(Path(sys.argv[1]), "experiment", name="label", config={"a": 1})
log(Epoch(1, 1.0, 1.0, 1.0, 1.0))
log.close()
time.sleep(0.5)
assert not seen, seen
assert [t.name for t in threading.enumerate()] == ["MainThread"], threading.enumerate()
"""


def runs(uri, experiment="experiment"):
    """Every run, the first one first, with its points: name -> [(step, value), ...]."""
    from mlflow import MlflowClient

    client = MlflowClient(uri, registry_uri=uri)
    found = client.get_experiment_by_name(experiment)
    told = client.search_runs([found.experiment_id], order_by=["attributes.start_time ASC"])
    for run in told:
        points = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
        yield run, {name: sorted((p.step, p.value) for p in history) for name, history in points.items()}


def points_of(epochs):
    names = ("train/loss", "validation/loss", "validation/score", "learning/rate")
    return {name: [(e.number, curves(e)[name]) for e in epochs if name in curves(e)] for name in names}


@pytest.fixture(autouse=True)
def _has_mlflow():
    pytest.importorskip("mlflow")


@pytest.fixture
def server(tmp_path):
    """Begins MLflow's server, each time with the same file and port: (uri, begin, end)."""
    pytest.importorskip("flask_cors")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    uri, folder = f"http://127.0.0.1:{port}", tmp_path / "server"
    folder.mkdir()
    running = []

    def begin():
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/server.db"]
        environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (folder / "said.txt").open("ab") as said:
            running.append(
                subprocess.Popen(command, cwd=folder, env=environment, stdout=said, stderr=said, start_new_session=True)
            )
        until = time.monotonic() + 120
        while True:
            try:
                with urllib.request.urlopen(f"{uri}/health", timeout=5) as answer:
                    assert answer.read() == b"OK"
                return
            except OSError:
                assert running[-1].poll() is None, (folder / "said.txt").read_text()
                assert time.monotonic() < until, (folder / "said.txt").read_text()
                time.sleep(0.2)

    def end():
        os.killpg(running[-1].pid, signal.SIGKILL)  # its own group: the server has a worker
        running.pop().wait()

    yield uri, begin, end
    while running:
        end()


def test_every_epoch_is_in_the_file_and_of_user_and_machine_nothing(tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.setblocking(False)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{elsewhere.getsockname()[1]}")
        monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "another")
        before = dict(os.environ)
        for known in (0, 2):  # the second goes on with the first
            log = MlflowLog(tmp_path, "experiment", name="label", config=CONFIG, before=EPOCHS[:known])
            for epoch in EPOCHS[known : known + 2]:
                log(epoch)
            log.close(failed=not known)
        assert dict(os.environ) == before
        with pytest.raises(BlockingIOError):  # nobody has called
            elsewhere.accept()
    (first, of_first), (second, of_second) = runs(f"sqlite:///{tmp_path}/mlflow.db")
    assert of_first == points_of(EPOCHS[:2])
    assert of_second == points_of(EPOCHS)
    assert (first.info.status, second.info.status) == ("FAILED", "FINISHED")
    for run in (first, second):
        assert run.data.params == PARAMETERS
        assert run.data.tags == {"mlflow.runName": "label"}
        assert run.info.user_id == "unknown"
    written = (tmp_path / "mlflow.db").read_bytes()
    for private in (str(tmp_path), str(Path.cwd()), getpass.getuser() + "/", socket.gethostname(), "mlruns"):
        assert private.encode() not in written, private
    assert [p.name for p in tmp_path.iterdir()] == ["mlflow.db"]


def test_a_file_that_was_deleted_is_made_again_by_the_same_process(tmp_path):
    for _ in range(2):
        log = MlflowLog(tmp_path, "experiment", name="label", config=CONFIG)
        log(EPOCHS[0])
        log.close()
        with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:  # MLflow's client would hold it open
            assert dict(database.execute("SELECT key, value FROM metrics")) == curves(EPOCHS[0])
        (tmp_path / "mlflow.db").unlink()


def test_outside_of_tests_too_nobody_is_told(tmp_path):
    """MLflow's reports of its use are off under pytest anyway; and its number of this user is not made."""
    home = tmp_path / "home"
    (tmp_path / "results").mkdir()
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if name not in ELSEWHERE}
    environment |= {"HOME": str(home), "APPDATA": str(home), "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    command = [sys.executable, "-W", "error", "-c", ALONE, str(tmp_path / "results")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [p.name for p in home.rglob("*")] == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["home", "results"]


@pytest.mark.slow
def test_a_server_gets_all_epochs_though_it_was_away(server, tmp_path, capfd):
    uri, begin, end = server
    begin()
    said = []
    entry = MlflowLog(tmp_path, "experiment", uri=uri, name="label", config=CONFIG, before=EPOCHS[:1])
    log = LastingLog(entry, "MLflow", say=said.append, again_s=0)
    log(EPOCHS[1])
    end()
    log(EPOCHS[2])
    assert len(said) == 1
    assert said[0].startswith("MLflow did not take epoch 3, training goes on: MlflowException")
    begin()
    log(EPOCHS[3])
    entry(EPOCHS[3])  # as if the answer had been lost
    log.close()
    assert said[1:] == ["MLflow has all epochs again"]
    ((run, points),) = runs(uri)
    assert points == points_of(EPOCHS)
    assert (run.info.status, run.data.params, run.info.user_id) == ("FINISHED", PARAMETERS, "unknown")
    assert run.data.tags == {"mlflow.runName": "label"}
    assert not (tmp_path / "mlflow.db").exists()
    assert capfd.readouterr() == ("", "")


def test_a_server_that_is_not_there_is_an_error_before_the_training(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        uri = f"http://127.0.0.1:{closed.getsockname()[1]}"
    before, began = dict(os.environ), time.monotonic()
    with pytest.raises(
        ConfigError, match=f"MLflow cannot begin a run of 'experiment' in {uri}: .*without 'mlflow_uri'"
    ):
        MlflowLog(tmp_path, "experiment", uri=uri, name="label", config=CONFIG)
    assert time.monotonic() - began < 30
    assert dict(os.environ) == before


def test_what_the_user_says_of_waiting_counts(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    log = MlflowLog(tmp_path, "experiment", name="label", config=CONFIG)
    during = dict(os.environ)
    log.close()
    expected = FORCED | PATIENCE | {"MLFLOW_HTTP_REQUEST_TIMEOUT": "77"}
    assert {name: during[name] for name in expected} == expected


def test_another_file_or_none_that_can_be_is_refused(tmp_path):
    (tmp_path / "mlflow.db").write_text("no database, but more than sixteen bytes of text")
    with pytest.raises(ConfigError, match="mlflow.db cannot be opened or made .* file is not a database"):
        MlflowLog(tmp_path, "experiment", name="label", config=CONFIG)
    missing = tmp_path / "missing" / "mlflow.db"
    with pytest.raises(ConfigError, match="unable to open database file; expected SQLite's file, or none yet, in a"):
        MlflowLog(tmp_path, "experiment", uri=f"sqlite:///{missing}", name="label", config=CONFIG)
    assert not missing.parent.exists()
    with pytest.raises(ConfigError, match=r"no '\?' may be in it"):
        MlflowLog(tmp_path / "what?", "experiment", name="label", config=CONFIG)


@pytest.mark.parametrize("missing", ["mlflow", "sqlalchemy.exc"])
def test_without_it_the_error_says_what_to_install(tmp_path, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ConfigError, match=r"needs mlflow-skinny, SQLAlchemy and alembic: .*'wsikit\[mlflow\]'"):
        MlflowLog(tmp_path, "experiment", name="label", config=CONFIG)
