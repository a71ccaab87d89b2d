"""Where a run finds its workers: processes of this machine, a Dask cluster that exists, or jobs of a queue."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from os import PathLike
from typing import Any

from distributed import Client, LocalCluster, Nanny

from wsikit.errors import ConfigError, WsikitError

THREADS = 2
"""Task threads of a worker: while one encodes, the other reads."""

LIGHT = {"distributed.worker.profile.enabled": False, "distributed.admin.tick.interval": "500ms"}
"""Dask's settings for workers whose cores are all in use.

By default it samples what each is at a hundred times a second, and looks at its clock fifty times: 7 % of a core.
"""

_UNGUARDED = 78
"""Exit code of a worker that came upon the call which starts workers (EX_CONFIG of sysexits.h)."""


class WorkerStartError(WsikitError, RuntimeError):
    """A worker process ended before it was ready: mostly because of the script that it imported."""


class NoWorkersError(WsikitError, TimeoutError):
    """A cluster has had no worker for too long."""


class Crew:
    """The workers of a run, as they come and go.

    Args:
        client: Of their scheduler.
        shared: Whether they are not this run's own processes.
        most: Task threads that there will be at most, where that is known.
        patience_s: How long there may be none.
        hint: Where to look for why there are none.
    """

    def __init__(
        self, client: Client, *, shared: bool = False, most: int = 0, patience_s: float = 600, hint: str = ""
    ) -> None:
        self.client, self.shared = client, shared
        self._most, self._patience_s, self._hint = most, patience_s, hint
        self._now, self._asked, self._seen = 1, 0.0, time.monotonic()

    def threads(self) -> int:
        """Task threads of all workers, or as many as there may be: asked again every few seconds.

        Raises:
            NoWorkersError: There has been no worker for ``patience_s``.
        """
        now = time.monotonic()
        if now - self._asked > 5:
            self._asked, self._now = now, sum(self.client.nthreads().values())
            if self._now:
                self._seen = now
            elif now - self._seen > self._patience_s:
                raise no_workers("no worker is left", self._patience_s, self._hint)
        return max(1, self._now, self._most)

    def result(self, future: Any) -> Any:
        """What a task returned. Where that went with its worker it is made again, if there is another one.

        Raises:
            NoWorkersError: There has been no worker for ``patience_s``.
        """
        while True:
            try:
                return future.result(timeout=2)
            except TimeoutError:
                if future.status == "error":  # the task's own
                    raise
                self.threads()


def no_workers(what: str, waited_s: float, hint: str) -> NoWorkersError:
    """The error of a cluster without workers."""
    return NoWorkersError(
        f"{what} after {waited_s:.0f} s of waiting; {hint}. What is finished is kept: the same command goes on "
        "(--worker-timeout sets how long to wait)"
    )


def crew_for(
    *,
    workers: int | None,
    device: str,
    scheduler: str | PathLike[str] | None,
    cluster: str | PathLike[str] | None,
    worker_timeout_s: float | None,
    progress: Any,
) -> tuple[contextlib.AbstractContextManager[Crew], int]:
    """Workers from wherever they were asked for, and how many threads of each read for one shard.

    Raises:
        ConfigError: More than one place is named, or the file of a job queue cannot be used.
    """
    if scheduler is None and cluster is None:
        return local_crew(workers or default_workers(device)), default_reader_threads(workers, device)
    if scheduler is not None and cluster is not None:
        raise ConfigError("scheduler and cluster are both given; expected one of them")
    if workers is not None:
        raise ConfigError(
            f"workers={workers} is for this machine alone; on a cluster their number is up to whoever starts them"
        )
    if cluster is not None:
        from wsikit.extract.job_queue import load_job_queue, queue_crew

        queue = load_job_queue(cluster)
        return queue_crew(queue, patience_s=worker_timeout_s or 86_400, say=progress.say), queue.reader_threads
    from wsikit.extract.existing_cluster import existing_crew

    assert scheduler is not None
    return existing_crew(scheduler, patience_s=worker_timeout_s or 600, say=progress.say), 1


def default_workers(device: str) -> int:
    """One worker per GPU, or one per core where there is none."""
    from dask.system import CPU_COUNT

    if device != "cpu":
        import torch

        if torch.cuda.is_available():
            return int(torch.cuda.device_count())
    return max(1, int(CPU_COUNT))


def default_reader_threads(workers: int | None, device: str) -> int:
    """Half of the cores that there are for each worker: a worker is at two shards at once."""
    from dask.system import CPU_COUNT

    return max(1, int(CPU_COUNT) // (2 * (workers or default_workers(device))))


def refuse_while_starting() -> None:
    """End this process if it is a worker that is still importing the user's script; else do nothing.

    Workers are spawned, and a spawned process imports the script of its parent before anything else,
    which is how encoders registered in a script become known to workers. If that import reaches the
    call that starts workers, the call is not guarded. Going on would run the rest of the script once
    for each worker; the parent is told by the exit code and raises the error for all of them.

    Raises:
        WorkerStartError: The same in a spawned process that is not a worker of ours (a pool of the user's own).
    """
    process = multiprocessing.current_process()
    if getattr(process, "_inheriting", False):  # set by multiprocessing.spawn until the script is imported
        if process.name.startswith("Dask Worker"):
            os._exit(_UNGUARDED)  # not sys.exit: no "except" or "finally" of the script may run here
        raise WorkerStartError(_why(_UNGUARDED))


@contextlib.contextmanager
def local_crew(workers: int, *, threads: int = THREADS) -> Iterator[Crew]:
    """Fresh processes on this machine (spawned: torch and tiffslide do not survive a fork).

    Args:
        workers: How many.
        threads: Tasks that each has at once.

    Raises:
        WorkerStartError: A worker ended before it was ready; says why and what to do.
    """
    import dask

    refuse_while_starting()
    settings: dict[str, Any] = {
        "distributed.worker.multiprocessing-method": "spawn",
        "distributed.scheduler.allowed-failures": 3,  # deaths of a worker before its task is called poison
        "distributed.comm.timeouts.connect": "60s",  # slow shared disks: importing torch takes its time
        **LIGHT,
        "distributed.nanny.pre-spawn-environ": {
            **dask.config.get("distributed.nanny.pre-spawn-environ"),
            "MALLOC_ARENA_MAX": 1,  # see wsikit.allocator; what the user has set goes before it
        },
    }
    with quiet(), dask.config.set(settings), _cluster(workers, threads) as cluster, Client(cluster) as client:
        yield Crew(client, hint="see the messages of the processes above")


def _cluster(workers: int, threads: int) -> LocalCluster:
    try:
        return LocalCluster(
            n_workers=workers,
            threads_per_worker=threads,
            processes=True,
            worker_class=_Nanny,
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
        )
    except RuntimeError as error:  # Dask's own "Nanny failed to start", whose cause is the nanny's error
        if isinstance(error.__cause__, WorkerStartError):
            raise WorkerStartError(str(error.__cause__)) from None  # without Dask's thirty lines
        raise


class _Nanny(Nanny):
    """Tells with which code its worker ended at the start; Dask's own keeps that to itself."""

    exitcode: int | None = None

    def _on_worker_exit_sync(self, exitcode: int) -> None:
        self.exitcode = exitcode
        super()._on_worker_exit_sync(exitcode)  # type: ignore[no-untyped-call]  # Dask's is not typed

    async def start_unsafe(self) -> Any:
        try:
            return await super().start_unsafe()  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            if self.exitcode is None:
                raise
            raise WorkerStartError(_why(self.exitcode)) from error


def _why(exitcode: int) -> str:
    """What to say of a worker that ended at the start."""
    main = sys.modules.get("__mp_main__", sys.modules["__main__"])  # the former while a child imports the script
    script = getattr(main, "__file__", None) or "the main module"
    guard = 'if __name__ == "__main__":'
    if exitcode == _UNGUARDED:
        return (
            f"{script}: workers are fresh processes that import this script, and the import reached the call that "
            f"starts workers; put that call under `{guard}`"
        )
    return (
        f"a worker process ended with exit code {exitcode} before it was ready; workers are fresh processes that "
        f"import {script}: see its own message above, and put what workers must not do under `{guard}`"
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No log lines of Dask's own: workers that die are named in the run's table."""
    logger = logging.getLogger("distributed")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
