"""wsikit tune: settings by trials on inner folds, an honest estimate of the whole, and a file for train."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from wsikit.cli._cluster import Cluster, Scheduler, SchedulerFile, WorkerTimeout, crew_of

EXAMPLES = """Examples:

wsikit tune config.yaml --trials 30

wsikit tune config.yaml --for model --out runs/tuned

wsikit tune config.yaml --scheduler-file scheduler.json

What is varied stands in the configuration; without it learning rate, weight decay and dropout are:

tune:

  trials: 30

  space: {learning_rate: {low: 0.0003, high: 0.03, log: true}, embed_dim: [64, 128, 256]}

Then: wsikit train runs/tuned/best.yaml --out runs/final. The same command goes on where a run ended."""


class Purpose(StrEnum):
    """What the trials are for."""

    both = "both"
    estimate = "estimate"
    model = "model"


def command(
    config: Annotated[Path, typer.Argument(help="YAML file, as of 'wsikit crossval'.")],
    trials: Annotated[int | None, typer.Option(min=1, help="Settings to try in each study. Default: 20.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the results. Default: 'tuned' in that of the file.")
    ] = None,
    purpose: Annotated[
        Purpose,
        typer.Option(
            "--for", help="'estimate': a study in each fold, tested outside it; 'model': one study, of all patients."
        ),
    ] = Purpose.both,
    fold: Annotated[
        int | None, typer.Option(help="Fold of the split file, from 0, whose training patients the model is for.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Models fitted at once. Default: one per core.")] = None,
    scheduler: Scheduler = None,
    scheduler_file: SchedulerFile = None,
    cluster: Cluster = None,
    worker_timeout: WorkerTimeout = None,
) -> None:
    """Choose a model's settings by trials, and say how good a model chosen so is.

    Every trial is judged on inner folds. For the estimate each fold of the cross-validation chooses its own settings
    without its tested patients; 'best.yaml' is for 'wsikit train'.
    """
    from wsikit.allocator import keep_freed_memory
    from wsikit.cli._show import metrics_table, stdout_console
    from wsikit.cli._trials import TrialProgress
    from wsikit.evaluation.settings import load_experiment
    from wsikit.evaluation.tuning.run import tune
    from wsikit.reports.crossval import write_report
    from wsikit.reports.tuning import write_tuning_figures

    if scheduler or scheduler_file or cluster:  # whose workers have another working folder
        config, out = config.resolve(), None if out is None else out.resolve()
    experiment = load_experiment(config)
    experiment = experiment.model_copy(update={"out": out or experiment.out / "tuned"})
    if trials is not None:
        experiment = experiment.model_copy(update={"tune": experiment.tune.model_copy(update={"trials": trials})})
    keep_freed_memory()
    with TrialProgress() as progress:
        crew = crew_of(scheduler, scheduler_file, cluster, worker_timeout, workers=workers, progress=progress)
        found = tune(
            experiment, purpose=purpose.value, fold=fold, workers=workers,
            crew=crew, say=progress.say, watch=progress.trial,
        )  # fmt: skip
    figures = write_tuning_figures(found)
    console = stdout_console()
    if found.estimate is not None:
        report = write_report(found.estimate)
        metrics_table(console, found.estimate)
        console.print("each fold has the settings that were chosen without it", highlight=False)
        console.print(f"open: {report}", highlight=False, soft_wrap=True)
    console.print(f"trials    {found.out / 'trials.csv'}", highlight=False, soft_wrap=True)
    for figure in figures:
        console.print(f"figure    {figure}", highlight=False, soft_wrap=True)
    console.print(f"settings  {found.out / 'best.yaml'}", highlight=False, soft_wrap=True)
