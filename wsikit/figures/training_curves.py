"""Training curves: loss of the training and of the validation patients, a small picture for each fold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from wsikit.errors import ConfigError
from wsikit.figures.look import COLOURS, INK, plain_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TRAIN, VALIDATION = COLOURS[0], COLOURS[1]

_ACROSS = 5  # pictures in a row, at most
_SIDE = (2.05, 1.75)  # inches: width and height of one picture's axes
_ROOM = (0.25, 0.55)  # inches between two: for nothing, and for the ticks of the upper and the name of the lower


@dataclass(frozen=True)
class TrainingCurve:
    """Losses of one fitted model.

    Args:
        panel: The picture it belongs to, as its title: "fold 1".
        train: (E,) mean loss of each epoch's steps.
        validation: (E,) loss of the validation patients after each epoch.
        kept: Epoch whose weights were kept, from 1.
    """

    panel: str
    train: npt.ArrayLike
    validation: npt.ArrayLike
    kept: int


def draw_training_curves(curves: Sequence[TrainingCurve], *, name: str = "loss") -> Figure:
    """Loss by epoch, one small picture for each fold, all on the same axes.

    The loss axis ends at the 99 % quantile of all values, with some room: one epoch that went
    astray does not flatten all others. Curves that go beyond leave the picture at its upper end.

    Args:
        curves: Models in the order of the pictures; those of one ``panel`` share it.
        name: Of the loss, beside the axis.

    Returns:
        A figure; ``savefig`` writes PNG, PDF or SVG.

    Raises:
        ConfigError: No curves, one without epochs or with unequal columns, or a kept epoch that it does not have.

    Example:
        >>> curve = TrainingCurve("fold 1", [0.7, 0.5, 0.4], [0.7, 0.6, 0.65], kept=2)
        >>> draw_training_curves([curve]).savefig("training.png")
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    if not curves:
        raise ConfigError("there are no training curves to draw")
    losses = [_checked(curve) for curve in curves]
    panels = list(dict.fromkeys(curve.panel for curve in curves))
    across = min(_ACROSS, len(panels))
    down = -(-len(panels) // across)
    left, right, above, below = 0.85, 0.2, 0.75, 0.7
    width = max(left + across * _SIDE[0] + (across - 1) * _ROOM[0] + right, 7.0)  # the legend needs as much
    height = above + down * _SIDE[1] + (down - 1) * _ROOM[1] + below
    figure = Figure(figsize=(width, height), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)

    low, high = _span(losses)
    epochs = max(len(train) for train, _ in losses)
    for number, panel in enumerate(panels):
        row, column = divmod(number, across)
        x = left + column * (_SIDE[0] + _ROOM[0])
        y = height - above - _SIDE[1] - row * (_SIDE[1] + _ROOM[1])
        axes = figure.add_axes((x / width, y / height, _SIDE[0] / width, _SIDE[1] / height))
        for curve, (train, validation) in zip(curves, losses, strict=True):
            if curve.panel == panel:
                _draw_one(axes, train, validation, curve.kept)
        axes.set_xlim(1 if epochs > 1 else 0, max(epochs, 2))
        axes.set_ylim(low, high)
        axes.set_title(panel, fontsize=11, color=INK, pad=4)
        plain_axes(axes, points=10, grid="y")
        axes.tick_params(labelleft=column == 0)
        axes.locator_params(nbins=5)
        axes.locator_params(axis="x", integer=True)
    figure.text(left / width, 0.25 / height, "Epoch", fontsize=12, color=INK, va="center")
    figure.text(0.2 / width, 0.5, name, fontsize=12, color=INK, rotation=90, va="center", ha="center")
    handles = [
        Line2D([], [], color=TRAIN, linewidth=1.6, label="training patients"),
        Line2D([], [], color=VALIDATION, linewidth=1.6, label="validation patients"),
        Line2D([], [], color=VALIDATION, marker="o", linestyle="", markersize=5, label="weights kept"),
    ]
    figure.legend(
        handles=handles, loc="upper left", ncols=3, frameon=False, fontsize=11, borderaxespad=0, handlelength=2,
        bbox_to_anchor=((left - 0.1) / width, 1 - 0.12 / height),
    )  # fmt: skip
    return figure


def _checked(curve: TrainingCurve) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    train, validation = np.asarray(curve.train, np.float64), np.asarray(curve.validation, np.float64)
    if train.ndim != 1 or train.shape != validation.shape or not len(train):
        raise ConfigError(
            f"curve of {curve.panel!r}: train and validation must be (E,) with at least one epoch; "
            f"found shapes {train.shape} and {validation.shape}"
        )
    if not 1 <= curve.kept <= len(train):
        raise ConfigError(f"curve of {curve.panel!r}: epoch {curve.kept} was kept, and there are 1 to {len(train)}")
    return train, validation


def _span(losses: Sequence[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]) -> tuple[float, float]:
    values = np.concatenate([part for pair in losses for part in pair])
    values = values[np.isfinite(values)]
    if not len(values):
        return 0.0, 1.0
    low, high = float(values.min()), float(np.quantile(values, 0.99))
    room = 0.08 * (high - low) or 0.5
    return low - room, high + room


def _draw_one(axes: Axes, train: npt.NDArray[np.float64], validation: npt.NDArray[np.float64], kept: int) -> None:
    epoch = np.arange(1, len(train) + 1)
    marker = "." if len(train) == 1 else ""
    axes.plot(epoch, train, color=TRAIN, linewidth=1.2, alpha=0.75, marker=marker)
    axes.plot(epoch, validation, color=VALIDATION, linewidth=1.2, alpha=0.75, marker=marker)
    axes.plot([kept], [validation[kept - 1]], "o", color=VALIDATION, markersize=4.5, clip_on=False)
