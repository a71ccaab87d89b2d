"""Decision curves: the net benefit of acting on a model, beside treating all and treating nobody."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from wsikit.errors import ConfigError
from wsikit.figures.look import COLOURS, DASHES, GREY, INK, legend_below, plain_axes, wrap_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH, _CURVES, _AXIS, _LINE, _MARGIN = 7.4, 4.4, 0.95, 0.27, 0.3  # inches: figure, axes, ticks and name, line, margin


@dataclass(frozen=True)
class DecisionCurve:
    """Net benefit of one model.

    Args:
        name: In the legend.
        benefit: (T,) at each threshold.
    """

    name: str
    benefit: npt.ArrayLike


def draw_decision_curve(
    thresholds: npt.ArrayLike, curves: Sequence[DecisionCurve], treat_all: npt.ArrayLike, *, title: str = ""
) -> Figure:
    """Net benefit by the probability from which one acts.

    A model is of use where its curve is above both others: that of treating all, and 0, of treating
    nobody. The axis ends a little below 0: how harmful it is to treat all is not of interest.

    Args:
        thresholds: (T,) probabilities, rising.
        curves: One to six; the first is drawn in blue.
        treat_all: (T,) net benefit of treating everybody.
        title: Above the figure.

    Returns:
        A figure; ``savefig`` writes PNG, PDF or SVG.

    Raises:
        ConfigError: No curves or more than six, columns of different lengths, numbers that are not finite.

    Example:
        >>> curve = DecisionCurve("ABMIL", [0.4, 0.3, 0.2])
        >>> draw_decision_curve([0.1, 0.3, 0.5], [curve], [0.4, 0.2, -0.1]).savefig("decision.png")

    Reference:
        Vickers and Elkin, 2006, Med Decis Making 26(6):565-574, doi:10.1177/0272989X06295361.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not 1 <= len(curves) <= len(COLOURS):
        raise ConfigError(f"one to {len(COLOURS)} curves can be told apart in a figure; found {len(curves)}")
    x, everybody = np.asarray(thresholds, np.float64), np.asarray(treat_all, np.float64)
    benefits = [np.asarray(curve.benefit, np.float64) for curve in curves]
    if x.ndim != 1 or not len(x) or any(b.shape != x.shape for b in (everybody, *benefits)):
        raise ConfigError(
            f"thresholds, treat_all and all benefits must be (T,); found {[b.shape for b in (x, everybody, *benefits)]}"
        )
    if not all(np.isfinite(b).all() for b in (x, everybody, *benefits)):
        raise ConfigError("a threshold or a net benefit is not finite")
    room = _WIDTH - 2 * _MARGIN
    titles = wrap_text(title, inches=room, points=15, bold=True)
    words = [wrap_text(c.name, inches=room - 0.9, points=12) for c in curves]
    above = _LINE * len(titles) + 0.35
    below = _AXIS + _LINE * (2 + sum(map(len, words))) + 0.2
    height = above + _CURVES + below
    figure = Figure(figsize=(_WIDTH, height), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    for number, line in enumerate(titles):
        y = 1 - (0.28 + number * _LINE) / height
        figure.text(_MARGIN / _WIDTH, y, line, va="center", fontsize=15, weight="bold", color=INK)
    axes = figure.add_axes((1.1 / _WIDTH, below / height, (_WIDTH - 1.5) / _WIDTH, _CURVES / height))
    for benefit, colour, dashes, lines in zip(benefits, COLOURS, DASHES, words, strict=False):
        axes.plot(x, benefit, color=colour, linewidth=2.2, linestyle=dashes, label="\n".join(lines))
    axes.plot(x, everybody, color=GREY, linewidth=1.2, label="treat all")
    axes.plot(x[[0, -1]], [0, 0], color=INK, linewidth=1.2, linestyle=(0, (4, 4)), label="treat nobody")
    top = max(float(np.max([b.max() for b in (everybody, *benefits)])), 0.01)
    axes.set(xlim=(float(x[0]), float(x[-1])), ylim=(-0.15 * top, 1.08 * top))
    axes.set_xlabel("Probability from which one acts", fontsize=14, color=INK)
    axes.set_ylabel("Net benefit", fontsize=14, color=INK)
    plain_axes(axes, points=12.5)
    legend_below(figure, (_MARGIN / _WIDTH, (below - _AXIS) / height))
    return figure
