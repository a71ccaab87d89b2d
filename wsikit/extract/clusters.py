"""Dask clusters to run on. Now: worker processes of this machine."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from distributed import Client, LocalCluster

THREADS = 2
"""Task threads of a worker: while one encodes, the other reads."""


def default_workers(device: str) -> int:
    """One worker per GPU, or one per core where there is none."""
    from dask.system import CPU_COUNT

    if device != "cpu":
        import torch

        if torch.cuda.is_available():
            return int(torch.cuda.device_count())
    return max(1, int(CPU_COUNT))


@contextlib.contextmanager
def local_client(workers: int) -> Iterator[Client]:
    """A client of a cluster of fresh processes on this machine (spawned: torch and tiffslide do not survive a fork)."""
    import dask

    settings: dict[str, Any] = {
        "distributed.worker.multiprocessing-method": "spawn",
        "distributed.scheduler.allowed-failures": 3,  # deaths of a worker before its task is called poison
        "distributed.comm.timeouts.connect": "60s",  # slow shared disks: importing torch takes its time
    }
    with (
        _quiet(),
        dask.config.set(settings),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=THREADS,
            processes=True,
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


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
