"""A Dask cluster that somebody else has started: it is used, and left as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from os import PathLike
from pathlib import Path
from typing import Any

from distributed import Client
from distributed.comm.core import CommClosedError

from wsikit import __version__
from wsikit.errors import ConfigError, WsikitError
from wsikit.extract.clusters import Crew, no_workers, quiet


class ClusterLostError(WsikitError, ConnectionError):
    """The scheduler of a cluster cannot be reached, or not any more."""


@contextlib.contextmanager
def existing_crew(scheduler: str | PathLike[str], *, patience_s: float, say: Callable[[str], None]) -> Iterator[Crew]:
    """The workers of an existing Dask cluster, which lives on after the run.

    Args:
        scheduler: Address (``tcp://host:8786``), or the file that ``dask scheduler --scheduler-file`` writes.
        patience_s: How long to wait for a worker.
        say: Told what is waited for.

    Raises:
        ConfigError: Neither an address nor a scheduler file; a worker has another version of wsikit.
        ClusterLostError: No scheduler answers there, or it ended during the run.
        NoWorkersError: No worker came, or all left.
    """
    import dask

    text = str(scheduler)
    options = {"address": text} if "://" in text else {"scheduler_file": _scheduler_file(text)}
    hint = f"is 'dask worker {text if '://' in text else '--scheduler-file ' + text}' running?"
    with quiet(), dask.config.set({"distributed.comm.timeouts.connect": "60s"}):
        try:
            client = Client(**options, timeout=30, name="wsikit", set_as_default=False)
        except (OSError, ValueError) as error:
            raise ClusterLostError(
                f"scheduler {text}: no answer ({error}); is 'dask scheduler' running, and does a firewall let this "
                "machine through to it?"
            ) from error
        with client:
            wait_for_worker(client, f"scheduler {text}", patience_s, hint, say)
            try:
                yield Crew(client, shared=True, patience_s=patience_s, hint=hint)
            except (CancelledError, CommClosedError) as error:
                raise ClusterLostError(
                    f"scheduler {text}: it ended during the run; what is finished is kept: start it again, then run "
                    "the same command again"
                ) from error


def wait_for_worker(client: Client, where: str, patience_s: float, hint: str, say: Callable[[str], None]) -> None:
    """Return when there is a worker, and all that there are have this wsikit.

    Raises:
        NoWorkersError: None in ``patience_s``.
        ConfigError: One has another version of wsikit, or none.
    """
    from wsikit.extract.worker import other_version

    if not client.nthreads():
        say(f"{where}: no worker yet; waiting up to {patience_s:.0f} s for the first")
        try:
            client.wait_for_workers(1, timeout=patience_s)
        except TimeoutError as error:
            raise no_workers(f"{where}: no worker", patience_s, hint) from error
    versions: Any = client.get_versions(packages=["wsikit"])
    for address, facts in versions["workers"].items():
        found = facts["packages"].get("wsikit") if facts else None
        if found != __version__:
            raise ConfigError(other_version(f"worker {address}", found, __version__))


def _scheduler_file(text: str) -> str:
    if not Path(text).is_file():
        raise ConfigError(
            f"no scheduler file {text}: expected an address such as tcp://host:8786, or the file that "
            f"'dask scheduler --scheduler-file {text}' writes on a disk that both machines see"
        )
    return text
