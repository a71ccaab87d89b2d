"""wsikit status: how far a store is."""

from __future__ import annotations

from typing import Annotated

import typer

EXAMPLES = """Examples:

wsikit status cohort.zarr

wsikit status cohort.zarr --watch

wsikit status cohort.zarr --json

Exit code: 0 everything done, 1 something failed or remains."""


def command(
    store: Annotated[str, typer.Argument(help="The feature store: a folder, or s3://BUCKET/NAME.")],
    all_: Annotated[bool, typer.Option("--all", help="Show slides that are done, too.")] = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Look again until no run is at it.")] = False,
    every: Annotated[float, typer.Option(help="Seconds between two looks with --watch.", min=0.2)] = 5.0,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """How far a store is: done, failed, remaining, tiles per second, time left; safe while a run is at it."""
    import time

    from wsikit.cli._show import print_json, status_lines, status_table, stdout_console
    from wsikit.extract.status import store_status
    from wsikit.store.reader import open_store

    console = stdout_console()
    status = store_status(open_store(store))
    with console.status("") as live:  # a line that is written over, in a terminal
        while watch and status.running:
            line = "; ".join(status_lines(status))
            if console.is_terminal:
                live.update(line)
            else:
                console.print(line, highlight=False)
            time.sleep(every)
            status = store_status(open_store(store))
    if json_:
        print_json(status)
    else:
        status_table(console, [r for r in status.slides if all_ or r.state != "done"])
        for line in status_lines(status):
            console.print(line, highlight=False)
    if status.count("done") != len(status.slides):
        raise typer.Exit(1)
