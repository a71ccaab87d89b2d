"""Work in processes that may die: the guilty job alone is given up."""

from __future__ import annotations

import subprocess
import sys
import time

import psutil
import pytest

from wsikit.processes import outlive_workers

DEATH = "__import__('os')._exit(9)"  # what a decoder that crashes comes to; jobs here are Python for eval


def test_every_job_has_its_result_but_the_one_that_kills():
    jobs = [str(n) for n in range(12)]
    jobs[5] = DEATH
    found = dict(outlive_workers(eval, jobs, 2))
    assert found == {job: None if job == DEATH else int(job) for job in jobs}


def test_several_deaths_and_one_process():
    jobs = ["1", DEATH, "2", f"{DEATH} ", "3"]
    assert dict(outlive_workers(eval, jobs, 1)) == {"1": 1, DEATH: None, "2": 2, f"{DEATH} ": None, "3": 3}


def test_errors_are_raised_and_no_jobs_are_no_work():
    with pytest.raises(ZeroDivisionError):
        list(outlive_workers(eval, ["1", "1 / 0"], 1))
    assert list(outlive_workers(eval, [], 2)) == []


def test_jobs_are_taken_as_they_are_needed():
    taken = []

    def jobs():
        for n in range(1000):
            taken.append(n)
            yield str(n)

    results = outlive_workers(eval, jobs(), 2)
    next(results)
    assert len(taken) <= 8  # not all 10,000 slides of a cohort at once
    results.close()


def test_processes_end_with_the_one_that_started_them():
    script = "import time; from wsikit.processes import in_processes; list(in_processes(time.sleep, [60] * 4, 2))"
    parent = subprocess.Popen([sys.executable, "-c", script])
    children, deadline = [], time.monotonic() + 60
    while len(children) < 3 and time.monotonic() < deadline:  # two workers, and the tracker of shared resources
        time.sleep(0.2)
        children = psutil.Process(parent.pid).children(recursive=True)
    time.sleep(3)  # they have to be at their jobs
    parent.kill()
    parent.wait()
    gone, alive = psutil.wait_procs(children, timeout=20)
    for process in alive:
        process.kill()
    assert len(gone) >= 3
    assert not alive
