"""``wsikit``: finds the commands beside it, and turns wsikit's errors into one clear message."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from typing import Annotated

import typer

import wsikit.cli
from wsikit.errors import WsikitError

EXIT_UNUSABLE = 2
"""The command could not run as asked."""

app = typer.Typer(
    name="wsikit",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="From whole-slide images to slide-level answers.",
    epilog="Begin with: wsikit extract slides/ --out cohort.zarr",
)


def _version(asked: bool) -> None:
    if asked:
        from wsikit import __version__

        typer.echo(f"wsikit {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """From whole-slide images to slide-level answers."""


def _load() -> None:
    """Each module of this package without a leading underscore is a command: its function ``command``."""
    for found in sorted(pkgutil.iter_modules(wsikit.cli.__path__), key=lambda m: m.name):
        if found.name != "main" and not found.name.startswith("_"):
            module = importlib.import_module(f"wsikit.cli.{found.name}")
            app.command(name=found.name, epilog=module.EXAMPLES)(module.command)


def main() -> None:
    """Entry point of the console script."""
    import logging

    _load()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        app()
    except WsikitError as error:
        typer.secho(f"error: {error}", fg=typer.colors.RED, err=True)
        sys.exit(EXIT_UNUSABLE)
