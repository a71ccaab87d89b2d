"""wsikit extract: slides -> feature store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = """Examples:

wsikit extract slides/ --out cohort.zarr

wsikit extract slides/*.svs --out cohort.zarr --encoder colour --target-mpp 0.5 --tile-px 256 --workers 4

wsikit extract slides/ --out cohort.zarr --encoder texture --encoder colour

wsikit extract slides/ --out cohort.zarr --cluster slurm.yaml

wsikit extract slides/ --out s3://bucket/cohort.zarr

wsikit extract --manifest slides.csv --out cohort.zarr --encoder timm:vit_small_patch16_224 --weights vit.safetensors

Exit code: 0 all slides done, 1 some are not (see the table), 2 the run could not be made.
The same command goes on where a run ended."""

_ADVANCED = "Advanced"
_CLUSTER = "Cluster"


def command(
    slides: Annotated[list[Path] | None, typer.Argument(help="Slide files, and folders to search for them.")] = None,
    out: Annotated[
        str, typer.Option("--out", "-o", help="The feature store: new, or one to go on with; or s3://BUCKET/NAME.")
    ] = ...,  # type: ignore[assignment]
    encoder: Annotated[
        list[str] | None,
        typer.Option(help="Tile encoder; can be repeated: tiles are read once. Default: texture."),
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            help="For encoders with weights: a file, 'hub', or 'random'; with several encoders ENCODER=FILE, repeated."
        ),
    ] = None,
    target_mpp: Annotated[float, typer.Option(help="Resolution of the tiles, um per pixel.")] = 0.5,
    tile_px: Annotated[int, typer.Option(help="Side of a tile, px.")] = 256,
    min_tissue: Annotated[float, typer.Option(help="Keep tiles with at least this fraction of tissue.")] = 0.25,
    tissue: Annotated[str, typer.Option(help="How tissue is found; 'wsikit models' lists the methods.")] = "saturation",
    manifest: Annotated[
        Path | None,
        typer.Option(
            help="CSV with 'path' (or 'slide') and any of slide_id, mpp, mpp_x, mpp_y, scene, tissue, annotations."
        ),
    ] = None,
    stain_norm: Annotated[
        str | None,
        typer.Option(
            help="Normalise the stain of each slide: macenko, reinhard or vahadane.", rich_help_panel=_ADVANCED
        ),
    ] = None,
    annotations: Annotated[
        Path | None,
        typer.Option(
            help="Folder of annotations named like the slides (QuPath GeoJSON, ASAP XML): kept as labels of the tiles.",
            rich_help_panel=_ADVANCED,
        ),
    ] = None,
    annotation_class: Annotated[
        list[str] | None,
        typer.Option(help="Keep only tiles on annotations of this class; can be repeated.", rich_help_panel=_ADVANCED),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes. Default: one per core, or per GPU.")] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="Run on an existing Dask cluster: tcp://host:port.", rich_help_panel=_CLUSTER)
    ] = None,
    scheduler_file: Annotated[
        Path | None,
        typer.Option(help="The same by the file that 'dask scheduler' writes.", rich_help_panel=_CLUSTER),
    ] = None,
    cluster: Annotated[
        Path | None,
        typer.Option(help="Run as jobs of SLURM, PBS, LSF or SGE, described in a YAML.", rich_help_panel=_CLUSTER),
    ] = None,
    worker_timeout: Annotated[
        float | None,
        typer.Option(
            help="Seconds that a cluster may be without workers. Default: 600; a day with --cluster.",
            rich_help_panel=_CLUSTER,
        ),
    ] = None,
    part: Annotated[
        str | None,
        typer.Option(
            help="I/N: only part I of N, in a store of its own; 'wsikit merge' joins them.", rich_help_panel=_CLUSTER
        ),
    ] = None,
    stage: Annotated[
        str | None,
        typer.Option(
            help="Folder on each node's own disk ($TMPDIR): slides are copied there before they are read.",
            rich_help_panel=_CLUSTER,
        ),
    ] = None,
    stage_gb: Annotated[
        float | None, typer.Option(help="Gigabytes that the copies may take on a node.", rich_help_panel=_CLUSTER)
    ] = None,
    mixed_devices: Annotated[
        bool,
        typer.Option(
            "--mixed-devices",
            help="Accept features by CPUs and GPUs in one store; how well they agree is recorded.",
            rich_help_panel=_CLUSTER,
        ),
    ] = False,
    stride_px: Annotated[
        int | None, typer.Option(help="Distance of tiles, px. Default: --tile-px.", rich_help_panel=_ADVANCED)
    ] = None,
    tissue_option: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE for the tissue method; can be repeated.", rich_help_panel=_ADVANCED),
    ] = None,
    mpp: Annotated[
        float | None,
        typer.Option(help="um per pixel of slides whose file records none.", rich_help_panel=_ADVANCED),
    ] = None,
    allow_unequal_mpp: Annotated[
        bool, typer.Option("--allow-unequal-mpp", help="Accept pixels that are not square.", rich_help_panel=_ADVANCED)
    ] = False,
    max_unreadable: Annotated[
        float,
        typer.Option(
            "--max-unreadable",
            "--max-bad-tiles",
            help="Share of unreadable tiles above which a slide is damaged.",
            rich_help_panel=_ADVANCED,
        ),
    ] = 0.0,
    quality: Annotated[
        bool,
        typer.Option(
            help="Measure focus, pen and folds of each tile: about as much work as decoding it.",
            rich_help_panel=_ADVANCED,
        ),
    ] = True,
    batch_size: Annotated[int, typer.Option(help="Tiles per call of the encoder.", rich_help_panel=_ADVANCED)] = 64,
    precision: Annotated[
        str, typer.Option(help="float32, bfloat16 or float16.", rich_help_panel=_ADVANCED)
    ] = "float32",
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.", rich_help_panel=_ADVANCED)] = "auto",
    encoder_threads: Annotated[
        int, typer.Option(help="CPU threads of the encoder, per worker.", rich_help_panel=_ADVANCED)
    ] = 1,
    reader_threads: Annotated[
        int | None, typer.Option(help="Threads that decode tiles, per worker.", rich_help_panel=_ADVANCED)
    ] = None,
    pseudonymise: Annotated[
        Path | None,
        typer.Option(help="Key file (new or old) that gives slides other names.", rich_help_panel=_ADVANCED),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait while another run holds the store.", rich_help_panel=_ADVANCED)
    ] = False,
) -> None:
    """Cut slides into tiles, encode them, and keep the features in a Zarr store.

    What is done already is not done again. Every slide gets a row in the table and an overlay
    picture; one bad slide never stops the rest.
    """
    from wsikit.cli._show import LiveProgress, results_table
    from wsikit.extract.run import extract_features
    from wsikit.extract.settings import EncoderSettings
    from wsikit.slides.tiling import TilingSpec

    try:
        with LiveProgress() as progress:
            report = extract_features(
                slides or [],
                out=out,
                encoder=[
                    EncoderSettings(name, given, precision, device, batch_size, encoder_threads, stain_norm)
                    for name, given in _with_weights(encoder or ["texture"], weights or []).items()
                ],
                spec=TilingSpec(tile_px, target_mpp, stride_px, min_tissue),
                tissue=tissue,
                tissue_options=dict(_option(text) for text in tissue_option or []),
                manifest=manifest,
                missing_mpp=mpp,
                allow_unequal_mpp=allow_unequal_mpp,
                max_unreadable=max_unreadable,
                quality=quality,
                annotations=annotations,
                annotation_classes=annotation_class or (),
                pseudonymise=pseudonymise,
                workers=workers,
                scheduler=_one_scheduler(scheduler, scheduler_file),
                cluster=cluster,
                worker_timeout_s=worker_timeout,
                part=_part(part),
                stage=stage,
                stage_gb=stage_gb,
                mixed_devices=mixed_devices,
                reader_threads=reader_threads,
                wait=wait,
                progress=progress,
            )
    except KeyboardInterrupt:
        typer.secho("stopped; nothing that was finished is lost: the same command goes on", err=True)
        raise typer.Exit(130) from None
    results_table(report)
    if not report.ok:
        raise typer.Exit(1)


def _with_weights(encoders: list[str], weights: list[str]) -> dict[str, str | None]:
    from wsikit.errors import ConfigError

    if len(encoders) == 1 and len(weights) == 1 and not weights[0].startswith(f"{encoders[0]}="):
        return {encoders[0]: weights[0]}
    found: dict[str, str | None] = dict.fromkeys(encoders)
    for text in weights:
        name, equals, value = text.rpartition("=")
        if not equals or name not in found:
            raise ConfigError(f"--weights {text!r}: expected ENCODER=FILE with one of {', '.join(encoders)}")
        found[name] = value
    return found


def _one_scheduler(address: str | None, file: Path | None) -> str | Path | None:
    from wsikit.errors import ConfigError

    if address is not None and file is not None:
        raise ConfigError("--scheduler and --scheduler-file are both given; expected one of them")
    if address is not None and "://" not in address:
        raise ConfigError(f"--scheduler {address!r}: expected an address such as tcp://host:8786")
    return address or file


def _part(text: str | None) -> tuple[int, int] | None:
    from wsikit.errors import ConfigError

    if text is None:
        return None
    number, _, parts = text.partition("/")
    if not (number.isdecimal() and parts.isdecimal()):
        raise ConfigError(f"--part {text!r}: expected I/N, for instance 3/8")
    return int(number), int(parts)


def _option(text: str) -> tuple[str, object]:
    import json

    from wsikit.errors import ConfigError

    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--tissue-option {text!r}: expected NAME=VALUE")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value
