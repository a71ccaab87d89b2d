"""wsikit compare: runs on the same patients and folds -> paired differences, a figure and a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = """Examples:

wsikit compare runs/abmil runs/transmil runs/probe --out comparison

wsikit compare outside/abmil outside/transmil --external outside/config.yaml

Runs with other patients, outcomes or folds are refused: give the second one the first one's splits, with
splits: {file: runs/abmil/splits.csv}."""


def command(
    runs: Annotated[list[Path], typer.Argument(help="Folders that 'wsikit crossval' wrote, two or more.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = Path("comparison"),
    external: Annotated[
        Path | None,
        typer.Option(
            help="The folders are of 'wsikit predict'; a configuration with the cohort and endpoint of these patients."
        ),
    ] = None,
    bootstrap: Annotated[int, typer.Option(help="Resamples of patients.")] = 2000,
) -> None:
    """Compare runs: the difference of their main metric, paired by patient, with interval and p.

    p values are corrected for all pairs compared (Holm). On held-out patients DeLong's test is beside them.
    """
    from rich.table import Table

    from wsikit.cli._show import stdout_console
    from wsikit.cohort.endpoints import endpoint_from
    from wsikit.evaluation.comparison import compare_runs
    from wsikit.evaluation.run_files import NOT_RECORDED, read_external, read_run
    from wsikit.evaluation.settings import load_experiment
    from wsikit.reports.comparison import p_text, write_comparison

    if external is None:
        read = [read_run(run) for run in runs]
    else:
        config = load_experiment(external)
        read = [read_external(run, config.cohort, endpoint_from(config.endpoint)) for run in runs]
    found = compare_runs(read, draws=bootstrap)
    page = write_comparison(found, out)
    console = stdout_console()
    table = Table(box=None, header_style="bold")
    for name in (found.metric, "difference", "95 % interval", "p", "p after Holm", "p of DeLong"):
        table.add_column(name, justify="left" if name == found.metric else "right")
    for d in found.differences:
        ends = f"{d.interval.low:+.3f} to {d.interval.high:+.3f}"
        delong = "" if d.delong is None else p_text(d.delong.p)
        table.add_row(f"{d.first} minus {d.second}", f"{d.value:+.3f}", ends, p_text(d.p), p_text(d.p_holm), delong)
    console.print(table)
    if any(budget != NOT_RECORDED for budget in found.tuning):
        for name, budget in zip(found.names, found.tuning, strict=True):
            console.print(f"tuning of {name}: {budget}", highlight=False, markup=False, soft_wrap=True)
    for note in found.notes:
        console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
    console.print("intervals and p: over patients, conditional on the fitted models", highlight=False)
    console.print(f"open: {page}", highlight=False, soft_wrap=True)
