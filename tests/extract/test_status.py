"""How far, how fast, how long still: from the records alone, of runs that are alive, dead, or over."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

import wsikit as wk
from wsikit.extract.status import store_status
from wsikit.store.lease import Lease

SPEC = wk.TilingSpec(tile_px=32, target_mpp=0.5)


@pytest.fixture(scope="module")
def store(cohort, tmp_path_factory):
    """Five shards: 4096 and 260 tiles of one slide, 256, 1024 and 256 of others."""
    out = tmp_path_factory.mktemp("status") / "a.zarr"
    return wk.extract_features(cohort, out=out, spec=SPEC, tissue="whole", encoder="colour", workers=1).store


@pytest.fixture
def copy(store, tmp_path):
    shutil.copytree(store, tmp_path / "a.zarr")
    return tmp_path / "a.zarr"


def shards(root):
    """Shard records, large first."""
    return sorted((p for p in (root / ".wsikit" / "done").glob("*/*/*")), key=lambda p: (p.parts[-3] != "large", p))


def at(root, times):
    for path, seconds in zip(shards(root), times, strict=True):
        os.utime(path, (1e9 + seconds,) * 2)


def test_pace_is_that_of_the_latest_shards(copy):
    at(copy, [0, 10, 20, 30, 40])
    status = store_status(wk.open_store(copy))
    rest = 260 + 256 + 1024 + 256
    assert (status.tiles_done, status.tiles_left) == (4096 + rest, 0)
    assert status.tiles_per_s == pytest.approx(rest / 40)  # the first shard was begun before the span
    assert status.seconds_left is None  # nothing runs


def test_time_left_while_a_run_is_alive(copy):
    at(copy, [0, 10, 20, 30, 40])
    slides = ["large", "fine", "middle", "small", "later"]
    key = wk.open_store(copy).keys("large")[0]
    (copy / ".wsikit" / "run.json").write_text(json.dumps({"key": key, "slides": slides}))
    shards(copy)[0].unlink()  # the large shard is to be done
    with Lease(copy):
        status = store_status(wk.open_store(copy))
    mean = (66 * 66 + 256 + 1024 + 256) / 4  # what a slide that nobody has looked at yet counts for
    assert status.tiles_left == 4096 + mean
    assert status.tiles_per_s == pytest.approx((256 + 1024 + 256) / 30)
    assert status.seconds_left == pytest.approx(status.tiles_left / status.tiles_per_s)
    assert f"process {os.getpid()}" in status.running


def test_a_night_between_two_runs_is_no_slowness(copy):
    at(copy, [0, 10, 40_000, 40_010, 40_020])
    assert store_status(wk.open_store(copy)).tiles_per_s == pytest.approx((1024 + 256) / 20)


def test_two_shards_tell_no_pace(copy):
    at(copy, [0, 10, 20, 40_000, 40_010])
    assert store_status(wk.open_store(copy)).tiles_per_s is None


def test_watch_follows_another_process_to_its_end(cohort, tmp_path):
    """The command in one process, the run in another."""
    out = tmp_path / "a.zarr"
    command = [sys.executable, "-m", "wsikit"]
    run = subprocess.Popen(
        [*command, "extract", str(cohort), "--out", str(out), "--tile-px", "32", "--tissue", "whole", "--encoder",
         "texture", "--workers", "1"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while not (out / ".wsikit" / "run.json").exists():
        assert run.poll() is None
    watched = subprocess.run(
        [*command, "status", str(out), "--watch", "--every", "0.2"], capture_output=True, text=True
    )
    assert run.wait() == 0
    assert watched.returncode == 0, watched.stdout + watched.stderr
    assert f"running now: process {run.pid} of " in watched.stdout
    last = watched.stdout.splitlines()[-2:]
    assert last == ["4 done (5,892 tiles), 0 failed, 0 remaining", "running now: nothing"]
    assert "to do; " in watched.stdout
