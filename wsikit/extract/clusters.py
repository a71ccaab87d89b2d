"""Dask clusters to run on. Now: worker processes of this machine."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import sys
from collections.abc import Iterator
from typing import Any

from distributed import Client, LocalCluster, Nanny

from wsikit.errors import WsikitError

THREADS = 2
"""Task threads of a worker: while one encodes, the other reads."""

_UNGUARDED = 78
"""Exit code of a worker that came upon the call which starts workers (EX_CONFIG of sysexits.h)."""


class WorkerStartError(WsikitError, RuntimeError):
    """A worker process ended before it was ready: mostly because of the script that it imported."""


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
def local_client(workers: int) -> Iterator[Client]:
    """A client of a cluster of fresh processes on this machine (spawned: torch and tiffslide do not survive a fork).

    Raises:
        WorkerStartError: A worker ended before it was ready; says why and what to do.
    """
    import dask

    refuse_while_starting()
    settings: dict[str, Any] = {
        "distributed.worker.multiprocessing-method": "spawn",
        "distributed.scheduler.allowed-failures": 3,  # deaths of a worker before its task is called poison
        "distributed.comm.timeouts.connect": "60s",  # slow shared disks: importing torch takes its time
    }
    with _quiet(), dask.config.set(settings), _cluster(workers) as cluster, Client(cluster) as client:
        yield client


def _cluster(workers: int) -> LocalCluster:
    try:
        return LocalCluster(
            n_workers=workers,
            threads_per_worker=THREADS,
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
def _quiet() -> Iterator[None]:
    """No log lines of Dask's own: workers that die are named in the run's table."""
    logger = logging.getLogger("distributed")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
