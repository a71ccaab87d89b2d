"""What all figures of curves share: colours, axes, legends, and text that fits."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
"""Apart for colour-blind eyes: Okabe and Ito, 2008, https://jfly.uni-koeln.de/color/ (its yellow is too pale here)."""

DASHES = ("-", (0, (5, 1)), (0, (1.5, 0.8)), (0, (6, 1, 1.2, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (10, 2)))
"""Apart in black and white, too."""

INK, GREY = "#222222", "#666666"


def plain_axes(axes: Axes, *, points: float, grid: Literal["x", "y", "both"] = "both", left: bool = True) -> None:
    """Pale grid lines behind the data, and no frame but the axes themselves.

    Args:
        axes: Drawn already.
        points: Size of the numbers at the ticks.
        grid: Which lines.
        left: Whether there is an axis on the left.
    """
    axes.tick_params(labelsize=points, color=GREY, labelcolor=INK)
    axes.spines[["top", "right"] if left else ["top", "right", "left"]].set_visible(False)
    axes.spines[["left", "bottom"] if left else ["bottom"]].set_color(GREY)
    axes.grid(axis=grid, color="#E6E6E6", linewidth=0.8)
    axes.set_axisbelow(True)


def legend_below(
    figure: Figure,
    corner: tuple[float, float],
    *,
    handles: Sequence[Any] | None = None,
    labels: Sequence[str] | None = None,
    handle_length: float = 3.2,
) -> None:
    """A legend whose upper left corner is there, in shares of the figure; a "$" in a name is a "$"."""
    given = {} if handles is None else {"handles": handles, "labels": labels}
    written = figure.legend(
        loc="upper left", bbox_to_anchor=corner, frameon=False, fontsize=12, handlelength=handle_length,
        borderaxespad=0, borderpad=0, labelspacing=0.35, **given,
    )  # fmt: skip
    for text in written.get_texts():
        text.set_parse_math(False)


def wrap_text(text: str, *, inches: float, points: float, bold: bool = False) -> list[str]:
    """Lines of a text that are no wider than ``inches`` in a font of ``points``."""
    most = round(4 * 72 * inches / points)  # the letters of a text are wider than a quarter of their height
    for letters in range(min(most, len(text)), 1, -1):
        lines = textwrap.wrap(text, letters)
        if all(text_inches(line, points=points, bold=bold) <= inches for line in lines):
            return lines
    return list(text)


def text_inches(line: str, *, points: float, bold: bool = False) -> float:
    """Width of a line in the figures' font."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextToPath

    font = FontProperties(size=points, weight="bold" if bold else "normal")
    return float(TextToPath().get_text_width_height_descent(line, font, ismath=False)[0]) / 72
