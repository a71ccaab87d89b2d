"""One process at a time writes into a folder of results: the second is told who does, the dead are taken over from."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from wsikit.errors import LockedError
from wsikit.evaluation.crossval import crossval
from wsikit.evaluation.several import crossval_several
from wsikit.evaluation.train import train
from wsikit.evaluation.tuning.run import tune
from wsikit.store.lease import RESULTS, Lease, holder

SHORT = {"training": {"epochs": 2}, "splits": {"folds": 2, "inner_folds": 1}, "evaluation": {"bootstrap": 100}}
SEVERAL = {
    "kind": "several",
    "outcomes": {
        "label": {"kind": "class", "column": "label", "classes": ["0", "1"]},
        "number": {"kind": "continuous", "column": "value"},
    },
}


def leases(out: Path) -> list[str]:
    return sorted(path.name for path in (out / ".wsikit" / "lease").iterdir())


@pytest.mark.parametrize("call", [crossval, crossval_several, train, tune])
def test_a_folder_in_use_is_refused_and_nothing_is_written(planted, experiment, tmp_path, call):
    if call is tune:
        pytest.importorskip("optuna")
    asked = experiment(planted, tmp_path / "out", **SHORT)
    if call is crossval_several:
        asked = asked.model_copy(update={"endpoint": SEVERAL})
    asked.out.mkdir()
    with Lease(asked.out, kind=RESULTS, heartbeat_s=0.2):
        with pytest.raises(
            LockedError,
            match=rf"folder .*out: in use by process {os.getpid()} of .* since 20\d\d-.* UTC; let it end .*--out",
        ):
            call(asked)
        assert [path.name for path in asked.out.iterdir()] == [".wsikit"]
        assert holder(asked.out)


def test_the_lease_is_held_while_it_writes_and_given_back_after(planted, experiment, tmp_path):
    asked, held = experiment(planted, tmp_path / "out", **SHORT), []
    train(asked, watch=lambda epoch: held.append(holder(asked.out)))
    assert [f"process {os.getpid()} " in one for one in held] == [True, True]
    assert holder(asked.out) == ""
    assert leases(asked.out) == ["00000001.released"]
    crossval(asked, workers=1)
    assert leases(asked.out) == ["00000002.released"]


def test_who_was_taken_for_dead_stops(planted, experiment, tmp_path):
    """Asleep for a minute, another process took the folder: what comes after would be a second hand in it."""
    asked, epochs = experiment(planted, tmp_path / "out", **SHORT | {"training": {"epochs": 5}}), []

    def watch(epoch):
        epochs.append(epoch.number)
        if len(epochs) == 2:
            (asked.out / ".wsikit" / "lease" / "00000002").write_text("{}")
            time.sleep(6)  # longer than a heartbeat

    with pytest.raises(LockedError, match="another has taken the folder over; nothing is lost"):
        train(asked, watch=watch)
    assert epochs == [1, 2]
    assert not (asked.out / "model.safetensors").exists()
    assert "00000002" in leases(asked.out)


def start(folder: Path, trials: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "wsikit", "tune", "config.yaml", "--for=model", "--workers=1", f"--trials={trials}"],
        cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def trials_done(out: Path) -> int:
    if not (out / "trials.csv").exists():
        return 0
    with (out / "trials.csv").open(newline="") as file:
        return len(list(csv.DictReader(file)))


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is of POSIX systems")
def test_two_tunings_in_one_folder_the_second_is_refused_and_goes_on_when_the_first_was_killed(planted, tmp_path):
    pytest.importorskip("optuna")
    values = {
        "cohort": str(planted / "cohort.csv"), "stores": str(planted / "features.zarr"), "encoder": "toy",
        "endpoint": {"kind": "class", "column": "label", "classes": ["0", "1"]}, "out": "out",
        "model": {"options": {"embed_dim": 16}}, "training": {"epochs": 30, "device": "cpu"},
        "splits": {"folds": 2, "inner_folds": 2}, "tune": {"space": {"dropout": [0.0, 0.1, 0.5]}},
    }  # fmt: skip
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    out = tmp_path / "out" / "tuned"
    first = start(tmp_path, 1000)
    try:
        while trials_done(out) < 1:
            assert first.poll() is None, first.communicate()
            time.sleep(0.01)
        second = start(tmp_path, 1000)
        _, said = second.communicate(timeout=120)
        words = " ".join(said.split())
        assert second.returncode == 2, said
        assert f"tuned: in use by process {first.pid} of" in words
        assert "UTC; let it end or stop it first, or write into another folder (--out)" in words
        assert "Traceback" not in said
        assert first.poll() is None
    finally:
        first.send_signal(signal.SIGKILL)
        first.communicate()
    assert first.returncode == -signal.SIGKILL
    done = trials_done(out)
    # as if it had died on another machine 40 s ago: its time, 60 s, has not yet run out
    (lease,) = (out / ".wsikit" / "lease").iterdir()
    lease.write_text(json.dumps(json.loads(lease.read_text()) | {"host": "node17"}))
    os.utime(lease, (time.time() - 40,) * 2)
    third = start(tmp_path, done)
    _, said = third.communicate(timeout=120)
    assert third.returncode == 0, said
    words = " ".join(said.split())
    assert f"is held by process {first.pid}" in words  # so it was waited for
    assert "on node17 since 20" in words
    assert f"{done} of {done} trials are there already" in words
    assert (out / "best.yaml").exists()
    assert leases(out) == ["00000002.released"]
