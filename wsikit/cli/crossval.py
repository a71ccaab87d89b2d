"""wsikit crossval: a table, a store and a model -> out-of-fold predictions, intervals and a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsikit.cli._cluster import Cluster, Scheduler, SchedulerFile, WorkerTimeout, crew_of

EXAMPLES = """Examples:

wsikit crossval config.yaml

wsikit crossval config.yaml --out runs/second --workers 8

wsikit crossval config.yaml --scheduler-file scheduler.json

A configuration for a class:

cohort: cohort.csv

stores: cohort.zarr

endpoint: {kind: class, column: label, classes: [0, 1]}

model: {aggregator: abmil, options: {embed_dim: 128, dropout: 0.5}}

out: runs/label

and for survival the endpoint is: {kind: survival, time: time, event: event, unit: months}

Several outcomes at once, each of which may be unknown of a patient:

endpoint: {kind: several, outcomes: {subtype: {kind: class, column: subtype, classes: [A, B]},

  life: {kind: survival, time: time, event: event, unit: months}}}"""


def command(
    config: Annotated[Path, typer.Argument(help="YAML file; paths in it are relative to it.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for the results, instead of its own.")] = None,
    workers: Annotated[int | None, typer.Option(help="Models fitted at once. Default: one per core.")] = None,
    scheduler: Scheduler = None,
    scheduler_file: SchedulerFile = None,
    cluster: Cluster = None,
    worker_timeout: WorkerTimeout = None,
) -> None:
    """Cross-validate a slide classifier, survival or regression model, and write a report.

    Every patient is predicted by models that have never seen it; all metrics come with intervals
    over patients and with simple baselines beside them.
    """
    import contextlib
    from functools import partial
    from types import SimpleNamespace

    from wsikit.allocator import keep_freed_memory
    from wsikit.cli._show import metrics_table, stdout_console
    from wsikit.evaluation.crossval import crossval
    from wsikit.evaluation.settings import load_experiment
    from wsikit.evaluation.several import crossval_several
    from wsikit.evaluation.tuning.workers import crew_map
    from wsikit.reports.crossval import write_report
    from wsikit.reports.outcomes import write_outcomes_report

    console = stdout_console()

    def say(line: str) -> None:
        typer.echo(line, err=True)

    keep_freed_memory()
    if scheduler or scheduler_file or cluster:  # whose workers have another working folder
        config, out = config.resolve(), None if out is None else out.resolve()
    experiment = load_experiment(config, out=out)
    crew = crew_of(
        scheduler, scheduler_file, cluster, worker_timeout, workers=workers, progress=SimpleNamespace(say=say)
    )
    with contextlib.ExitStack() as stack:
        spread = None if crew is None else partial(crew_map, stack.enter_context(crew()))
        if experiment.endpoint.get("kind") == "several":
            several = crossval_several(experiment, workers=workers, spread=spread, say=say)
            report, results = write_outcomes_report(several), dict(several.outcomes)
        else:
            result = crossval(experiment, workers=workers, spread=spread, say=say)
            report, results = write_report(result), {"": result}
    for name, one in results.items():
        if name:
            console.print(f"\n{name}: {len(one.cohort)} patients", highlight=False)
        metrics_table(console, one)
        for note in one.notes:
            console.print(f"note: {note}", highlight=False, soft_wrap=True)
    console.print(f"open: {report}", highlight=False, soft_wrap=True)
