"""Predicted against true values, with the line on which they are equal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from wsikit.errors import ConfigError
from wsikit.figures.look import COLOURS, GREY, INK, plain_axes, wrap_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH, _SIDE, _AXIS, _LINE, _MARGIN = 6.4, 5.0, 0.95, 0.27, 0.3  # inches: figure, axes, ticks and name, line, margin


def draw_scatter(
    true: npt.ArrayLike, predicted: npt.ArrayLike, *, name: str, title: str = "", note: str = ""
) -> Figure:
    """Predicted against true values on equal axes.

    Args:
        true: (P,) along x.
        predicted: (P,) along y, in the same unit.
        name: Of the value, as under the axes.
        title: Above the figure.
        note: Below the title.

    Returns:
        A figure; ``savefig`` writes PNG, PDF or SVG.

    Raises:
        ConfigError: Columns of different lengths, no patients, or a number that is not finite.

    Example:
        >>> draw_scatter([1.0, 2.0, 3.0], [1.2, 1.9, 2.4], name="grade").savefig("scatter.png")
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    x, y = np.asarray(true, np.float64), np.asarray(predicted, np.float64)
    if x.ndim != 1 or x.shape != y.shape or not len(x):
        raise ConfigError(f"true and predicted must be (P,) and not empty; found shapes {x.shape} and {y.shape}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ConfigError(f"{int((~np.isfinite(x) | ~np.isfinite(y)).sum())} pair(s) of values are not finite")
    room = _WIDTH - 2 * _MARGIN
    titles = wrap_text(title, inches=room, points=15, bold=True)
    notes = wrap_text(note, inches=room, points=12)
    above = _LINE * (len(titles) + len(notes)) + 0.35
    height = above + _SIDE + _AXIS
    figure = Figure(figsize=(_WIDTH, height), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    top = 1 - 0.28 / height
    for line in titles:
        figure.text(_MARGIN / _WIDTH, top, line, va="center", fontsize=15, weight="bold", color=INK)
        top -= _LINE / height
    for line in notes:
        figure.text(_MARGIN / _WIDTH, top, line, va="center", fontsize=12, color=GREY)
        top -= _LINE / height

    axes = figure.add_axes((1.15 / _WIDTH, _AXIS / height, _SIDE / _WIDTH, _SIDE / height))
    low, high = float(min(x.min(), y.min())), float(max(x.max(), y.max()))
    edge = 0.05 * (high - low) or 0.5
    ends = (low - edge, high + edge)
    axes.plot(ends, ends, color=GREY, linewidth=1, linestyle=(0, (4, 4)))
    axes.plot(x, y, "o", color=COLOURS[0], alpha=0.6, markersize=6, markeredgewidth=0)
    axes.set(xlim=ends, ylim=ends)
    for which, axis in (("True", axes.xaxis), ("Predicted", axes.yaxis)):
        words = wrap_text(f"{which} {name}", inches=_SIDE, points=14)
        axis.set_label_text(words[0] + (" ..." if len(words) > 1 else ""), fontsize=14, color=INK)
        axis.label.set_parse_math(False)  # a "$" in a name is a "$"
    axes.locator_params(nbins=6)
    plain_axes(axes, points=12.5)
    return figure
