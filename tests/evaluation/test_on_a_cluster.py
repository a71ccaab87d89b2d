"""The commands that fit models, on a Dask cluster that was there before: processes that work in another folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from distributed import Client


@pytest.fixture
def scheduler_file(tmp_path):
    """``dask scheduler`` and a ``dask worker``, started elsewhere."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    file, started = folder / "scheduler.json", []
    with (folder / "log.txt").open("w") as log:
        for words in (("scheduler", "--port", "0", "--dashboard-address", ":0"), ("worker", "--nthreads", "1")):
            command = [sys.executable, "-m", "dask", *words, "--scheduler-file", str(file), "--host", "127.0.0.1"]
            started.append(subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True))
            deadline = time.monotonic() + 60
            while not file.exists():
                assert time.monotonic() < deadline
                time.sleep(0.05)
    yield file
    for process in started:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="process groups are of POSIX systems")
@pytest.mark.parametrize("command", ["crossval", "tune"])
def test_models_are_fitted_there_and_are_those_of_this_machine(planted, tmp_path, scheduler_file, command):
    settings = {
        "cohort": str(planted / "cohort.csv"), "stores": str(planted / "features.zarr"), "encoder": "toy",
        "endpoint": {"kind": "class", "column": "label", "classes": ["0", "1"]}, "training": {"epochs": 2},
        "splits": {"folds": 2, "inner_folds": 1}, "evaluation": {"bootstrap": 100}, "tune": {"trials": 2},
        "out": "here",
    }  # fmt: skip
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    words = [str(Path(sys.executable).with_name("wsikit")), command, "config.yaml", "--out"]
    for place in (["here", "--workers", "1"], ["there", "--scheduler-file", "elsewhere/scheduler.json"]):
        done = subprocess.run([*words, *place], cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    name = "predictions.csv" if command == "crossval" else "crossval/predictions.csv"
    assert (tmp_path / "there" / name).read_text() == (tmp_path / "here" / name).read_text()
    assert sorted(p.name for p in scheduler_file.parent.iterdir() if p.suffix not in (".json", ".txt")) == []
    with Client(scheduler_file=str(scheduler_file), set_as_default=False) as client:
        assert client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.transition_counter) > 0  # it had work
    if command == "crossval":
        assert len(list((tmp_path / "there" / "models").iterdir())) == 2
