"""Jobs of a queue: the settings, the scripts that would be submitted, and a stand-in for SLURM that runs them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

import wsikit as wk
from wsikit.errors import ConfigError
from wsikit.extract.job_queue import JobQueue, job_cluster, load_job_queue
from wsikit.slides.tiling import TilingSpec

OPTIONS = {"spec": TilingSpec(tile_px=32, target_mpp=0.5), "tissue": "whole", "encoder": "colour"}
ROOT = Path(__file__).resolve().parents[2]
ASKED = {
    "queue": "gpu", "cores": 16, "memory": "64GB", "walltime": "1-02:30:00", "gpus": 2, "max_jobs": 4,
    "prologue": ["module load cuda"],
}  # fmt: skip
HEADERS = {
    "slurm": ["-p gpu", "-n 1", "--cpus-per-task=16", "--mem=60G", "-t 26:30:00", "--gres=gpu:2", "-A x"],
    "pbs": ["-q gpu", "-l select=1:ncpus=16:ngpus=2:mem=64gb", "-l walltime=26:30:00", "-A x"],
    "lsf": ["-q gpu", "-n 16", '-R "span[hosts=1]"', "-W 26:30", '-gpu "num=2"', "-A x"],
    "sge": ["-q gpu", "-l h_rt=26:30:00", "-l gpu=2", "-pe smp 16"],
}
PREFIX = {"slurm": "#SBATCH", "pbs": "#PBS", "lsf": "#BSUB", "sge": "#$"}


@pytest.mark.parametrize("kind", HEADERS)
def test_the_job_asks_for_what_was_asked(kind):
    queue = JobQueue(kind=kind, job_extra=["-pe smp 16"] if kind == "sge" else ["-A x"], **ASKED)
    with job_cluster(queue) as cluster:
        script = cluster.job_script()
    header = [line.removeprefix(PREFIX[kind]).strip() for line in script.splitlines() if line.startswith(PREFIX[kind])]
    assert not [line for line in HEADERS[kind] if line not in header], script
    lines = script.splitlines()
    (command,) = (line for line in lines if "dask_worker" in line)
    assert lines.index("module load cuda") < lines.index(command)
    assert "--nworkers 2" in command  # one for each GPU
    assert re.findall(r"--nthreads (\d+)", command)[-1] == "2"
    lifetime, stagger = (int(n) for n in re.findall(r"--lifetime(?:-stagger)? (\d+)s", command))
    assert 26.5 * 3600 - 1800 <= lifetime - stagger < lifetime + stagger <= 26.5 * 3600 - 120


def test_the_job_spends_its_cores_on_the_work(monkeypatch):
    """Its own lines, run by a shell: what Dask then reads, and a choice of the user's that is left alone."""
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    with job_cluster(JobQueue(kind="slurm", **ASKED)) as cluster:
        lines = [line for line in cluster.job_script().splitlines() if line.startswith("export ")]
    ask = (
        "import dask, distributed, os; print([dask.config.get('distributed.' + name) for name in "
        "('worker.profile.enabled', 'admin.tick.interval')], os.environ['MALLOC_ARENA_MAX'])"
    )
    script = "\n".join([*lines, f'{sys.executable} -c "{ask}"'])
    for arenas, heard in ((None, "1"), ("4", "4")):
        environment = {**os.environ, **({"MALLOC_ARENA_MAX": arenas} if arenas else {})}
        said = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True)
        assert said.stdout.strip() == f"[False, '500ms'] {heard}"


@pytest.mark.parametrize("walltime", ["00:10:00", "01:00:00", "2-00:00:00"])
def test_the_last_worker_leaves_before_the_walltime(walltime):
    queue = JobQueue(kind="slurm", cores=1, memory="1GB", walltime=walltime, max_jobs=1)
    lifetime, stagger = queue.lifetime_s
    days, _, clock = walltime.rpartition("-")
    hours, minutes, _ = clock.split(":")
    whole = int(days or 0) * 86_400 + int(hours) * 3600 + int(minutes) * 60
    assert 0.7 * whole <= lifetime <= whole - stagger - 120


def test_the_example_is_valid_and_threads_share_the_cores():
    queue = load_job_queue(ROOT / "pipelines" / "extract" / "slurm.yaml")
    assert (queue.kind, queue.workers, queue.reader_threads) == ("slurm", 2, 4)
    assert JobQueue(kind="pbs", cores=8, memory="8GB", walltime="01:00:00", max_jobs=1).workers == 8


GOOD = {"kind": "slurm", "cores": "4", "memory": "8GB", "walltime": '"01:00:00"', "max_jobs": "2"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"walltime": "12:00:00"}, r'walltime is 43200: put it in quotes: walltime: "12:00:00"'),
        ({"walltime": '"60"'}, r"walltime is '60': it is 0 s; expected HH:MM:SS or D-HH:MM:SS, at least 00:10:00"),
        ({"memory": "64"}, r"memory is 64: Input should be a valid string"),
        ({"memory": "64 gigs"}, r"memory is '64 gigs': expected a number with its unit, for instance 64GB"),
        ({"cores": '"4"'}, r"cores is '4': Input should be a valid integer"),
        ({"kind": "moab"}, r"kind is 'moab': Input should be 'slurm', 'pbs', 'lsf' or 'sge'"),
        ({"max_job": "3"}, r"no setting 'max_job'; did you mean 'max_jobs'.* \(there are: kind, queue, "),
        ({"max_jobs": None}, r"setting 'max_jobs' is missing"),
        ({"min_jobs": "5"}, r"min_jobs is 5 and max_jobs 2"),
        ({"kind": "sge"}, r"cores is 4: on SGE a parallel environment .* add for instance '-pe smp 4' to job_extra"),
    ],
)
def test_what_is_wrong_with_a_file(tmp_path, change, said):
    lines = [f"{name}: {value}" for name, value in {**GOOD, **change}.items() if value is not None]
    (tmp_path / "queue.yaml").write_text("\n".join(lines))
    with pytest.raises(ConfigError, match=r"queue\.yaml: .*" + said):
        load_job_queue(tmp_path / "queue.yaml")


def test_no_file_no_yaml(tmp_path):
    with pytest.raises(ConfigError, match=r"no file .*none\.yaml: expected a YAML file"):
        load_job_queue(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- kind: slurm\n")
    with pytest.raises(ConfigError, match=r"list\.yaml: expected settings such as 'kind: slurm', found list"):
        load_job_queue(tmp_path / "list.yaml")


def slurm(folder: Path, monkeypatch, submit: str) -> None:
    """``sbatch`` and ``scancel`` that do without SLURM: a job is a process group of this machine."""
    folder.mkdir()
    for name, text in {"sbatch": submit, "scancel": 'echo $1 >> "$0.log"; kill -9 -- -$1'}.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def queue_file(folder: Path) -> Path:
    path = folder / "queue.yaml"
    path.write_text("kind: slurm\ncores: 1\nmemory: 2GB\nwalltime: '01:00:00'\nmax_jobs: 2\n")
    return path


@pytest.mark.skipif(os.name == "nt", reason="the stand-in is a shell script")
def test_a_run_on_jobs(cohort, tree_of, tmp_path, monkeypatch):
    """Submitted, waited for, used, cancelled: the bytes of a run on this machine."""
    slurm(
        tmp_path / "bin", monkeypatch,
        'cp "$1" "$0.$$.job"; cd /; setsid bash "$0.$$.job" > "$0.$$.log" 2>&1 & echo Submitted batch job $!',
    )  # fmt: skip
    report = wk.extract_features(cohort, out=tmp_path / "a.zarr", cluster=queue_file(tmp_path), **OPTIONS)
    assert report.ok
    cancelled = [int(line) for line in (tmp_path / "bin" / "scancel.log").read_text().split()]
    assert len(list((tmp_path / "bin").glob("*.job"))) == len(cancelled) > 0
    deadline = time.monotonic() + 20
    while (left := [p for p in cancelled if psutil.pid_exists(p)]) and time.monotonic() < deadline:
        if all(psutil.Process(p).status() == psutil.STATUS_ZOMBIE for p in left):
            break  # of a container whose first process buries nobody
        time.sleep(0.1)
    else:
        assert not left
    assert wk.extract_features(cohort, out=tmp_path / "b.zarr", workers=2, **OPTIONS).ok
    assert tree_of(tmp_path / "a.zarr") == tree_of(tmp_path / "b.zarr")


@pytest.mark.skipif(os.name == "nt", reason="the stand-in is a shell script")
def test_a_queue_that_refuses(cohort, tmp_path, monkeypatch):
    slurm(tmp_path / "bin", monkeypatch, 'echo "sbatch: error: Invalid account" >&2; exit 1')
    with pytest.raises(ConfigError, match=r"refuses the job: sbatch: error: Invalid account\nThe job was:\n#!.*"):
        wk.extract_features(cohort, out=tmp_path / "a.zarr", cluster=queue_file(tmp_path), **OPTIONS)


def test_no_queue_here(cohort, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"kind is 'slurm', and there is no 'sbatch' here; run the command where"):
        wk.extract_features(cohort, out=tmp_path / "a.zarr", cluster=queue_file(tmp_path), **OPTIONS)


def test_parts_join_to_the_whole(cohort, tree_of, tmp_path):
    """Every slide is in one of the parts; a part without slides is a store without slides, and no error."""
    empty = wk.extract_features(cohort, out=tmp_path / "e.zarr", part=(5, 5), workers=1, **OPTIONS)
    assert empty.ok
    assert wk.open_store(empty.store).slide_ids == []
    for number in (1, 2, 3):
        report = wk.extract_features(cohort, out=tmp_path / "a.zarr", part=(number, 3), workers=1, **OPTIONS)
        assert report.ok
        assert report.store.name == f"a-part-{number}-of-3.zarr"
    parts = sorted(tmp_path.glob("a-part-*-of-3.zarr"))
    done = subprocess.run(
        [sys.executable, "-m", "wsikit", "merge", str(tmp_path / "a.zarr"), *map(str, parts)], check=False
    )
    assert done.returncode == 0
    assert wk.extract_features(cohort, out=tmp_path / "b.zarr", workers=2, **OPTIONS).ok
    assert tree_of(tmp_path / "a.zarr") == tree_of(tmp_path / "b.zarr")
    with pytest.raises(ConfigError, match=r"part 4/3; expected 1/3 to 3/3"):
        wk.extract_features(cohort, out=tmp_path / "a.zarr", part=(4, 3))
    with pytest.raises(ConfigError, match=r"no key file .*key\.csv: parts that run at once would each make one"):
        wk.extract_features(cohort, out=tmp_path / "a.zarr", part=(1, 3), pseudonymise=tmp_path / "key.csv")
