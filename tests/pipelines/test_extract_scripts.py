"""The scripts for SLURM, run by bash with a stand-in for ``srun`` that starts two tasks on this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import wsikit as wk

SCRIPTS = Path(__file__).resolve().parents[2] / "pipelines" / "extract"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name == "nt" or shutil.which("bash") is None, reason="shell scripts"),
]
SRUN = """#!/usr/bin/env bash
[[ $1 == --* ]] && shift
"$@" & "$@" & trap 'kill $(jobs -p)' TERM
wait
"""


def run(script: str, *words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    places = [str(cwd / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]  # stand-ins, wsikit and dask
    environment["PATH"] = os.pathsep.join(places)
    return subprocess.run(
        ["bash", str(SCRIPTS / script), *words], cwd=cwd, capture_output=True, text=True, timeout=170,
        env={**os.environ, **environment},
    )  # fmt: skip


def test_scheduler_file(two_slides, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "srun").write_text(SRUN)
    (tmp_path / "bin" / "srun").chmod(0o755)
    done = run(
        "scheduler_file.sbatch", str(two_slides), "a.zarr", "--encoder", "colour", cwd=tmp_path,
        SLURM_JOB_ID="7",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert wk.open_store(tmp_path / "a.zarr").slide_ids == ["a", "b"]
    assert not (tmp_path / "scheduler-7.json").exists()


def test_array(two_slides, tmp_path):
    (tmp_path / "manifest.csv").write_text(f"path\n{two_slides / 'a.svs'}\n{two_slides / 'b.svs'}\n")
    for number in "12":
        done = run(
            "array.sbatch", "manifest.csv", "a.zarr", "--encoder", "colour", "--workers", "1", cwd=tmp_path,
            SLURM_ARRAY_TASK_ID=number, SLURM_ARRAY_TASK_COUNT="2",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    parts = [wk.open_store(tmp_path / f"a-part-{number}-of-2.zarr").slide_ids for number in "12"]
    assert sorted(parts[0] + parts[1]) == ["a", "b"]
