"""wsikit remove: withdraw slides from a store."""

from __future__ import annotations

from typing import Annotated

import typer

EXAMPLES = """Example:

wsikit remove cohort.zarr slide-17 slide-18 --yes"""


def command(
    store: Annotated[str, typer.Argument(help="The feature store: a folder, or s3://BUCKET/NAME.")],
    slides: Annotated[list[str], typer.Argument(help="Slide ids.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete slides' features, coordinates and records from a store."""
    from wsikit.cli._show import stderr_console
    from wsikit.store.merge import remove_slides

    if not yes:
        typer.confirm(f"delete {len(slides)} slides from {store}?", abort=True)
    remove_slides(store, slides, say=stderr_console().print)
    typer.echo(f"{store}: {len(slides)} slides removed")
