"""A disk that is full, read-only or not there: a clear error, and what is done so far is kept."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import wsikit as wk
from wsikit.store.verify import verify_store
from wsikit.testing.svs import write_svs

SMALL_MB = 2


@pytest.fixture(scope="module")
def slides(tmp_path_factory) -> Path:
    """Slides whose features come to more than the small disk."""
    import cv2

    folder = tmp_path_factory.mktemp("slides")
    for seed in range(8):
        coarse = np.random.default_rng(seed).integers(60, 230, (132, 132, 3), dtype=np.uint8)
        picture = cv2.resize(coarse, (2112, 2112), interpolation=cv2.INTER_CUBIC)
        write_svs(folder / f"s{seed}.svs", picture, levels=(1, 4))
    return folder


def run(slides: Path, store: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "wsikit", "extract", str(slides), "--out", str(store), "--tile-px", "32",
               "--tissue", "whole", "--workers", "1", "--encoder", "colour"]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of a few megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={SMALL_MB}m", "tmpfs"]
    if (
        shutil.which("mount") is None
        or subprocess.run(["mount", *options, str(folder)], capture_output=True).returncode
    ):
        pytest.skip("mounting a small file system needs root and Linux")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_full_disk(slides, small_disk):
    store = small_disk / "a.zarr"
    failed = run(slides, store)
    assert failed.returncode == 2, failed.stdout + failed.stderr
    assert "cannot be written: the disk is full; what is done so far is kept" in " ".join(failed.stderr.split())
    assert verify_is_clean(store)
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)  # the user makes room
    again = run(slides, store)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "8 slides done, 0 not" in again.stdout
    assert verify_store(wk.open_store(store)) == []


def verify_is_clean(store: Path) -> bool:
    """Nothing damaged: what a task could not finish has no record."""
    kinds = {f.kind for f in verify_store(wk.open_store(store))}
    return kinds <= {"unfinished", "unknown"}


def test_folders_that_cannot_be_written(slides, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    failed = run(slides, tmp_path / "file" / "a.zarr")
    assert failed.returncode == 2
    assert "cannot be created or written: " in failed.stderr
    assert "Not a directory" in failed.stderr or "file" in failed.stderr
    assert "Traceback" not in failed.stderr


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder(slides, tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    with contextlib.ExitStack() as stack:
        stack.callback(folder.chmod, 0o700)
        failed = run(slides, folder / "a.zarr")
    assert failed.returncode == 2
    assert "Permission denied" in failed.stderr


def test_disk_that_turned_read_only(slides, small_disk):
    store = small_disk / "a.zarr"
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    failed = run(slides, store)
    assert failed.returncode == 2
    assert "cannot be created or written: " in failed.stderr
    assert "Read-only file system" in failed.stderr
