"""wsikit verify: is the store what its records say?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = """Examples:

wsikit verify cohort.zarr

wsikit verify cohort.zarr --re-extract 20 --slides slides/ --encoder colour

Exit code: 0 all well, 1 something is wrong."""


def command(
    store: Annotated[str, typer.Argument(help="The feature store: a folder, or s3://BUCKET/NAME.")],
    slide: Annotated[list[str] | None, typer.Option(help="Only this slide; can be repeated.")] = None,
    re_extract: Annotated[int, typer.Option(help="Read and encode so many random tiles of each slide again.")] = 0,
    slides: Annotated[list[Path] | None, typer.Option(help="Where the slides are, for --re-extract.")] = None,
    manifest: Annotated[Path | None, typer.Option(help="The manifest they were extracted with.")] = None,
    encoder: Annotated[str, typer.Option(help="The encoder they were extracted with.")] = "texture",
    weights: Annotated[str | None, typer.Option(help="Its weights.")] = None,
    precision: Annotated[str, typer.Option(help="Its precision.")] = "float32",
    stain_norm: Annotated[str | None, typer.Option(help="The stain normalisation, if there was one.")] = None,
    pseudonymise: Annotated[Path | None, typer.Option(help="The key file they were extracted with.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Hash every object again, compare shapes, and values with statuses."""
    from rich.progress import track

    from wsikit.cli._show import print_json, stderr_console, stdout_console
    from wsikit.errors import ConfigError
    from wsikit.extract.devices import agreements
    from wsikit.store.reader import open_store
    from wsikit.store.verify import verify_listing, verify_store

    opened = open_store(store)
    if re_extract and not slides and manifest is None:
        raise ConfigError("--re-extract needs the slides: --slides FOLDER, or --manifest FILE")
    names = slide or opened.slide_ids
    findings = []
    for name in track(names, "verifying", console=stderr_console(), transient=True):
        findings += verify_store(opened, [name])
    if slide is None:
        findings += verify_listing(opened)
    if re_extract:
        from wsikit.extract.inputs import collect_slides
        from wsikit.extract.pseudonyms import pseudonymise as hide
        from wsikit.extract.reextract import re_extract as again
        from wsikit.extract.settings import EncoderSettings

        entries = collect_slides(slides or [], manifest=manifest)
        if pseudonymise is not None:
            if not pseudonymise.exists():  # one made now would fit no store
                raise ConfigError(f"no such key file: {pseudonymise}")
            entries, _ = hide(entries, pseudonymise, outside=[opened.path])
        entries = [e for e in entries if e.slide_id in names]
        asked = EncoderSettings(encoder, weights, precision, stain=stain_norm)
        findings += again(opened, entries, asked, tiles=re_extract)
    mixed = agreements(opened.path)
    if json_:
        print_json({"slides": len(names), "findings": findings, "agreements": mixed})
    else:
        console = stdout_console()
        for agreement in mixed:
            console.print(str(agreement), highlight=False, soft_wrap=True)
        for finding in findings:
            console.print(f"{finding.slide_id}: {finding.kind}: {finding.what}", highlight=False, soft_wrap=True)
        console.print(f"{len(names)} slides verified, {len(findings)} findings", highlight=False)
        if any(f.kind in ("damaged", "unknown") for f in findings):
            console.print("mend: 'wsikit remove' the slides named and extract them again", highlight=False)
    if findings:
        raise typer.Exit(1)
