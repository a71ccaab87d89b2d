"""wsikit spike: plant an effect in the real features, and see whether the study would have found it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = """Examples:

wsikit spike config.yaml

wsikit spike config.yaml --share 0.01 --share 0.03 --share 0.10 --strength 3

wsikit spike config.yaml --folds 5 --seeds 3 --out power"""


def command(
    config: Annotated[Path, typer.Argument(help="YAML file of a cross-validation.")],
    share: Annotated[
        list[float] | None, typer.Option(help="Of the tiles; can be repeated. Default: 0.01, 0.03 and 0.10.")
    ] = None,
    strength: Annotated[float, typer.Option(help="In spreads of the tiles along the planted direction.")] = 3.0,
    folds: Annotated[int, typer.Option(min=2, help="Of each cross-validation.")] = 3,
    inner_folds: Annotated[int, typer.Option(min=1, help="Models for each fold.")] = 1,
    seeds: Annotated[int, typer.Option(min=1, help="Repetitions with other labels, direction and tiles.")] = 1,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder, instead of the configuration's.")] = None,
    workers: Annotated[int | None, typer.Option(help="Models fitted at once. Default: one per core.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Add a known direction to a few tiles of half of the patients, and cross-validate on who they are.

    Says which share of tiles this cohort and this model would have seen. Features only; nothing on disk changes.
    """
    from wsikit.allocator import keep_freed_memory
    from wsikit.cli._show import print_json, stdout_console
    from wsikit.evaluation.settings import load_experiment
    from wsikit.evaluation.spike import SHARES, spike
    from wsikit.reports.spike import write_spike

    def say(line: str) -> None:
        typer.echo(line, err=True)

    keep_freed_memory()
    experiment = load_experiment(config, out=out)
    result = spike(
        experiment, shares=share or SHARES, strength=strength, folds=folds, inner_folds=inner_folds, seeds=seeds,
        workers=workers, say=say,
    )  # fmt: skip
    page = write_spike(result, experiment.out / "spike.html", title=f"Would it have been found? {experiment.name}")
    if json_:
        print_json({"page": str(page), "result": result})
        return
    console = stdout_console()
    for sentence in result.sentences():
        console.print(sentence, highlight=False, soft_wrap=True)
    console.print(f"open: {page}", highlight=False, soft_wrap=True)
