"""Kaplan-Meier curves with their confidence bands, their censored patients, and the numbers at risk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from wsikit.errors import ConfigError
from wsikit.figures.look import COLOURS, DASHES, GREY, INK, plain_axes, text_inches, wrap_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH, _CURVES = 8.0, 4.4  # inches: of the figure, and the height of the axes
_AXIS, _MARGIN = 0.75, 0.3  # inches: for the ticks and the name of the time axis; left of all text
_LINE = 0.27  # inches for a line of text
_NAME = 2.3  # inches before a group's name is wrapped beside the table


@dataclass(frozen=True)
class KaplanMeierGroup:
    """Patients of one group.

    Args:
        name: As in the legend and the table.
        time: (P,) time to event or censoring, > 0, in the unit of the figure.
        event: (P,) bool or 0/1, True = it happened.
    """

    name: str
    time: npt.ArrayLike
    event: npt.ArrayLike


def draw_kaplan_meier(groups: Sequence[KaplanMeierGroup], *, unit: str, title: str = "", note: str = "") -> Figure:
    """Survival of groups over time.

    A step at every event, a short upright tick at every censored patient, and a band of pointwise
    95 % confidence (lifelines: Greenwood's variance on the log-log scale). Each curve ends with the
    last patient of its group. The table counts who is still under observation at each time
    (time >= tick): where few are, the curve says little.

    Args:
        groups: One to six; the first is drawn in blue.
        unit: Of the times, as under the axis: ``"months"``.
        title: Above the figure.
        note: Below the title: the test and its p value, where the groups come from.

    Returns:
        A figure; ``savefig`` writes PNG, PDF or SVG.

    Raises:
        ConfigError: No groups or more than six, one without patients, columns of different lengths,
            a time that is not above 0, or an event other than 0 or 1.

    Example:
        >>> low = KaplanMeierGroup("low risk", [9, 14, 20, 31], [0, 1, 0, 0])
        >>> high = KaplanMeierGroup("high risk", [2, 5, 6, 12], [1, 1, 0, 1])
        >>> draw_kaplan_meier([low, high], unit="months", note="log-rank p = 0.03").savefig("km.png")

    Reference:
        Kaplan and Meier, 1958, J Am Stat Assoc 53(282), doi:10.1080/01621459.1958.10501452.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not 1 <= len(groups) <= len(COLOURS):
        raise ConfigError(f"one to {len(COLOURS)} groups can be told apart in a figure; found {len(groups)}")
    columns = [_checked(group) for group in groups]

    room = _WIDTH - 2 * _MARGIN
    titles = wrap_text(title, inches=room, points=15, bold=True)
    notes = wrap_text(note, inches=room, points=12)
    counts = [f"({len(time)} patients, {int(event.sum())} events)" for time, event in columns]
    legend = [
        wrap_text(f"{group.name}  {count}", inches=room - 0.8, points=12)
        for group, count in zip(groups, counts, strict=True)
    ]
    names = [wrap_text(group.name, inches=_NAME, points=12.5, bold=True) or [""] for group in groups]
    above = _LINE * (len(titles) + len(notes) + sum(map(len, legend))) + 0.4
    below = _AXIS + _LINE * (1.6 + sum(map(len, names)))
    height = above + _CURVES + below
    widest = max(text_inches(line, points=12.5, bold=True) for lines in names for line in lines)
    left = max(1.1, _MARGIN + widest + 0.42)

    figure = Figure(figsize=(_WIDTH, height), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    box = (left / _WIDTH, below / height, 1 - (left + 0.3) / _WIDTH, _CURVES / height)
    axes = figure.add_axes(box)
    for (time, event), colour, dashes, lines in zip(columns, COLOURS, DASHES, legend, strict=False):
        _draw_curve(axes, time, event, colour, dashes, "\n".join(lines))
    _set_axes(axes, max(time.max() for time, _ in columns), unit)

    y = 1 - 0.28 / height
    for line in titles:
        figure.text(_MARGIN / _WIDTH, y, line, va="center", fontsize=15, weight="bold", color=INK)
        y -= _LINE / height
    for line in notes:
        figure.text(_MARGIN / _WIDTH, y, line, va="center", fontsize=12, color=GREY)
        y -= _LINE / height
    handles, labels = axes.get_legend_handles_labels()
    corner = (_MARGIN / _WIDTH, y + 0.4 * _LINE / height)
    figure.legend(
        handles, labels, loc="upper left", bbox_to_anchor=corner, frameon=False, fontsize=12, handlelength=3.2,
        borderaxespad=0, borderpad=0, labelspacing=0.35,
    )  # fmt: skip
    _write_table(figure, axes, columns, names, top=(below - _AXIS) / height, height=height)
    return figure


def _checked(group: KaplanMeierGroup) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    time, event = np.asarray(group.time, np.float64), np.asarray(group.event, np.float64)
    if time.ndim != 1 or time.shape != event.shape or len(time) == 0:
        raise ConfigError(
            f"group {group.name!r}: time and event must be (P,) with at least one patient; "
            f"found shapes {time.shape} and {event.shape}"
        )
    if not (np.isfinite(time) & (time > 0)).all():
        raise ConfigError(f"group {group.name!r}: every time must be above 0 and finite; the lowest is {time.min():g}")
    if not np.isin(event, (0, 1)).all():
        raise ConfigError(f"group {group.name!r}: every event must be 0 or 1; found {np.unique(event).tolist()}")
    return time, event == 1


def _draw_curve(
    axes: Axes,
    time: npt.NDArray[np.float64],
    event: npt.NDArray[np.bool_],
    colour: str,
    dashes: Any,
    label: str,
) -> None:
    from lifelines import KaplanMeierFitter

    fit = KaplanMeierFitter().fit(time, event, alpha=0.05)
    at = fit.survival_function_.index.to_numpy(np.float64)
    survival = fit.survival_function_.iloc[:, 0].to_numpy(np.float64)
    band = fit.confidence_interval_.to_numpy(np.float64)  # (moments, 2)
    axes.fill_between(at, band[:, 0], band[:, 1], step="post", color=colour, alpha=0.14, linewidth=0)
    axes.step(at, survival, where="post", color=colour, linestyle=dashes, linewidth=2.2, label=label)
    left = np.unique(time[~event])
    axes.plot(
        left, survival[np.searchsorted(at, left)], "|", color=colour, markersize=9, markeredgewidth=1.3, clip_on=False
    )


def _set_axes(axes: Axes, last: float, unit: str) -> None:
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    whole = [step for step in (1, 2, 3, 6, 12, 24, 36, 60, 120) if 2 <= last / step <= 8]
    if unit.lower().startswith("month") and whole:
        ticks = np.arange(0.0, last, whole[0])
    else:
        ticks = np.asarray(MaxNLocator(nbins=7, steps=[1, 2, 2.5, 5, 10]).tick_values(0, last), np.float64)
    axes.set_xticks(ticks[(ticks >= 0) & (ticks <= last)])
    axes.set_xlim(0, last * 1.02)
    axes.set_ylim(0, 1.02)
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel(f"Time ({unit})", fontsize=14, color=INK)
    axes.set_ylabel("Survival probability", fontsize=14, color=INK)
    plain_axes(axes, points=12.5, grid="y")


def _write_table(
    figure: Figure,
    axes: Axes,
    columns: Sequence[tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]],
    names: Sequence[Sequence[str]],
    *,
    top: float,
    height: float,
) -> None:
    """Numbers at risk, each below its tick; the rows in the colours of the curves."""
    from matplotlib.transforms import blended_transform_factory

    place = blended_transform_factory(axes.transData, figure.transFigure)
    line, y = _LINE / height, top - 0.5 * _LINE / height
    figure.text(_MARGIN / _WIDTH, y, "Number at risk", fontsize=12.5, weight="bold", color=INK, va="center")
    for (time, _), lines, colour in zip(columns, names, COLOURS, strict=False):
        y -= line
        for tick in axes.get_xticks():
            count = str(int((time >= tick).sum()))
            axes.text(tick, y, count, transform=place, fontsize=12.5, color=INK, ha="center", va="center")
        for number, words in enumerate(lines):
            y -= line if number else 0
            figure.text(_MARGIN / _WIDTH, y, words, fontsize=12.5, color=colour, weight="bold", va="center")
