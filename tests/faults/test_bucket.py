"""A store in a bucket through a run's bad days: the same bytes as on a disk, or one clear line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

import wsikit as wk
from wsikit.store.places import place_of
from wsikit.store.verify import verify_store
from wsikit.testing.svs import write_svs


@pytest.fixture(scope="module")
def slides(tmp_path_factory) -> Path:
    """Two slides of two shards each and a small one."""
    import cv2

    folder = tmp_path_factory.mktemp("slides")
    for seed, size in enumerate((2112, 2112, 512)):
        coarse = np.random.default_rng(seed).integers(60, 230, (size // 16, size // 16, 3), dtype=np.uint8)
        write_svs(folder / f"s{seed}.svs", cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC))
    return folder


@pytest.fixture(scope="module")
def on_disk(slides, tmp_path_factory) -> dict[str, bytes]:
    """The bytes of a run into a folder."""
    folder = tmp_path_factory.mktemp("disk")
    done = extract(slides, "a.zarr", folder)
    assert done.communicate()[1] is not None
    assert done.returncode == 0
    files = (p for p in (folder / "a.zarr").rglob("*") if p.is_file())
    return data_of({p.relative_to(folder / "a.zarr").as_posix(): p.read_bytes() for p in files})


def data_of(objects: dict[str, bytes]) -> dict[str, bytes]:
    return {name: content for name, content in objects.items() if not name.startswith(".wsikit/")}


def in_bucket(url: str) -> dict[str, bytes]:
    root = place_of(url)
    return data_of({p.key.removeprefix(root.key + "/"): p.read_bytes() for p, _ in root.below()})


def extract(slides: Path, store: str, folder: Path, *options: str) -> subprocess.Popen[str]:
    """The command, begun in a folder, in a group of processes of its own."""
    command = [
        sys.executable, "-m", "wsikit", "extract", str(slides), "--out", store, "--tile-px", "32",
        "--tissue", "whole", "--workers", "2", "--encoder", "colour", *options,
    ]  # fmt: skip
    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def wait_for(condition, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL and process groups are POSIX")
@pytest.mark.slow
def test_killed_and_resumed_it_has_the_bytes_of_a_run_on_disk(slides, on_disk, s3_server, bucket, tmp_path):
    url = f"{bucket}/cohort.zarr"
    first = extract(slides, url, tmp_path)
    done = place_of(url) / ".wsikit" / "done"
    wait_for(lambda: any(p.name == "0" for p, _ in done.below()))  # a shard is finished, others are not
    for victim in [*psutil.Process(first.pid).children(recursive=True), psutil.Process(first.pid)]:
        victim.send_signal(signal.SIGKILL)
    first.communicate()
    assert in_bucket(url) != on_disk
    again = extract(slides, url, tmp_path)
    said = again.communicate()
    assert again.returncode == 0, said
    assert f"store     {url}" in said[0]
    assert (tmp_path / "cohort.report" / "index.html").exists()  # here, where a browser opens it
    assert str(tmp_path / "cohort.report" / "index.html") in said[0]
    assert in_bucket(url) == on_disk
    assert verify_store(wk.open_store(url)) == []
    assert {p.name for p in place_of(url).parent.iterdir()} == {"cohort.zarr"}  # nothing beside the store


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="process groups are POSIX")
def test_a_server_that_goes_away_and_comes_back(slides, on_disk, s3_server, bucket, tmp_path):
    """For longer than the retries last: one line, and the same command goes on."""
    url = f"{bucket}/cohort.zarr"
    run = extract(slides, url, tmp_path)
    wait_for(lambda: (place_of(url) / ".wsikit" / "done" / "s2" / "plan").is_file())
    s3_server.shut()
    try:
        said = run.communicate(timeout=150)[1]
    finally:
        s3_server.open()
    assert run.returncode == 2
    assert "Traceback" not in said
    assert "the object storage does not answer as expected" in " ".join(said.split())
    assert "what is done so far is kept: run the same command again" in " ".join(said.split())
    again = extract(slides, url, tmp_path, "--wait")
    assert again.communicate()[1] is not None
    assert again.returncode == 0
    assert in_bucket(url) == on_disk


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="process groups are POSIX")
def test_a_server_that_is_away_for_a_moment_costs_nothing(slides, on_disk, s3_server, bucket, tmp_path):
    url = f"{bucket}/cohort.zarr"
    run = extract(slides, url, tmp_path)
    wait_for(lambda: (place_of(url) / ".wsikit" / "done" / "s2" / "plan").is_file())
    s3_server.shut()
    time.sleep(1)
    s3_server.open()
    said = run.communicate()
    assert run.returncode == 0, said
    assert in_bucket(url) == on_disk


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="process groups are POSIX")
def test_two_runs_at_once(slides, on_disk, s3_server, bucket, tmp_path):
    """The second is refused by name while the first is alive; with --wait it waits and finds all done."""
    url = f"{bucket}/cohort.zarr"
    first = extract(slides, url, tmp_path)
    wait_for((place_of(url) / ".wsikit" / "lease" / "00000001").is_file)
    refused, waiting = extract(slides, url, tmp_path), extract(slides, url, tmp_path, "--wait")
    said = " ".join(refused.communicate()[1].split())
    first.communicate()
    waiting.communicate()
    assert (first.returncode, refused.returncode, waiting.returncode) == (0, 2, 0)
    assert f"in use by process {first.pid}" in said
    assert in_bucket(url) == on_disk
