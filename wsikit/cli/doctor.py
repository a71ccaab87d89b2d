"""wsikit doctor: look at a cohort before it is extracted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = """Examples:

wsikit doctor slides/

wsikit doctor slides/ --manifest slides.csv --encoder colour --target-mpp 0.5 --csv doctor.csv

wsikit doctor slides/ --json > doctor.json

Exit code: 0 every slide would be done, 1 some would not, 2 the run could not be made as asked."""

_ADVANCED = "Advanced"
_ROWS = 40


def command(
    slides: Annotated[list[Path] | None, typer.Argument(help="Slide files, and folders to search for them.")] = None,
    encoder: Annotated[str, typer.Option(help="Tile encoder; 'wsikit models' lists them.")] = "texture",
    weights: Annotated[str | None, typer.Option(help="For encoders with weights: a file, 'hub', or 'random'.")] = None,
    target_mpp: Annotated[float, typer.Option(help="Resolution of the tiles, um per pixel.")] = 0.5,
    tile_px: Annotated[int, typer.Option(help="Side of a tile, px.")] = 256,
    min_tissue: Annotated[float, typer.Option(help="Keep tiles with at least this fraction of tissue.")] = 0.25,
    tissue: Annotated[str, typer.Option(help="How tissue is found; 'wsikit models' lists the methods.")] = "saturation",
    manifest: Annotated[Path | None, typer.Option(help="CSV, as for 'wsikit extract'.")] = None,
    mpp: Annotated[float | None, typer.Option(help="um per pixel of slides whose file records none.")] = None,
    sample: Annotated[int, typer.Option(help="Tiles of each slide to read.", min=0)] = 8,
    workers: Annotated[int | None, typer.Option(help="Processes that look. Default: one per core.", min=1)] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    csv: Annotated[Path | None, typer.Option(help="Write one row per slide to this file.")] = None,
    stride_px: Annotated[
        int | None, typer.Option(help="Distance of tiles, px. Default: --tile-px.", rich_help_panel=_ADVANCED)
    ] = None,
    tissue_option: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE for the tissue method; can be repeated.", rich_help_panel=_ADVANCED),
    ] = None,
    allow_unequal_mpp: Annotated[
        bool, typer.Option("--allow-unequal-mpp", help="Accept pixels that are not square.", rich_help_panel=_ADVANCED)
    ] = False,
    max_unreadable: Annotated[
        float,
        typer.Option(help="Share of unreadable tiles above which a slide is damaged.", rich_help_panel=_ADVANCED),
    ] = 0.0,
    batch_size: Annotated[int, typer.Option(help="Tiles per call of the encoder.", rich_help_panel=_ADVANCED)] = 64,
    precision: Annotated[
        str, typer.Option(help="float32, bfloat16 or float16.", rich_help_panel=_ADVANCED)
    ] = "float32",
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.", rich_help_panel=_ADVANCED)] = "auto",
    encoder_threads: Annotated[
        int, typer.Option(help="CPU threads of the encoder, per worker.", rich_help_panel=_ADVANCED)
    ] = 1,
) -> None:
    """Look at slides before 'wsikit extract': which would fail and why, and what the rest will cost.

    Takes the options of 'wsikit extract', opens every slide, finds its tissue and tiles, reads a few of
    them, and times the encoder. Nothing is written.
    """
    from rich.progress import Progress

    from wsikit.cli._show import doctor_table, stderr_console, stdout_console
    from wsikit.cli.extract import _option
    from wsikit.extract.checkup import CheckupSettings
    from wsikit.extract.doctor import as_json, diagnose, summary, write_csv
    from wsikit.extract.inputs import list_slides
    from wsikit.extract.settings import EncoderSettings, RunSettings
    from wsikit.slides.tiling import TilingSpec

    entries = list_slides(slides or [], manifest=manifest)
    run = RunSettings(
        store=Path(),
        spec=TilingSpec(tile_px, target_mpp, stride_px, min_tissue),
        tissue=tissue,
        tissue_options=dict(_option(text) for text in tissue_option or []),
        encoders=(EncoderSettings(encoder, weights, precision, device, batch_size, encoder_threads),),
        missing_mpp=mpp,
        allow_unequal_mpp=allow_unequal_mpp,
    )
    console = stderr_console()
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("looking", total=len(entries))
        found = diagnose(
            entries,
            CheckupSettings(run, sample, max_unreadable),
            workers=workers,
            progress=lambda check: bar.advance(task),
        )
    if csv is not None:
        write_csv(csv, found.slides)
    if json_:
        print(as_json(found))
    else:
        console = stdout_console()
        doctor_table(console, found.slides[:_ROWS])
        hidden = found.slides[_ROWS:]
        if hidden:
            bad = sum(not check.ok for check in hidden)
            console.print(f"({len(hidden)} more rows, {bad} of them slides that would fail: --csv FILE has all)")
        for line in summary(found):
            console.print(line, highlight=False, soft_wrap=True, markup=False)
    if not found.ok:
        raise typer.Exit(1)
