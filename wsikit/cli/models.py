"""wsikit models: what can be named, from encoders to aggregators."""

from __future__ import annotations

from typing import Annotated

import typer

EXAMPLES = """Examples:

wsikit models

wsikit models "timm:vit_small*"

wsikit models --kind tissue"""


def command(
    pattern: Annotated[str, typer.Argument(help="Shell pattern of names.")] = "*",
    kind: Annotated[str, typer.Option(help="encoder, tissue, stain, reader or aggregator; default: all.")] = "",
) -> None:
    """What can be named: tile encoders, tissue methods, stain normalisations, slide readers, aggregators."""
    from rich.table import Table

    from wsikit.cli._show import stdout_console
    from wsikit.errors import ConfigError, UnknownNameError

    tables = {
        "encoder": _encoders, "tissue": _tissue, "stain": _stain, "reader": _readers, "aggregator": _aggregators,
    }  # fmt: skip
    if kind and kind not in tables:
        raise ConfigError(f"--kind {kind}: expected one of {', '.join(tables)}")
    console, found = stdout_console(), 0
    for name in [kind] if kind else tables:
        columns, rows = tables[name](pattern)
        if not rows:
            continue
        found += len(rows)
        table = Table(title=name, title_justify="left")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    if not found:
        raise UnknownNameError(f"nothing is named like {pattern!r}; 'wsikit models' lists everything")


def _encoders(pattern: str) -> tuple[list[str], list[list[str]]]:
    from fnmatch import fnmatch

    from wsikit.encoders.registry import ENCODERS, FAMILIES, list_encoders

    rows = []
    for name in list_encoders(pattern):
        if name in ENCODERS:
            card = ENCODERS[name].card
            rows.append([name, str(card.dim), card.licence, card.summary])
        else:
            rows.append([name, "", "", ""])
    rows += [[f"{f.name}:NAME", "", "", f.summary] for f in FAMILIES.cards() if fnmatch(f"{f.name}:NAME", pattern)]
    return ["name", "width", "licence", "what"], rows


def _tissue(pattern: str) -> tuple[list[str], list[list[str]]]:
    from wsikit.slides.tissue_mask import SEGMENTERS

    cards = [SEGMENTERS[name].card for name in SEGMENTERS.names(pattern)]
    return ["name", "works at", "what", "reference"], [
        [c.name, f"{c.mpp:g} um/px", c.summary, c.reference] for c in cards
    ]


def _stain(pattern: str) -> tuple[list[str], list[list[str]]]:
    from wsikit.slides.stain_norm import STAIN_METHODS

    cards = [STAIN_METHODS[name].card for name in STAIN_METHODS.names(pattern)]
    return ["name", "what", "reference"], [[c.name, c.summary, c.reference] for c in cards]


def _readers(pattern: str) -> tuple[list[str], list[list[str]]]:
    from wsikit.slides.base import READERS

    cards = sorted((READERS[name].card for name in READERS.names(pattern)), key=lambda c: c.priority)
    return ["name", "formats", "library", "licence"], [[c.name, c.formats, c.source, c.licence] for c in cards]


def _aggregators(pattern: str) -> tuple[list[str], list[list[str]]]:
    from wsikit.aggregators.registry import AGGREGATORS

    cards = [AGGREGATORS[name].card for name in AGGREGATORS.names(pattern)]
    return ["name", "what", "paper"], [[c.name, c.summary, c.paper] for c in cards]
