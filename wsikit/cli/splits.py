"""wsikit splits: look for leaks in a file of splits, or write it as another tool reads it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = """Examples:

wsikit splits audit splits.csv --cohort config.yaml

wsikit splits audit splits_clam/ --cohort config.yaml --site hospital

wsikit splits write splits.csv --cohort config.yaml --layout clam --out splits_clam

Exit code: 0 no leak, 1 leaks were found, 2 the file cannot be used."""


class Action(StrEnum):
    """What to do with the splits."""

    audit = "audit"
    write = "write"


class LayoutName(StrEnum):
    """Whose layout to write."""

    wsikit = "wsikit"
    clam = "clam"
    patho_bench = "patho-bench"
    stamp = "stamp"


def command(
    action: Annotated[Action, typer.Argument(help="'audit' looks for leaks, 'write' changes the layout.")],
    file: Annotated[Path, typer.Argument(help="Splits of wsikit, CLAM (folder), Patho-Bench or STAMP.")],
    cohort: Annotated[Path, typer.Option(help="Configuration of 'wsikit crossval': its table, stores and endpoint.")],
    site: Annotated[
        str | None, typer.Option(help="Column with the site, or 'tcga'. Default: the configuration's, or 'site'.")
    ] = None,
    layout: Annotated[LayoutName, typer.Option(help="Layout to write.")] = LayoutName.wsikit,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File or folder to write.")] = None,
) -> None:
    """Audit splits: patients, sites or equal slides on both sides of a fold, and how outcomes are shared out."""
    from wsikit.cli._show import audit_table, stdout_console
    from wsikit.cohort.split_audit import audit_splits
    from wsikit.cohort.split_files import load_splits
    from wsikit.cohort.split_writers import write_splits
    from wsikit.errors import ConfigError
    from wsikit.evaluation.cohort import cohort_of
    from wsikit.evaluation.settings import load_experiment

    settings = load_experiment(cohort)
    patients = cohort_of(settings)
    splits = load_splits(file, patients, validation=settings.splits.validation, seed=settings.splits.seed)
    console = stdout_console()
    if action is Action.write:
        if out is None:
            raise ConfigError("wsikit splits write: name the file or folder to write with --out")
        for path in write_splits(splits, out, patients, layout=layout.value):
            console.print(f"wrote: {path}", highlight=False, soft_wrap=True)
        return
    audit = audit_splits(splits, patients, site=site or settings.splits.site)
    audit_table(console, audit)
    console.print(f"hash: {splits.hash}", highlight=False, soft_wrap=True)
    if audit.leaks:
        raise typer.Exit(1)
