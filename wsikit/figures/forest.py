"""Numbers with their intervals, one below the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wsikit.errors import ConfigError
from wsikit.figures.look import COLOURS, GREY, INK, plain_axes, wrap_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH, _NAMES, _ROW, _AXIS, _LINE, _MARGIN = 8.2, 3.1, 0.3, 0.8, 0.22, 0.3  # inches


@dataclass(frozen=True)
class ForestRow:
    """A number.

    Args:
        name: Left of it; wrapped where it is long.
        value: Where the point is.
        low: Where the interval begins.
        high: Where it ends.
    """

    name: str
    value: float
    low: float
    high: float


def draw_forest(rows: Sequence[ForestRow], *, name: str, reference: float | None = None, title: str = "") -> Figure:
    """Points with their intervals, in the order given, from the top.

    Args:
        rows: One at least.
        name: Of the number, below the axis.
        reference: Where an upright line is drawn: 0 for differences.
        title: Above the figure.

    Returns:
        A figure; ``savefig`` writes PNG, PDF or SVG.

    Raises:
        ConfigError: No rows, or a number that is not finite or outside its own interval's order.

    Example:
        >>> draw_forest([ForestRow("A minus B", 0.05, -0.01, 0.1)], name="AUC", reference=0).savefig("forest.png")
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not rows:
        raise ConfigError("there are no rows to draw")
    for row in rows:
        if not np.isfinite([row.value, row.low, row.high]).all() or row.low > row.high:
            raise ConfigError(f"row {row.name!r}: {row.value}, {row.low} to {row.high}; expected finite, low first")
    titles = wrap_text(title, inches=_WIDTH - 2 * _MARGIN, points=14, bold=True)
    names = [wrap_text(row.name, inches=_NAMES - _MARGIN, points=11) for row in rows]
    tall = [_ROW + _LINE * (len(lines) - 1) for lines in names]
    above = 0.3 * len(titles) + 0.25
    height = above + sum(tall) + _AXIS
    figure = Figure(figsize=(_WIDTH, height), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    for number, line in enumerate(titles):
        y = 1 - (0.25 + 0.3 * number) / height
        figure.text(_MARGIN / _WIDTH, y, line, va="center", fontsize=14, weight="bold", color=INK)
    axes = figure.add_axes(
        ((_NAMES + 0.15) / _WIDTH, _AXIS / height, (_WIDTH - _NAMES - 0.45) / _WIDTH, sum(tall) / height)
    )
    if reference is not None:
        axes.axvline(reference, color=GREY, linewidth=1, linestyle=(0, (4, 4)))
    places = sum(tall) - np.cumsum(tall) + np.array(tall) / 2
    for row, lines, place in zip(rows, names, places.tolist(), strict=True):
        axes.plot([row.low, row.high], [place, place], color=COLOURS[0], linewidth=1.6)
        axes.plot([row.value], [place], "s", color=COLOURS[0], markersize=6)
        text = figure.text(
            (_NAMES - 0.05) / _WIDTH, (_AXIS + place) / height, "\n".join(lines), ha="right", va="center", fontsize=11,
            color=INK, linespacing=1.2,
        )  # fmt: skip
        text.set_parse_math(False)  # a "$" in a name is a "$"
    axes.set_ylim(0, sum(tall))
    axes.set_yticks([])
    axes.set_xlabel(name, fontsize=12, color=INK)
    axes.locator_params(axis="x", nbins=7)
    plain_axes(axes, points=11, grid="x", left=False)
    return figure
