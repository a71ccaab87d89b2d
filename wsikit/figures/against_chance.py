"""A number beside what chance gives: one axis, read at a glance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from wsikit.errors import ConfigError
from wsikit.figures.look import COLOURS, GREY, INK, wrap_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIZE = (6.4, 2.1)  # inches


def draw_against_chance(
    value: float,
    *,
    chance: float,
    name: str,
    interval: tuple[float, float] | None = None,
    random: npt.ArrayLike = (),
    others: Mapping[str, float] | None = None,
    colour: str = COLOURS[0],
) -> Figure:
    """A number with its interval on an axis, the numbers that chance gave as grey bars, and others as ticks.

    Args:
        value: A point.
        chance: A dashed line.
        name: Of the number, below the axis.
        interval: Ends of a line through the point.
        random: (M,) the same number under chance.
        others: Further numbers by name.
        colour: Of the point.

    Returns:
        A figure; ``savefig`` writes PNG, PDF or SVG.

    Raises:
        ConfigError: A number that is not finite.

    Example:
        >>> figure = draw_against_chance(0.8, chance=0.5, name="AUC", interval=(0.7, 0.9), random=[0.45, 0.5, 0.56])
        >>> figure.savefig("auc.png")
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    by_chance, more = np.asarray(random, np.float64), dict(others or {})
    every = np.concatenate([[value, chance], by_chance, list(interval or ()), list(more.values())])
    if not np.isfinite(every).all():
        raise ConfigError(f"{name}: {int((~np.isfinite(every)).sum())} of the numbers to draw are not finite")
    figure = Figure(figsize=_SIZE, dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    low, high = min(every.min(), chance - 0.1), max(every.max(), chance + 0.1)
    room = 0.05 * (high - low)
    axes.set_xlim(low - room, high + room)
    if len(by_chance):
        counts, edges = np.histogram(by_chance, bins=np.linspace(low - room, high + room, 41))
        heights = 0.8 * counts / counts.max()
        axes.bar(edges[:-1], heights, np.diff(edges), align="edge", color="#CFCFCF", label="by chance")
    axes.axvline(chance, color=GREY, linewidth=1, linestyle=(0, (4, 4)))
    if interval is not None:
        axes.plot(interval, [0.45, 0.45], color=colour, linewidth=3, solid_capstyle="butt")
    axes.plot([value], [0.45], "o", color=colour, markersize=9, label=f"here: {value:.2f}")
    for number, (title, other) in enumerate(more.items()):
        own = COLOURS[1 + number % (len(COLOURS) - 1)]
        axes.plot([other, other], [0, 0.9], color=own, linewidth=2, label=f"{title}: {other:.2f}")
    axes.set_ylim(0, 1)
    axes.set_yticks([])
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines[["bottom"]].set_color(GREY)
    axes.tick_params(labelsize=11, color=GREY, labelcolor=INK)
    axes.set_xlabel("\n".join(wrap_text(name, inches=5.8, points=11)), fontsize=11, color=INK, parse_math=False)
    figure.legend(loc="outside upper left", ncols=3, frameon=False, fontsize=10.5, handlelength=1.2)
    return figure
