"""kill -9 at any moment, then the same command: the same bytes as an undisturbed run."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

import wsikit as wk
from wsikit.store.verify import verify_store
from wsikit.testing.svs import write_svs


@pytest.fixture(scope="module")
def slides(tmp_path_factory) -> Path:
    """Three slides of two shards each and a small one."""
    import cv2

    folder = tmp_path_factory.mktemp("slides")
    for seed, size in enumerate((2112, 2112, 2112, 512)):
        coarse = np.random.default_rng(seed).integers(60, 230, (size // 16, size // 16, 3), dtype=np.uint8)
        picture = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
        write_svs(folder / f"s{seed}.svs", picture, levels=(1, 4))
    return folder


def command(slides: Path, store: Path) -> list[str]:
    return [
        sys.executable, "-m", "wsikit", "extract", str(slides), "--out", str(store), "--tile-px", "32",
        "--tissue", "whole", "--workers", "2", "--encoder", "colour",
    ]  # fmt: skip


def tree(store: Path) -> dict[str, bytes]:
    files = (p for p in store.rglob("*") if p.is_file() and ".wsikit" not in p.relative_to(store).parts)
    return {p.relative_to(store).as_posix(): p.read_bytes() for p in files}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, slides):
    """The bytes of a run that nothing happened to, and how long it took."""
    store = tmp_path_factory.mktemp("undisturbed") / "a.zarr"
    began = time.monotonic()
    subprocess.run(command(slides, store), check=True, capture_output=True)
    return tree(store), time.monotonic() - began


def victims(client: subprocess.Popen, whom: str) -> list[psutil.Process]:
    """The processes to kill: the client, one worker, all of them, or the whole job."""
    root = psutil.Process(client.pid)
    workers = [p for p in root.children(recursive=True) if "spawn_main" in " ".join(p.cmdline())]
    if whom == "client":
        return [root]
    if whom == "worker":
        return workers[:1]
    if whom == "workers":
        return workers
    return [root, *root.children(recursive=True)]


def disturb(slides: Path, store: Path, whom: str, after_s: float) -> None:
    """Run the command, kill at a moment, and wait until nothing of it is left."""
    process = subprocess.Popen(
        command(slides, store), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    time.sleep(after_s)
    try:
        for victim in victims(process, whom) if process.poll() is None else []:
            victim.send_signal(signal.SIGKILL)
    except psutil.NoSuchProcess:
        pass
    process.wait(timeout=120)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:  # orphaned workers notice that their parent is gone
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)


def resume_and_compare(slides, store, undisturbed):
    done = subprocess.run(command(slides, store), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert tree(store) == undisturbed[0]
    assert verify_store(wk.open_store(store)) == []
    assert not list(store.rglob("*.partial"))


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL and process groups are POSIX")
@pytest.mark.parametrize(("whom", "share"), [("job", 0.75), ("client", 0.6), ("workers", 0.7)])
def test_a_few_kills(slides, undisturbed, tmp_path, whom, share):
    store = tmp_path / "a.zarr"
    disturb(slides, store, whom, share * undisturbed[1])
    resume_and_compare(slides, store, undisturbed)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="SIGKILL and process groups are POSIX")
@pytest.mark.parametrize("seed", range(20))
def test_many_kills(slides, undisturbed, tmp_path, seed):
    """Up to three kills of different kinds at random moments, one after the other on the same store."""
    rng = random.Random(seed)
    store = tmp_path / "a.zarr"
    for _ in range(rng.randint(1, 3)):
        disturb(
            slides, store, rng.choice(["job", "client", "worker", "workers"]), rng.uniform(0.2, 1.0) * undisturbed[1]
        )
    resume_and_compare(slides, store, undisturbed)


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX")
def test_a_slide_that_kills_its_worker_and_one_that_nobody_foresaw(slides, tmp_path):
    """A decoder that takes the process down on one file, and an odd error on another: each costs its slide only."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if 'spawn_main' in ' '.join(sys.orig_argv):\n"
        "    import wsikit.provenance\n"
        "    real = wsikit.provenance.fingerprint\n"
        "    def fingerprint(path):\n"
        "        if path.name == 's1.svs':\n"
        "            os.kill(os.getpid(), 9)\n"
        "        if path.name == 's2.svs':\n"
        "            raise ZeroDivisionError(f'odd tag in {path}')\n"
        "        return real(path)\n"
        "    wsikit.provenance.fingerprint = fingerprint\n"
    )
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        command(slides, tmp_path / "a.zarr"), capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    with (tmp_path / "a.report" / "failures.csv").open(newline="") as handle:
        failed = {row["slide_id"]: row for row in csv.DictReader(handle)}
    assert {name: row["state"] for name, row in failed.items()} == {"s1": "killed-worker", "s2": "failed"}
    assert failed["s1"]["reason"].startswith("slide s1: its worker dies each time, with nothing else running")
    assert failed["s2"]["reason"] == "ZeroDivisionError: odd tag in s2"  # and not where the file lies
    assert failed["s2"]["traceback"].startswith("Traceback (most recent call last)")
    assert "in fingerprint" in failed["s2"]["traceback"]
    assert str(slides) not in failed["s2"]["traceback"]
    store = wk.open_store(tmp_path / "a.zarr")
    assert {s for s in store.slide_ids if store.keys(s) and store.finished(s, "colour")} == {"s0", "s3"}
    # In the light of day both are done by the same command.
    again = subprocess.run(command(slides, tmp_path / "a.zarr"), capture_output=True, text=True)
    assert again.returncode == 0, again.stdout + again.stderr
    assert (tmp_path / "a.report" / "failures.csv").read_text().count("\n") == 1


def begin(slides: Path, store: Path, *options: str) -> subprocess.Popen:
    return subprocess.Popen(
        [*command(slides, store), *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def lease_of(store: Path) -> Path:
    """The lease of a run that has just been begun, as soon as there is one."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for path in (store / ".wsikit" / "lease").glob("0*"):
            if path.suffix != ".released" and path.stat().st_size:
                return path
        time.sleep(0.05)
    raise TimeoutError("no lease was taken")


@pytest.mark.skipif(os.name == "nt", reason="process groups are POSIX")
def test_two_runs_at_once(slides, undisturbed, tmp_path):
    """The second is refused by name while the first is alive; with --wait it waits and finds all done."""
    store = tmp_path / "a.zarr"
    first = begin(slides, store)
    lease_of(store)
    waiting, refused = begin(slides, store, "--wait"), begin(slides, store)
    said_refused = refused.communicate()[1]
    first.communicate()
    said = waiting.communicate()[1]
    assert (first.returncode, waiting.returncode, refused.returncode) == (0, 0, 2)
    assert f"process {first.pid}" in " ".join(said.split())
    assert f"in use by process {first.pid}" in " ".join(said_refused.split())
    assert tree(store) == undisturbed[0]


@pytest.mark.skipif(os.name == "nt", reason="SIGSTOP is POSIX")
@pytest.mark.slow
def test_a_run_that_was_only_asleep_gives_way(slides, undisturbed, tmp_path):
    """Frozen for longer than a lease lasts, taken over, and woken: it stops, and nothing is torn."""
    store = tmp_path / "a.zarr"
    asleep = begin(slides, store)
    lease = lease_of(store)
    while not list((store / ".wsikit" / "done").rglob("plan")):  # in the midst of things
        time.sleep(0.05)
    asleep.send_signal(signal.SIGSTOP)
    os.utime(lease, (time.time() - 120,) * 2)  # as if it had slept for two minutes
    awake = begin(slides, store)
    while lease.exists():
        time.sleep(0.05)
    asleep.send_signal(signal.SIGCONT)
    said_asleep, said_awake = asleep.communicate()[1], awake.communicate()
    assert awake.returncode == 0, said_awake
    assert asleep.returncode == 2, said_asleep
    assert "another has taken the store over; nothing is lost" in " ".join(said_asleep.split())
    assert tree(store) == undisturbed[0]
    assert verify_store(wk.open_store(store)) == []


@pytest.mark.slow
def test_a_lease_of_a_silent_machine_is_taken_over(slides, undisturbed, tmp_path):
    """What a node that was switched off leaves behind, in a store that is half done."""
    store = tmp_path / "a.zarr"
    disturb(slides, store, "job", 0.7 * undisturbed[1])
    leases = store / ".wsikit" / "lease"
    leases.mkdir(parents=True, exist_ok=True)
    for path in leases.iterdir():
        path.unlink()
    (leases / "00000007").write_text(json.dumps({"host": "node17", "pid": 1, "started": 1.0, "user": "ada"}))
    os.utime(leases / "00000007", (time.time() - 120,) * 2)
    resume_and_compare(slides, store, undisturbed)
    assert [p.name for p in leases.iterdir()] == ["00000008.released"]
