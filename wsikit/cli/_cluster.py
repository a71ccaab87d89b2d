"""The options of commands that fit models on a Dask cluster."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wsikit.errors import ConfigError

if TYPE_CHECKING:
    from wsikit.extract.clusters import Crew

_PANEL = "Cluster"

Scheduler = Annotated[
    str | None, typer.Option(help="Fit on an existing Dask cluster: tcp://host:port.", rich_help_panel=_PANEL)
]
SchedulerFile = Annotated[
    Path | None, typer.Option(help="The same by the file that 'dask scheduler' writes.", rich_help_panel=_PANEL)
]
Cluster = Annotated[
    Path | None,
    typer.Option(help="Fit in jobs of SLURM, PBS, LSF or SGE, described in a YAML.", rich_help_panel=_PANEL),
]
WorkerTimeout = Annotated[
    float | None,
    typer.Option(
        help="Seconds that a cluster may be without workers. Default: 600; a day with --cluster.",
        rich_help_panel=_PANEL,
    ),
]


def crew_of(
    scheduler: str | None,
    scheduler_file: Path | None,
    cluster: Path | None,
    worker_timeout: float | None,
    *,
    workers: int | None,
    progress: Any,
) -> Callable[[], AbstractContextManager[Crew]] | None:
    """What opens the workers that are asked for; None where it is this machine.

    Raises:
        ConfigError: More than one place is named.
    """
    from wsikit.extract.clusters import crew_for

    if scheduler is not None and scheduler_file is not None:
        raise ConfigError("--scheduler and --scheduler-file are both given; expected one of them")
    place = scheduler or scheduler_file
    if place is None and cluster is None:
        return None
    opened = partial(
        crew_for, workers=workers, device="cpu", scheduler=place, cluster=cluster, worker_timeout_s=worker_timeout,
        progress=progress,
    )  # fmt: skip
    return lambda: opened()[0]
