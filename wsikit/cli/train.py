"""wsikit train: a table, a store and a model -> one trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = """Examples:

wsikit train config.yaml

wsikit train config.yaml --out models/final --init pretrained.safetensors

wsikit train config.yaml --fold 2

wsikit train config.yaml --devices 4

wsikit train config.yaml --devices 2 --accelerator cpu

The configuration is that of 'wsikit crossval'; a fold is one of its 'splits: {file: ...}'. After a crash the
same command goes on after the last whole epoch. Several devices share the patients of each step."""


def command(
    config: Annotated[Path, typer.Argument(help="YAML file; paths in it are relative to it.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for the results, instead of its own.")] = None,
    fold: Annotated[
        int | None, typer.Option(help="Fold of the split file, from 0; its test patients stay out.")
    ] = None,
    init: Annotated[Path | None, typer.Option(help="Bundle whose aggregator's weights training starts from.")] = None,
    devices: Annotated[
        int | None, typer.Option(min=1, help="GPUs (or processes of the CPU) that train together. Default: 1.")
    ] = None,
    accelerator: Annotated[
        str | None, typer.Option(help="cpu, cuda, or one GPU as cuda:1. Default: a GPU where there is one.")
    ] = None,
) -> None:
    """Train one model on all patients but those that watch it, for 'wsikit predict'.

    How good such a model is on new patients, 'wsikit crossval' says.
    """
    from wsikit.cli._epochs import EpochProgress
    from wsikit.evaluation.settings import load_experiment, on_devices
    from wsikit.evaluation.train import train

    experiment = load_experiment(config, out=out)
    if init is not None:
        experiment = experiment.model_copy(update={"model": experiment.model.model_copy(update={"init": init})})
    experiment = on_devices(experiment, devices, accelerator)
    with EpochProgress(experiment.training.epochs) as progress:
        result = train(experiment, fold=fold, say=progress.say, watch=progress.epoch)
    last = result.history[result.best - 1]
    typer.echo(f"epoch {result.best} of {len(result.history)} kept: validation loss {last.validation_loss:.4f}")
    typer.echo(f"model: {result.bundle}")
