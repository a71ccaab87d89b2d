"""wsikit audit: may results on this cohort be believed? One page, red or green."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = """Examples:

wsikit audit cohort.zarr --cohort cohort.csv --label label --site hospital

wsikit audit runs/label --cohort cohort.csv --store cohort.zarr --site hospital

wsikit audit cohort.zarr --cohort cohort.csv --label label --pretraining TCGA,CPTAC --json

Exit code: 0 green or amber, 1 red, 2 nothing fits."""


def command(
    target: Annotated[str, typer.Argument(help="A feature store, or the folder of a cross-validation.")],
    cohort: Annotated[Path, typer.Option("--cohort", "-c", help="CSV: slide_id, patient_id, and other columns.")],
    site: Annotated[str | None, typer.Option(help="Column with the hospital or scanner.")] = None,
    label: Annotated[
        str | None, typer.Option(help="Column with the class, for a store; a run knows its endpoint.")
    ] = None,
    encoder: Annotated[str, typer.Option(help="Features, for a store; a run knows its own.")] = "texture",
    store: Annotated[list[str] | None, typer.Option(help="The store of a run; can be repeated.")] = None,
    pretraining: Annotated[
        str | None, typer.Option(help="What the encoder was trained on, as TCGA,CPTAC or none.")
    ] = None,
    permutations: Annotated[int, typer.Option(min=20, help="Dealings of sites among patients.")] = 200,
    out: Annotated[Path, typer.Option("--out", "-o", help="The page, or a folder for it.")] = Path("audit.html"),
    json_: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Ask a cohort what goes wrong in practice: sites that are recognised, duplicates, colour, leaks, an encoder
    that has seen the slides.

    Each question has a verdict, its number beside chance, and what to do.
    """
    from rich.markup import escape
    from rich.table import Table

    from wsikit.cli._show import print_json, stdout_console
    from wsikit.evaluation.audit.check import AuditSettings, worst
    from wsikit.evaluation.audit.cohort import audit_cohort
    from wsikit.evaluation.audit.target import audited
    from wsikit.reports.audit import write_audit

    asked = audited(target, cohort, site=site, label=label, encoder=encoder, stores=store)
    given = None if pretraining is None else [n for n in pretraining.split(",") if n.strip().lower() != "none"]
    checks = audit_cohort(
        asked.cohort, site=site, outcome=asked.outcome, fold=asked.fold, pretraining=given,
        settings=AuditSettings(permutations=permutations),
    )  # fmt: skip
    if out.suffix.lower() not in (".html", ".htm"):
        out = out / "audit.html"
    out.parent.mkdir(parents=True, exist_ok=True)
    page = write_audit(checks, asked.cohort, out, title=f"Audit of {asked.name}")
    verdict = worst(checks)
    if json_:
        plain = [
            {
                "name": c.name, "question": c.question, "verdict": c.verdict, "found": c.found, "advice": c.advice,
                "measure": c.number and c.number.measure, "value": c.number and c.number.value,
                "chance": c.number and c.number.chance, "interval": c.number and c.number.interval,
                "others": dict(c.number.others) if c.number else {},
            }
            for c in checks
        ]  # fmt: skip
        print_json({"verdict": verdict, "page": str(page), "checks": plain})
    else:
        console = stdout_console()
        table = Table("", "question", "found", "what to do", box=None, header_style="bold")
        for c in checks:
            colour = {"amber": "yellow"}.get(c.verdict, c.verdict)
            table.add_row(f"[{colour}]{c.verdict}[/{colour}]", c.question, escape(c.found), c.advice)
        console.print(table)
        console.print(f"{verdict}; open: {page}", highlight=False, soft_wrap=True)
    if verdict == "red":
        raise typer.Exit(1)
