"""A tuning: the best value so far by trial, and the value of every trial against each setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from wsikit.errors import ConfigError
from wsikit.figures.look import COLOURS, GREY, INK, plain_axes, wrap_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ACROSS = 3  # pictures in a row, at most
_SIDE, _ROOM = (2.55, 1.9), (0.3, 0.85)  # inches: one picture's axes, and between two
_LEFT, _RIGHT, _ABOVE, _BELOW = 0.95, 0.25, 0.6, 0.75  # inches around all of them


@dataclass(frozen=True)
class TuningHistory:
    """Trials of one study.

    Args:
        value: (T,) in the order of the trials; NaN where a trial came to nothing.
        settings: (T,) of each setting, by name: numbers, or anything else that has a text.
        log: Names of the settings whose axis is logarithmic.
        title: Above the figure.
    """

    value: npt.ArrayLike
    settings: Mapping[str, Sequence[Any]]
    log: tuple[str, ...] = ()
    title: str = ""


def draw_tuning(history: TuningHistory, *, name: str, lower: bool = False) -> Figure:
    """First the values by trial with the best so far, then for each setting the values against it.

    The best trial is the same large point everywhere. A setting that mattered shows as a slope or an optimum inside
    the range; an optimum at an end says that the range should go further.

    Args:
        history: One study.
        name: Of the value, beside the axes.
        lower: Whether lower is better.

    Returns:
        A figure; ``savefig`` writes PNG, PDF or SVG.

    Raises:
        ConfigError: No trial with a value, or a setting without one for each trial.

    Example:
        >>> found = TuningHistory([0.6, 0.8, 0.7], {"learning_rate": [1e-4, 1e-3, 1e-2]}, log=("learning_rate",))
        >>> draw_tuning(found, name="AUC").savefig("tuning.png")
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    value = _checked(history)
    best = int(np.nanargmin(value) if lower else np.nanargmax(value))
    pictures = 1 + len(history.settings)
    across = min(_ACROSS, pictures)
    down = -(-pictures // across)
    width = _LEFT + across * _SIDE[0] + (across - 1) * _ROOM[0] + _RIGHT
    title = wrap_text(history.title, inches=width - _LEFT - _RIGHT, points=13) if history.title else []
    above = _ABOVE + 0.25 * max(0, len(title) - 1)
    height = above + down * _SIDE[1] + (down - 1) * _ROOM[1] + _BELOW
    figure = Figure(figsize=(width, height), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    low, high = _span(value)
    for number, setting in enumerate(["", *history.settings]):
        row, column = divmod(number, across)
        x = _LEFT + column * (_SIDE[0] + _ROOM[0])
        y = height - above - _SIDE[1] - row * (_SIDE[1] + _ROOM[1])
        axes = figure.add_axes((x / width, y / height, _SIDE[0] / width, _SIDE[1] / height))
        if setting:
            _slice(axes, history.settings[setting], value, best, log=setting in history.log)
        else:
            _course(axes, value, best, lower)
        axes.set_ylim(low, high)
        axes.set_xlabel(setting or "trial", fontsize=11, color=INK, parse_math=False)
        plain_axes(axes, points=10)
        axes.tick_params(labelleft=column == 0)
    figure.text(0.2 / width, 0.5, name, fontsize=12, color=INK, rotation=90, va="center", ha="center")
    figure.text(_LEFT / width, 1 - 0.14 / height, "\n".join(title), fontsize=13, color=INK, va="top", parse_math=False)
    return figure


def _checked(history: TuningHistory) -> npt.NDArray[np.float64]:
    value = np.asarray(history.value, np.float64)
    if value.ndim != 1 or not np.isfinite(value).any():
        raise ConfigError(f"tuning {history.title!r}: found no trial with a value to draw, expected one or more")
    for name, given in history.settings.items():
        if len(given) != len(value):
            raise ConfigError(
                f"tuning {history.title!r}: {len(given)} values of {name!r}, expected {len(value)}, one for each trial"
            )
    return value


def _span(value: npt.NDArray[np.float64]) -> tuple[float, float]:
    found = value[np.isfinite(value)]
    room = 0.08 * float(np.ptp(found)) or 0.05
    return float(found.min()) - room, float(found.max()) + room


def _course(axes: Axes, value: npt.NDArray[np.float64], best: int, lower: bool) -> None:
    trial = np.arange(1, len(value) + 1)
    so_far = np.fmin.accumulate(value) if lower else np.fmax.accumulate(value)
    axes.plot(trial, so_far, color=COLOURS[0], linewidth=1.6, drawstyle="steps-post")
    _points(axes, trial.astype(np.float64), value, best)
    axes.set_xlim(0.5, len(value) + 0.5)
    axes.locator_params(axis="x", integer=True, nbins=6)


def _slice(axes: Axes, given: Sequence[Any], value: npt.NDArray[np.float64], best: int, *, log: bool) -> None:
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in given)
    distinct = sorted(set(given), key=lambda v: (str(type(v)), v)) if numbers else list(dict.fromkeys(given))
    if numbers and len(distinct) > 6:
        _points(axes, np.asarray(given, np.float64), value, best)
        if log:
            axes.set_xscale("log")
        return
    place = {v: i for i, v in enumerate(distinct)}
    _points(axes, np.array([place[v] for v in given], np.float64), value, best)
    axes.set_xticks(range(len(distinct)), [f"{v:g}" if numbers else str(v) for v in distinct])
    axes.set_xlim(-0.5, len(distinct) - 0.5)


def _points(axes: Axes, x: npt.NDArray[np.float64], value: npt.NDArray[np.float64], best: int) -> None:
    axes.plot(x, value, "o", color=GREY, markersize=4, alpha=0.7)
    axes.plot(x[best], value[best], "o", color=COLOURS[1], markersize=7)
