"""A cluster that somebody else has started, in processes of their own: used, survived, and left as it was."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import Client

import wsikit as wk
from wsikit.errors import ConfigError
from wsikit.extract.clusters import Crew, NoWorkersError
from wsikit.extract.existing_cluster import ClusterLostError
from wsikit.extract.failure import StoreWriteError
from wsikit.extract.run import Progress
from wsikit.slides.tiling import TilingSpec
from wsikit.store.verify import verify_store

pytestmark = pytest.mark.skipif(os.name == "nt", reason="process groups are POSIX")
OPTIONS = {"spec": TilingSpec(tile_px=32, target_mpp=0.5), "tissue": "whole", "encoder": "colour"}


class Dask:
    """``dask scheduler`` and any number of ``dask worker``, each a process group of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file, self.started = folder, folder / "scheduler.json", []
        self.scheduler = self.start(
            "scheduler", "--scheduler-file", str(self.file), "--port", "0", "--dashboard-address", ":0",
            "--host", "127.0.0.1",
        )  # fmt: skip

    def start(self, *words: str, **environment: str) -> subprocess.Popen:
        with (self.folder / "log.txt").open("a") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "dask", *words], cwd=self.folder, stdout=log, stderr=log,
                start_new_session=True, env={**os.environ, **environment},
            )  # fmt: skip
        self.started.append(process)
        return process

    def worker(self, name: str, **environment: str) -> subprocess.Popen:
        return self.start(
            "worker", "--scheduler-file", str(self.file), "--nthreads", "2", "--name", name, "--host", "127.0.0.1",
            **environment,
        )  # fmt: skip

    def close(self) -> None:
        for process in reversed(self.started):
            kill(process)


def kill(process: subprocess.Popen) -> None:
    """kill -9 of a process and its children: a node that goes dark."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_until(true, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


@pytest.fixture
def dask(tmp_path) -> Iterator[Dask]:
    folder = tmp_path / "elsewhere"  # the workers' working directory is not the client's
    folder.mkdir()
    cluster = Dask(folder)
    try:
        wait_until(cluster.file.exists)
        yield cluster
    finally:
        cluster.close()


@pytest.fixture(scope="module")
def local(tmp_path_factory, cohort, tree_of):
    """The bytes of a run on this machine."""
    store = tmp_path_factory.mktemp("local") / "a.zarr"
    assert wk.extract_features(cohort, out=store, workers=2, **OPTIONS).ok
    return tree_of(store)


class KillAtFirstTiles(Progress):
    """Kills a worker in the midst of its tiles."""

    def __init__(self, victim: subprocess.Popen) -> None:
        self.victim, self.killed, self.said = victim, threading.Event(), []

    def tiles(self, count: int) -> None:
        if not self.killed.is_set():
            self.killed.set()
            kill(self.victim)

    def say(self, line: str) -> None:
        self.said.append(line)


def test_same_bytes_though_a_worker_is_killed(dask, local, cohort, tree_of, tmp_path, monkeypatch):
    victim, _ = dask.worker("w-0"), dask.worker("w-1")
    monkeypatch.chdir(tmp_path)  # relative paths, which mean nothing where the workers are
    (tmp_path / "slides").symlink_to(cohort)
    progress = KillAtFirstTiles(victim)
    with Client(scheduler_file=str(dask.file), set_as_default=False) as mine:
        mine.wait_for_workers(2, timeout=60)
        before = mine.run(sys.getswitchinterval)
        report = wk.extract_features("slides", out="a.zarr", scheduler=str(dask.file), progress=progress, **OPTIONS)
        assert report.ok
        assert progress.killed.is_set()
        # The cluster lives on, without a trace of the run.
        after = mine.run(lambda dask_worker: (list(dask_worker.plugins), sys.getswitchinterval()))
        assert len(after) == 1
        ((plugins, interval),) = after.values()
        assert not [name for name in plugins if "wsikit" in name]
        assert {interval} == set(before.values())
        assert mine.submit(sum, [1, 2]).result() == 3
    assert tree_of(report.store) == local
    assert verify_store(wk.open_store(report.store)) == []


@pytest.mark.slow
def test_workers_that_come_late_take_part(dask, local, cohort, tree_of, tmp_path):
    """None at first: the run says what it waits for. The address is as good as the file."""
    progress = KillAtFirstTiles(subprocess.Popen([sys.executable, "-c", ""], start_new_session=True))
    threading.Timer(1.0, dask.worker, ["late"]).start()
    with Client(scheduler_file=str(dask.file), set_as_default=False) as mine:
        address = mine.scheduler.address
    report = wk.extract_features(cohort, out=tmp_path / "a.zarr", scheduler=address, progress=progress, **OPTIONS)
    assert report.ok
    assert progress.said == [f"scheduler {address}: no worker yet; waiting up to 600 s for the first"]
    assert tree_of(report.store) == local


def test_nobody_comes(dask, cohort, tmp_path):
    with pytest.raises(NoWorkersError, match=r"scheduler .*: no worker after 1 s of waiting; is 'dask worker"):
        wk.extract_features(cohort, out=tmp_path / "a.zarr", scheduler=dask.file, worker_timeout_s=1, **OPTIONS)


@pytest.mark.slow
def test_all_workers_leave(dask, cohort, tmp_path):
    progress = KillAtFirstTiles(dask.worker("w-0"))
    with pytest.raises(NoWorkersError, match=r"no worker is left after 2 s of waiting"):
        wk.extract_features(
            cohort, out=tmp_path / "a.zarr", scheduler=dask.file, worker_timeout_s=2, progress=progress, **OPTIONS
        )


def test_a_result_that_went_with_the_last_worker_is_not_waited_for_for_ever(dask):
    victim = dask.worker("w-0")
    with Client(scheduler_file=str(dask.file), set_as_default=False) as mine:
        future = mine.submit(sum, (1, 2))
        while future.status != "finished":  # and not fetched
            time.sleep(0.05)
        kill(victim)
        while mine.nthreads():
            time.sleep(0.05)
        with pytest.raises(NoWorkersError, match=r"no worker is left after 1 s of waiting"):
            Crew(mine, patience_s=1).result(future)
        dask.worker("w-1")
        assert Crew(mine, patience_s=60).result(future) == 3


@pytest.mark.slow
def test_the_scheduler_ends(dask, local, cohort, tree_of, tmp_path):
    dask.worker("w-0")
    with Client(scheduler_file=str(dask.file), set_as_default=False) as mine:
        mine.wait_for_workers(1, timeout=60)
    with pytest.raises(ClusterLostError, match="it ended during the run; what is finished is kept"):
        wk.extract_features(
            cohort, out=tmp_path / "a.zarr", scheduler=dask.file, progress=KillAtFirstTiles(dask.scheduler), **OPTIONS
        )
    dask.close()
    assert wk.extract_features(cohort, out=tmp_path / "a.zarr", workers=1, **OPTIONS).ok
    assert tree_of(tmp_path / "a.zarr") == local


def test_another_version_is_refused(dask, cohort, tmp_path):
    """At the start, and a worker that comes when the run has begun."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text("import wsikit\nwsikit.__version__ = '0.0.7'\n")
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    old = dask.worker("old", PYTHONPATH=path)
    pattern = rf"has wsikit 0\.0\.7, and the run was begun by wsikit {wk.__version__}; install the same"
    with pytest.raises(ConfigError, match=pattern):
        wk.extract_features(cohort, out=tmp_path / "a.zarr", scheduler=dask.file, **OPTIONS)
    kill(old)

    class Relief(KillAtFirstTiles):
        def tiles(self, count: int) -> None:
            if not self.killed.is_set():
                dask.worker("older", PYTHONPATH=path)
            super().tiles(count)

    progress = Relief(dask.worker("new"))
    with pytest.raises(ConfigError, match=r"worker older on .* " + pattern):
        wk.extract_features(cohort, out=tmp_path / "a.zarr", scheduler=dask.file, progress=progress, **OPTIONS)


def test_a_worker_that_does_not_see_the_store(dask, cohort, tmp_path):
    """Another machine's disks, played by a preload that hides the store from the worker's process."""
    (dask.folder / "blind.py").write_text(
        "import pathlib\n"
        "real = pathlib.Path.is_dir\n"
        "pathlib.Path.is_dir = lambda self: 'a.zarr' not in self.parts and real(self)\n"
    )
    dask.start(
        "worker", "--scheduler-file", str(dask.file), "--name", "blind", "--host", "127.0.0.1",
        "--preload", str(dask.folder / "blind.py"),
    )  # fmt: skip
    with pytest.raises(StoreWriteError, match=r"worker blind on .*: no folder .*a\.zarr.* there; store, report and"):
        wk.extract_features(cohort, out=tmp_path / "a.zarr", scheduler=dask.file, **OPTIONS)


def test_words_that_do_not_go_together(cohort, tmp_path):
    out = tmp_path / "a.zarr"
    with pytest.raises(ConfigError, match=r"workers=2 is for this machine alone"):
        wk.extract_features(cohort, out=out, scheduler="tcp://127.0.0.1:1", workers=2)
    with pytest.raises(ConfigError, match=r"scheduler and cluster are both given"):
        wk.extract_features(cohort, out=out, scheduler="tcp://127.0.0.1:1", cluster="slurm.yaml")
    with pytest.raises(ConfigError, match=r"no scheduler file nowhere\.json: expected an address"):
        wk.extract_features(cohort, out=out, scheduler="nowhere.json")
