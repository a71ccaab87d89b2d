"""wsikit merge: join stores of equal configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = """Example:

wsikit merge cohort.zarr part-*.zarr"""


def command(
    out: Annotated[Path, typer.Argument(help="The store to copy into, new or of equal configuration.")],
    stores: Annotated[list[Path], typer.Argument(help="The stores to copy from; they are not changed.")],
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
