"""One run at a time; the dead are taken over at once, the silent after a while, the living never."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wsikit.errors import StoreLockedError
from wsikit.store.lease import Lease, holder

HOLD = """
import sys, time
from pathlib import Path
from wsikit.store.lease import Lease
with Lease(Path(sys.argv[1]), heartbeat_s=0.1):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """Another process that holds the lease on tmp_path."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def as_if_of_another_host(root: Path, age_s: float) -> None:
    (path,) = (root / ".wsikit" / "lease").iterdir()
    path.write_text(json.dumps({"host": "node17", "pid": 1, "started": 1.0, "user": "ada"}))
    os.utime(path, (time.time() - age_s,) * 2)


def test_free_held_and_free_again(tmp_path):
    assert holder(tmp_path) == ""
    with Lease(tmp_path):
        assert f"process {os.getpid()}" in holder(tmp_path)
    assert holder(tmp_path) == ""
    with Lease(tmp_path):
        pass


def test_a_living_run_is_refused_by_name(tmp_path, other):
    said = []
    with (
        pytest.raises(StoreLockedError, match=f"in use by process {other.pid} of .*--wait"),
        Lease(tmp_path, heartbeat_s=0.1, say=said.append),
    ):
        pass
    assert len(said) == 1
    assert "looking whether it is alive" in said[0]


def test_a_killed_run_of_this_machine_is_taken_over_at_once(tmp_path, other):
    other.send_signal(signal.SIGKILL)
    other.wait()
    began = time.monotonic()
    with Lease(tmp_path):
        pass
    assert time.monotonic() - began < 5  # not the 60 s of a silent run elsewhere


def test_a_pid_of_another_container_says_nothing(tmp_path, other):
    """Of the same host name, where this machine has no such process: alive until it is silent for too long."""
    (path,) = (tmp_path / ".wsikit" / "lease").iterdir()
    owner = json.loads(path.read_text())
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert Lease(tmp_path).expired(path)
    path.write_text(json.dumps(owner | {"pids": "pid:[1]"}))
    assert not Lease(tmp_path).expired(path)
    os.utime(path, (time.time() - 3600,) * 2)
    assert Lease(tmp_path).expired(path)


def test_waiting_gets_the_store_when_the_other_ends(tmp_path, other):
    with pytest.raises(StoreLockedError), Lease(tmp_path, heartbeat_s=0.1):
        pass
    other.terminate()
    other.wait()
    with Lease(tmp_path, wait=True, heartbeat_s=0.1) as lease:
        lease.check()


def test_a_silent_run_of_another_host_is_taken_over_after_its_time(tmp_path):
    with Lease(tmp_path):
        pass
    (tmp_path / ".wsikit" / "lease" / "00000001.released").rename(tmp_path / ".wsikit" / "lease" / "00000001")
    as_if_of_another_host(tmp_path, age_s=0)
    began = time.monotonic()
    with Lease(tmp_path, expires_s=1.5, heartbeat_s=0.2) as lease:
        lease.check()
    assert time.monotonic() - began >= 1


def test_who_was_taken_over_from_stops(tmp_path):
    with Lease(tmp_path, heartbeat_s=0.1, expires_s=60) as asleep:
        asleep.check()
        (tmp_path / ".wsikit" / "lease" / "00000002").write_text("{}")  # another run thought it dead
        deadline = time.monotonic() + 10
        while not asleep.lost and time.monotonic() < deadline:
            time.sleep(0.05)
        with pytest.raises(StoreLockedError, match="another has taken the store over; nothing is lost"):
            asleep.check()
    assert (tmp_path / ".wsikit" / "lease" / "00000002").exists()  # and leaves the other's lease alone


RACE = """
import sys, time
from pathlib import Path
from wsikit.errors import StoreLockedError
from wsikit.store.lease import Lease
root = Path(sys.argv[1])
while not (root / "go").exists():
    time.sleep(0.001)
try:
    with Lease(root, heartbeat_s=0.2):
        print("won", flush=True)
        time.sleep(6)
except StoreLockedError:
    print("refused", flush=True)
"""


def test_of_many_that_find_an_expired_lease_one_wins(tmp_path):
    with Lease(tmp_path):
        pass
    (tmp_path / ".wsikit" / "lease" / "00000001.released").rename(tmp_path / ".wsikit" / "lease" / "00000001")
    as_if_of_another_host(tmp_path, age_s=3600)
    runs = [
        subprocess.Popen([sys.executable, "-c", RACE, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(6)
    ]
    time.sleep(1.5)
    (tmp_path / "go").touch()
    said = [run.communicate(timeout=60)[0].split() for run in runs]
    assert sorted(said) == [["refused"]] * 5 + [["won"]]
