"""wsikit evaluate: trained models on patients of elsewhere whose outcome is known -> external validation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from wsikit.evaluation.external_result import ExternalResult

EXAMPLES = """Examples:

wsikit evaluate elsewhere.zarr --model runs/label/models --table elsewhere.csv --out external

wsikit evaluate elsewhere.zarr -m runs/label/models -t elsewhere.csv --recalibrate intercept --coverage 0.9

wsikit evaluate elsewhere.zarr -m runs/label/models -t elsewhere.csv --subgroup sex --subgroup age:65

The table has slide_id, patient_id and the outcome, in the columns that the models were trained with.

Exit code: 0 all measured, 1 some slides or patients of the table could not be, 2 nothing fits, or patients who
trained the models are among them."""


def command(
    target: Annotated[str, typer.Argument(help="A feature store, a folder of slides, or a slide.")],
    model: Annotated[Path, typer.Option("--model", "-m", help="A model bundle, or a folder of them (their mean).")],
    table: Annotated[Path, typer.Option("--table", "-t", help="CSV with slide_id, patient_id and the outcome.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = Path("external"),
    recalibrate: Annotated[
        str | None,
        typer.Option(
            help="Add a second result, recalibrated on these patients: intercept, or slope (and intercept); "
            "of survival the intercept is the baseline hazard.",
        ),
    ] = None,
    coverage: Annotated[
        float | None, typer.Option(help="Add prediction sets that hold the truth for this share of like patients: 0.9.")
    ] = None,
    by_class: Annotated[bool, typer.Option("--by-class", help="... of each class's patients, not of all.")] = False,
    horizon: Annotated[
        float | None, typer.Option(help="Survival: the time at which predicted and observed risk are compared.")
    ] = None,
    subgroup: Annotated[
        list[str] | None,
        typer.Option(help="Measure again by this column of the table: sex; cut a number: age:65. Can be repeated."),
    ] = None,
    bootstrap: Annotated[int, typer.Option(min=100, help="Resamples of patients for every interval.")] = 2000,
    weights: Annotated[str | None, typer.Option(help="Weights of the encoder, if it has some.")] = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes of an extraction.")] = None,
) -> None:
    """Measure trained models on an external cohort, with everything as it was at training.

    Threshold, cut between risk groups and weights stay; patients who trained the models are refused. Writes
    metrics.csv, predictions.csv, external.json and report.html, with --subgroup also subgroups.csv.
    """
    from typing import cast

    from wsikit.cli._show import LiveProgress
    from wsikit.evaluation.external import evaluate_external
    from wsikit.evaluation.recalibration import How
    from wsikit.reports.external import write_external_report

    with LiveProgress() as progress:
        result = evaluate_external(
            target, model, table, out=out, recalibrate=cast("How | None", recalibrate), coverage=coverage,
            by_class=by_class, horizon=horizon, subgroups=subgroup or (), bootstrap=bootstrap, weights=weights,
            workers=workers, progress=progress, say=progress.say,
        )  # fmt: skip
        page = write_external_report(result)
    _show(result, page)
    if any(one.reason != NOT_ASKED for one in result.cohort.exclusions):
        raise typer.Exit(1)


NOT_ASKED = "in the store but not in the table"


def _show(result: ExternalResult, page: Path) -> None:
    from rich.table import Table
    from rich.text import Text

    from wsikit.cli._show import stdout_console, subgroups_table

    console = stdout_console()
    for model in filter(None, (result.model, result.recalibrated)):
        shown = Table(title=model.name, title_justify="left", box=None, header_style="bold")
        shown.add_column("metric")
        for name in ("value", "95 % interval"):
            shown.add_column(name, justify="right")
        shown.add_column("")
        for m in model.metrics:
            ends = f"{m.interval.low:.3f} to {m.interval.high:.3f}" if m.interval else ""
            shown.add_row(m.name, "-" if m.value is None else f"{m.value:.3f}", ends, Text(m.note))
        console.print(shown)
    subgroups_table(console, result.subgroups)
    if result.threshold is not None:
        console.print(f"threshold {result.threshold:.3g}, frozen: {result.cuts}", highlight=False, soft_wrap=True)
    for note in result.notes:
        console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
    for reason, count in result.cohort.excluded.items():
        console.print(f"left out: {count} x {reason}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"table: {result.out / 'metrics.csv'}", highlight=False, soft_wrap=True)
    console.print(f"open: {page}", highlight=False, soft_wrap=True)
