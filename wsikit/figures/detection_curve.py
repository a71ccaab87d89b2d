"""What a study reaches against the size of a planted effect."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from wsikit.errors import ConfigError
from wsikit.figures.look import COLOURS, GREY, INK, plain_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIZE = (6.4, 4.4)  # inches


def draw_detection_curve(
    share: npt.ArrayLike, value: npt.ArrayLike, interval: npt.ArrayLike, *, control: tuple[float, float, float]
) -> Figure:
    """AUC with its interval against the share of tiles that carry an effect, on a logarithmic axis.

    Args:
        share: (S,) above 0, up to 1.
        value: (S,) AUC.
        interval: (S, 2) its ends.
        control: AUC without any effect, and the ends of its interval: a grey band.

    Returns:
        A figure; ``savefig`` writes PNG, PDF or SVG.

    Raises:
        ConfigError: Columns that do not fit, a share out of range, or a number that is not finite.

    Example:
        >>> figure = draw_detection_curve([0.01, 0.1], [0.6, 0.9], [[0.5, 0.7], [0.8, 1.0]], control=(0.5, 0.4, 0.6))
        >>> figure.savefig("spike.png")
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    x, y, ends = (np.asarray(part, np.float64) for part in (share, value, interval))
    if x.ndim != 1 or not len(x) or y.shape != x.shape or ends.shape != (len(x), 2):
        raise ConfigError(f"share and value must be (S,), interval (S, 2); found {x.shape}, {y.shape} and {ends.shape}")
    if not all(np.isfinite(part).all() for part in (x, y, ends, np.array(control))) or (x <= 0).any() or (x > 1).any():
        raise ConfigError("expected finite numbers, and shares above 0 and up to 1")
    figure = Figure(figsize=_SIZE, dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.axhspan(control[1], control[2], color="#E3E3E3", linewidth=0, label="no effect planted")
    axes.axhline(control[0], color=GREY, linewidth=1.2)
    axes.axhline(0.5, color=GREY, linewidth=1, linestyle=(0, (4, 4)))
    axes.errorbar(
        100 * x, y, yerr=np.abs(ends.T - y), color=COLOURS[0], marker="o", markersize=7, linewidth=2, capsize=4,
        label="effect planted",
    )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xticks(100 * x, [f"{100 * one:.2g} %" for one in x])
    axes.set_xticks([], minor=True)
    axes.set_xlim(100 * x.min() / 1.6, 100 * x.max() * 1.6)
    axes.set_ylim(min(0.3, ends.min(), control[1]) - 0.02, 1.02)
    axes.set_xlabel("Tiles with the effect", fontsize=13, color=INK)
    axes.set_ylabel("AUC", fontsize=13, color=INK)
    plain_axes(axes, points=11.5, grid="y")
    figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=11.5)
    return figure
