"""Deletion and insertion curves of a map of tiles, small enough to stand beside its heatmap."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from wsikit.errors import ConfigError
from wsikit.figures.look import COLOURS, GREY, INK, plain_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIZE = (3.9, 3.5)  # inches


def draw_removal_curves(
    share: npt.ArrayLike, deletion: npt.ArrayLike, insertion: npt.ArrayLike, random: npt.ArrayLike, *, name: str
) -> Figure:
    """A prediction while tiles are taken away: the map's highest first, its lowest first, and in random orders.

    Args:
        share: (S,) of the tiles taken away, 0 to 1.
        deletion: (S,) prediction without that share of the highest tiles.
        insertion: (S,) prediction without that share of the lowest ones.
        random: (R, S) prediction without that share of tiles in each random order; their range is a grey band.
        name: Of the prediction, beside its axis.

    Returns:
        A figure; ``savefig`` writes PNG, PDF or SVG.

    Raises:
        ConfigError: Curves that do not fit one another, or a number that is not finite.

    Example:
        >>> figure = draw_removal_curves([0, 0.5, 0.9], [1, 0.2, 0.1], [1, 1, 0.9], [[1, 0.7, 0.3]], name="risk")
        >>> figure.savefig("curves.png")
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    x, by_chance = np.asarray(share, np.float64), np.asarray(random, np.float64)
    down, up = np.asarray(deletion, np.float64), np.asarray(insertion, np.float64)
    if x.ndim != 1 or not x.shape == down.shape == up.shape or by_chance.shape[1:] != x.shape or not len(by_chance):
        raise ConfigError(
            f"share, deletion and insertion must be (S,), random (R, S) with R of at least 1; found shapes {x.shape}, "
            f"{down.shape}, {up.shape} and {by_chance.shape}"
        )
    if not all(np.isfinite(part).all() for part in (x, down, up, by_chance)):
        raise ConfigError("a curve has a number that is not finite")
    figure = Figure(figsize=_SIZE, dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    marker = "o" if len(x) == 1 else ""
    axes.fill_between(100 * x, by_chance.min(0), by_chance.max(0), color="#D9D9D9", linewidth=0, label="random, range")
    axes.plot(100 * x, by_chance.mean(0), color=GREY, linewidth=1.2, linestyle=(0, (3, 2)), label="random, mean")
    axes.plot(100 * x, down, color=COLOURS[1], linewidth=2, marker=marker, label="highest first")
    axes.plot(100 * x, up, color=COLOURS[0], linewidth=2, linestyle=(0, (5, 1)), marker=marker, label="lowest first")
    axes.set_xlim(0, 100)
    axes.set_xlabel("Tiles taken away, %", fontsize=10.5, color=INK)
    axes.set_ylabel(name, fontsize=10.5, color=INK, parse_math=False)
    plain_axes(axes, points=9.5, grid="y")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9.5, handlelength=2.4)
    return figure
