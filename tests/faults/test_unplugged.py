"""Folders that vanish in the middle of a run, and a worker that runs out of memory."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

import wsikit as wk
from wsikit.store.verify import verify_store
from wsikit.testing.svs import write_svs

SLIDES = 4


@pytest.fixture
def slides(tmp_path) -> Path:
    """Slides of two shards each, enough that a run is still at them when the first shard is done."""
    folder = tmp_path / "slides"
    folder.mkdir()
    for seed in range(SLIDES):
        coarse = np.random.default_rng(seed).integers(60, 230, (132, 132, 3), dtype=np.uint8)
        picture = cv2.resize(coarse, (2112, 2112), interpolation=cv2.INTER_CUBIC)
        write_svs(folder / f"s{seed}.svs", picture, levels=(1, 4))
    return folder


def command(slides: Path, store: Path) -> list[str]:
    return [sys.executable, "-m", "wsikit", "extract", str(slides), "--out", str(store), "--tile-px", "32",
            "--tissue", "whole", "--workers", "1", "--encoder", "colour"]  # fmt: skip


def unplug(what: Path, slides: Path, store: Path) -> tuple[int, str, str]:
    """Begin a run, move a folder away once a shard is done, and wait for what the run makes of it."""
    run = subprocess.Popen(command(slides, store), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list((store / ".wsikit" / "done").glob("*/*/0")):
        assert run.poll() is None, run.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    what.rename(what.with_name("away"))
    out, said = run.communicate(timeout=120)
    return run.returncode, " ".join(out.split()), " ".join(said.split())


def resume(slides: Path, store: Path) -> None:
    done = subprocess.run(command(slides, store), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{SLIDES} slides done, 0 not" in done.stdout
    assert verify_store(wk.open_store(store)) == []


@pytest.mark.skipif(os.name == "nt", reason="Windows does not rename folders that are in use")
@pytest.mark.slow
def test_the_stores_disk_is_unplugged(slides, tmp_path):
    store = tmp_path / "a.zarr"
    code, _, said = unplug(store, slides, store)
    assert code == 2
    assert "a.zarr: it is not there any more: a disk that was unplugged" in said or "a.zarr: cannot be written" in said
    assert "Traceback" not in said
    # Nothing was put in its place: on a real mount point that would fill the wrong disk, and be hidden afterwards.
    assert not [path for path in store.rglob("*") if path.is_file()]
    if store.exists():
        store.rmdir()
    store.with_name("away").rename(store)
    resume(slides, store)


@pytest.mark.skipif(os.name == "nt", reason="Windows does not rename folders that are in use")
@pytest.mark.slow
def test_the_slides_disk_is_unplugged(slides, tmp_path):
    store = tmp_path / "a.zarr"
    code, out, said = unplug(slides, slides, store)
    assert code == 1
    assert "Traceback" not in said
    assert "no such file" in out
    with (tmp_path / "a.report" / "failures.csv").open(newline="") as handle:
        assert {row["state"] for row in csv.DictReader(handle)} == {"unreadable"}
    slides.with_name("away").rename(slides)
    resume(slides, store)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits of a process's memory are Linux")
@pytest.mark.slow
def test_a_worker_that_runs_out_of_memory_costs_that_slide_only(slides, tmp_path):
    """Under a real limit of the process, an allocation for one slide fails."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import sys\n"
        "if 'spawn_main' in ' '.join(sys.orig_argv):\n"
        "    import resource\n"
        "    import wsikit.provenance\n"
        "    real = wsikit.provenance.fingerprint\n"
        "    def fingerprint(path):\n"
        "        if path.name == 's1.svs':\n"
        "            before = resource.getrlimit(resource.RLIMIT_AS)\n"
        "            pages = int(open('/proc/self/statm').read().split()[0])\n"
        "            now = pages * resource.getpagesize()\n"
        "            resource.setrlimit(resource.RLIMIT_AS, (now + 2**26, before[1]))\n"
        "            try:\n"
        "                bytearray(2**31)\n"
        "            finally:\n"
        "                resource.setrlimit(resource.RLIMIT_AS, before)\n"
        "        return real(path)\n"
        "    wsikit.provenance.fingerprint = fingerprint\n"
    )
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    store = tmp_path / "a.zarr"
    done = subprocess.run(
        command(slides, store), capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == 1, done.stdout + done.stderr
    with (tmp_path / "a.report" / "failures.csv").open(newline="") as handle:
        (failed,) = csv.DictReader(handle)
    assert (failed["slide_id"], failed["state"]) == ("s1", "failed")
    assert failed["reason"].startswith("MemoryError")
    resume(slides, store)
