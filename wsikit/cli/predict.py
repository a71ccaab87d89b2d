"""wsikit predict: slides or a store, and trained models -> predictions and heatmaps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = """Examples:

wsikit predict new_slide.svs --model runs/label/models --out prediction

wsikit predict cohort.zarr --model runs/label/models/fold-0-0.safetensors --out prediction --patients cohort.csv

wsikit predict cohort.zarr --model runs/transmil/models --out prediction --map rollout

wsikit predict cohort.zarr --model runs/label/models --patients cohort.csv --coverage 0.9

With the outcomes of these patients in a table, 'wsikit evaluate' says how good the models are on them.

Exit code: 0 all predicted, 1 some slides could not be, 2 none or nothing fits."""


SHOWN = ("prediction_set", "set_note", "low", "high", "ood_share", "ood_flag")
"""Of the further columns those that fit on a screen; the table has all."""


def command(
    target: Annotated[str, typer.Argument(help="A slide, a folder of slides, or a feature store.")],
    model: Annotated[Path, typer.Option("--model", "-m", help="A model bundle, or a folder of them (their mean).")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = Path("prediction"),
    patients: Annotated[
        Path | None, typer.Option(help="CSV with slide_id and patient_id: predict patients instead of slides.")
    ] = None,
    coverage: Annotated[
        float | None,
        typer.Option(help="Add the set of classes that holds the true one for this share of like patients: 0.9."),
    ] = None,
    by_class: Annotated[bool, typer.Option("--by-class", help="... of each class's patients, not of all.")] = False,
    heatmaps: Annotated[
        bool, typer.Option(help="Draw the map of the tiles over every slide, and write it as GeoJSON.")
    ] = True,
    tile_map: Annotated[
        str, typer.Option("--map", help="What it shows: attention, or rollout (attention through all layers).")
    ] = "attention",
    weights: Annotated[str | None, typer.Option(help="Weights of the encoder, if it has some.")] = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes of the extraction.")] = None,
) -> None:
    """Predict slides with trained models: tiles and features are made as in training.

    ood_flag in the table marks who is farther from the training patients than 99 % of these were.
    """
    from rich.table import Table

    from wsikit.cli._show import LiveProgress, stdout_console
    from wsikit.evaluation.predict import predict_slides
    from wsikit.evaluation.tile_maps import MAP_NAMES
    from wsikit.reports.heatmap import write_heatmaps

    with LiveProgress() as progress:
        report = predict_slides(
            target, model, out=out, patients=patients, coverage=coverage, by_class=by_class, weights=weights,
            workers=workers, tile_map=tile_map, progress=progress, say=progress.say,
        )  # fmt: skip
    console = stdout_console()
    shown = [name for name in SHOWN if report.predictions and name in report.predictions[0].assessed]
    table = Table("patient" if patients else "slide", *report.columns, "call", *shown, box=None, header_style="bold")
    for p in report.predictions[:40]:
        table.add_row(p.patient_id, *(f"{v:.3f}" for v in p.values), p.call, *(p.assessed[name] for name in shown))
    console.print(table)
    if len(report.predictions) > 40:
        console.print(f"... and {len(report.predictions) - 40} more", highlight=False)
    if report.unlike is not None:
        said, found = report.unlike, int(report.unlike.flagged.sum())
        console.print(
            f"{found} of {len(said.flagged)} are unlike the {said.known} patients of the training cohort (ood_flag); "
            f"of like ones {said.rate:.1%} would be",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
    if report.sets is not None:
        each = "each class's" if by_class else "like"
        console.print(
            f"sets hold the truth for {coverage:.0%} of {each} patients, by {report.sets.known} held-out ones; of "
            "unlike ones nothing is promised",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
    for name, why in report.skipped.items():
        console.print(f"not predicted: {name}: {why}", highlight=False, soft_wrap=True)
    console.print(f"table: {report.table}", highlight=False, soft_wrap=True)
    if heatmaps:
        drawn = [(p.slides, p.tile_map) for p in report.predictions if p.tile_map is not None]
        for slides, values in drawn:
            write_heatmaps(slides, values, out / "heatmaps", name=MAP_NAMES[report.map_kind])
        where = f"{out / 'heatmaps'}   (pictures, and GeoJSON for QuPath)"
        none = "none: the models have no attention over tiles; transformers have '--map rollout'"
        console.print(f"heatmaps: {where if drawn else none}", highlight=False, soft_wrap=True)
    if report.skipped:
        raise typer.Exit(1)
