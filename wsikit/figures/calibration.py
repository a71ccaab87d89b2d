"""Calibration: the observed share of positives against the predicted probability."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from wsikit.errors import ConfigError
from wsikit.figures.look import COLOURS, GREY, INK, legend_below, plain_axes, wrap_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH, _SIDE, _AXIS, _LINE, _MARGIN = 6.4, 5.0, 0.95, 0.27, 0.3  # inches: figure, axes, ticks and name, line, margin


@dataclass(frozen=True)
class CalibrationPoints:
    """The bins of one model, or of one class against the others.

    Args:
        name: In the legend.
        predicted: (K,) mean probability of each bin, rising.
        observed: (K,) share of positives in it.
        patients: (K,) in it.
        label: What the legend says after the name: slope and intercept.
    """

    name: str
    predicted: npt.ArrayLike
    observed: npt.ArrayLike
    patients: npt.ArrayLike
    label: str = ""


def draw_calibration(curves: Sequence[CalibrationPoints], *, title: str = "") -> Figure:
    """Observed against predicted shares, with the diagonal of a calibrated model.

    Upright lines are 95 % Wilson intervals of the observed shares: with few patients in a bin a point far
    from the diagonal may be chance.

    Args:
        curves: One to six; the first is drawn in blue.
        title: Above the figure.

    Returns:
        A figure; ``savefig`` writes PNG, PDF or SVG.

    Raises:
        ConfigError: No curves or more than six, columns of different lengths, shares outside 0 to 1, an empty bin.

    Example:
        >>> bins = CalibrationPoints("ABMIL", [0.1, 0.5, 0.9], [0.2, 0.4, 0.8], [20, 20, 20], "slope 0.8")
        >>> draw_calibration([bins]).savefig("calibration.png")

    Reference:
        Wilson, 1927, J Am Stat Assoc 22(158):209-212, doi:10.1080/01621459.1927.10502953.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not 1 <= len(curves) <= len(COLOURS):
        raise ConfigError(f"one to {len(COLOURS)} curves can be told apart in a figure; found {len(curves)}")
    columns = [_checked(curve) for curve in curves]
    room = _WIDTH - 2 * _MARGIN
    titles = wrap_text(title, inches=room, points=15, bold=True)
    words = [wrap_text(f"{c.name}  {c.label}".strip(), inches=room - 0.8, points=12) for c in curves]
    above = _LINE * len(titles) + 0.35
    below = _AXIS + _LINE * sum(map(len, words)) + 0.15
    height = above + _SIDE + below
    figure = Figure(figsize=(_WIDTH, height), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    for number, line in enumerate(titles):
        y = 1 - (0.28 + number * _LINE) / height
        figure.text(_MARGIN / _WIDTH, y, line, va="center", fontsize=15, weight="bold", color=INK)
    axes = figure.add_axes((1.0 / _WIDTH, below / height, _SIDE / _WIDTH, _SIDE / height))
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=(0, (4, 4)))
    for (predicted, observed, patients), colour, lines in zip(columns, COLOURS, words, strict=False):
        low, high = _wilson(observed, patients)
        axes.vlines(predicted, low, high, color=colour, linewidth=1, alpha=0.5)
        axes.plot(predicted, observed, "o-", color=colour, linewidth=1.8, markersize=6, label="\n".join(lines))
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set_xlabel("Predicted probability", fontsize=14, color=INK)
    axes.set_ylabel("Observed share", fontsize=14, color=INK)
    plain_axes(axes, points=12.5)
    legend_below(figure, (_MARGIN / _WIDTH, (below - _AXIS) / height), handle_length=2.5)
    return figure


def _checked(curve: CalibrationPoints) -> tuple[npt.NDArray[np.float64], ...]:
    columns = tuple(np.asarray(c, np.float64) for c in (curve.predicted, curve.observed, curve.patients))
    shapes = [c.shape for c in columns]
    if len(set(shapes)) > 1 or len(shapes[0]) != 1 or not shapes[0][0]:
        raise ConfigError(f"curve {curve.name!r}: predicted, observed and patients must all be (K,); found {shapes}")
    if not all(((c >= 0) & (c <= 1)).all() for c in columns[:2]) or not (columns[2] >= 1).all():
        raise ConfigError(f"curve {curve.name!r}: expected shares from 0 to 1, and a patient in every bin")
    return columns


def _wilson(
    share: npt.NDArray[np.float64], n: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    z = 1.959963984540054
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return centre - half, centre + half
