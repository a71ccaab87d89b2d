"""wsikit merge: join stores of equal configuration."""

from __future__ import annotations

from typing import Annotated

import typer

EXAMPLES = """Examples:

wsikit merge cohort.zarr part-*.zarr

wsikit merge s3://bucket/cohort.zarr cohort.zarr"""


def command(
    out: Annotated[
        str,
        typer.Argument(help="The store to copy into, new or of equal configuration; a folder, or s3://BUCKET/NAME."),
    ],
    stores: Annotated[list[str], typer.Argument(help="The stores to copy from; they are not changed.")],
) -> None:
    """Copy the finished parts of stores into one, comparing hashes on the way."""
    from wsikit.cli._show import stderr_console, stdout_console
    from wsikit.store.merge import merge_stores

    console = stderr_console()
    with console.status("merging ...") as spinner:
        slides = merge_stores(
            out, stores, progress=lambda name: spinner.update(f"merging ... {name}"), say=console.print
        )
    stdout_console().print(f"{out}: {len(slides)} slides from {len(stores)} stores", highlight=False, soft_wrap=True)
