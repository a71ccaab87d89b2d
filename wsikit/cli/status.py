"""wsikit status: how far a store is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = """Examples:

wsikit status cohort.zarr

wsikit status cohort.zarr --json

Exit code: 0 everything done, 1 something failed or remains."""


def command(
    store: Annotated[Path, typer.Argument(help="The feature store.")],
    all_: Annotated[bool, typer.Option("--all", help="Show slides that are done, too.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """How far a store is: done, failed, remaining; safe while a run is at it."""
    from wsikit.cli._show import print_json, stdout_console
    from wsikit.extract.status import store_status
    from wsikit.store.reader import open_store

    status = store_status(open_store(store))
    rows = status.slides
    done, left = status.count("done"), status.count("waiting") + status.count("unfinished")
    if json_:
        print_json({"slides": rows, "running": status.running})
    else:
        from rich.table import Table

        console = stdout_console()
        shown = [r for r in rows if all_ or r.state != "done"]
        if shown:
            table = Table()
            for name in ("slide", "features", "state", "tiles", "shards", "reason"):
                table.add_column(name, overflow="fold")
            for r in shown:
                table.add_row(
                    r.slide_id,
                    r.key,
                    r.state,
                    f"{r.tiles:,}",
                    f"{r.shards_done}/{r.shards}",
                    " ".join(r.reason.split()),
                )
            console.print(table)
        failed = len(rows) - done - left
        tiles = sum(r.tiles for r in rows if r.state == "done")
        console.print(f"{done} done ({tiles:,} tiles), {failed} failed, {left} remaining", highlight=False)
        console.print(f"running now: {status.running or 'nothing'}", highlight=False)
    if done != len(rows):
        raise typer.Exit(1)
