"""ROC curves of a cross-validation: each fold thinly, their vertical mean boldly."""

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

Numbers = npt.NDArray[np.float64]

_WIDTH, _SIDE, _AXIS, _LINE = 6.4, 5.1, 0.85, 0.27  # inches: figure, square axes, their ticks and name, a line of text
_MARGIN = 0.3  # inches: left of all text


@dataclass(frozen=True)
class RocCurve:
    """Out-of-fold scores of one model, or of one class against the others.

    Args:
        name: In the legend.
        score: (P,) higher = more likely positive.
        positive: (P,) bool or 0/1.
        fold: (P,) labels of any type; scores are compared inside a fold only.
        label: What the legend says after the name: the AUC pooled within folds and its interval.
        thin: Whether the folds are drawn, too; without them beside many others the mean is easier seen.
    """

    name: str
    score: npt.ArrayLike
    positive: npt.ArrayLike
    fold: npt.ArrayLike
    label: str = ""
    thin: bool = True


def draw_roc(curves: Sequence[RocCurve], *, title: str = "") -> Figure:
    """ROC curves, one thin line for each fold and a bold one for their mean.

    Scores of two folds come from two models and cannot be put in one order, so there is no
    single curve of all patients. The bold line is the mean sensitivity of the folds at each
    false positive rate, a fold with few patients counting as much as another; the area under it is
    the mean of the folds' AUCs, near the AUC pooled within folds but not equal to it. Folds with
    one class only have no curve, and the legend says how many those are.

    Args:
        curves: One to six; the first is drawn in blue.
        title: Above the figure.

    Returns:
        A figure; ``savefig`` writes PNG, PDF or SVG.

    Raises:
        ConfigError: No curves or more than six, columns of different lengths, numbers that are not
            finite, a label other than 0 or 1, or no fold with both classes.

    Example:
        >>> curve = RocCurve("ABMIL", [0.1, 0.4, 0.3, 0.8], [0, 0, 1, 1], [0, 0, 0, 0], "AUC 0.75")
        >>> draw_roc([curve], title="Metastasis").savefig("roc.png")

    Reference:
        Fawcett, 2006, Pattern Recognit Lett 27(8):861-874, doi:10.1016/j.patrec.2005.10.010, on
        vertical averaging.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not 1 <= len(curves) <= len(COLOURS):
        raise ConfigError(f"one to {len(COLOURS)} curves can be told apart in a figure; found {len(curves)}")
    folds = [_fold_curves(curve) for curve in curves]
    legend = [_legend_lines(curve, drawn) for curve, drawn in zip(curves, folds, strict=True)]
    titles = wrap_text(title, inches=_WIDTH - 2 * _MARGIN, points=15, bold=True)

    above = _LINE * len(titles) + 0.35
    meaning = "" if all(count == 1 for count, _ in folds) else _lines_text(curves)  # of one fold there is no mean
    below = _AXIS + _LINE * (len(meaning.splitlines()) + sum(map(len, legend))) + 0.15
    height = above + _SIDE + below
    figure = Figure(figsize=(_WIDTH, height), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((1.0 / _WIDTH, below / height, _SIDE / _WIDTH, _SIDE / height))
    for number, line in enumerate(titles):
        y = 1 - (0.28 + number * _LINE) / height
        figure.text(_MARGIN / _WIDTH, y, line, va="center", fontsize=15, weight="bold", color=INK)

    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=(0, (4, 4)))
    for curve, (_, drawn), colour in zip(curves, folds, COLOURS, strict=False):
        for x, sensitivity in drawn if curve.thin else ():
            axes.plot(x, sensitivity, color=colour, linewidth=0.8, alpha=0.4)
    for (_, drawn), colour, dashes, lines in zip(folds, COLOURS, DASHES, legend, strict=False):
        axes.plot(*_vertical_mean(drawn), color=colour, linewidth=2.6, linestyle=dashes, label="\n".join(lines))
    if meaning:
        axes.plot([], [], color=GREY, linewidth=0.8, label=meaning)
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    axes.set_xlabel("False positive rate (1 – specificity)", fontsize=14, color=INK)
    axes.set_ylabel("Sensitivity", fontsize=14, color=INK)
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.set_yticks(np.linspace(0, 1, 6))
    plain_axes(axes, points=12.5)
    handles, labels = axes.get_legend_handles_labels()
    corner = (_MARGIN / _WIDTH, (below - _AXIS) / height)
    legend_below(figure, corner, handles=handles, labels=labels)
    return figure


def _lines_text(curves: Sequence[RocCurve]) -> str:
    if all(curve.thin for curve in curves):
        return "thin: each fold; bold: mean of the folds"
    names = [curve.name for curve in curves if curve.thin]
    words = f"thin: each fold of {' and '.join(names)}; bold: mean of the folds" if names else "mean of the folds"
    return "\n".join(wrap_text(words, inches=_WIDTH - 2 * _MARGIN - 0.8, points=12))


def _fold_curves(curve: RocCurve) -> tuple[int, list[tuple[Numbers, Numbers]]]:
    """(folds, the curve of each fold that has both classes as false positive rate and sensitivity)."""
    from sklearn.metrics import roc_curve

    score, positive = np.asarray(curve.score, np.float64), np.asarray(curve.positive, np.float64)
    fold = np.asarray(curve.fold)
    if score.ndim != 1 or not score.shape == positive.shape == fold.shape:
        raise ConfigError(
            f"curve {curve.name!r}: score, positive and fold must all be (P,); "
            f"found shapes {score.shape}, {positive.shape} and {fold.shape}"
        )
    if not np.isfinite(score).all():
        raise ConfigError(f"curve {curve.name!r}: {int((~np.isfinite(score)).sum())} score(s) are not finite")
    if not np.isin(positive, (0, 1)).all():
        raise ConfigError(f"curve {curve.name!r}: positive must be 0 or 1; found {np.unique(positive).tolist()}")
    labels, drawn = np.unique(fold), []
    for label in labels:
        here = fold == label
        if 0 < positive[here].sum() < here.sum():
            x, sensitivity, _ = roc_curve(positive[here], score[here], drop_intermediate=False)
            drawn.append((np.asarray(x, np.float64), np.asarray(sensitivity, np.float64)))
    if not drawn:
        raise ConfigError(f"curve {curve.name!r}: none of its {len(labels)} folds has both classes; there is no curve")
    return len(labels), drawn


def _legend_lines(curve: RocCurve, drawn: tuple[int, list[tuple[Numbers, Numbers]]]) -> list[str]:
    missing = drawn[0] - len(drawn[1])
    parts = [curve.name, curve.label, f"({missing} of {drawn[0]} folds have one class only)" if missing else ""]
    room = _WIDTH - 2 * _MARGIN - 0.8
    whole = wrap_text("  ".join(part for part in parts if part), inches=room, points=12)
    if len(whole) == 1:
        return whole
    return [line for part in parts for line in wrap_text(part, inches=room, points=12)]


def _vertical_mean(drawn: Sequence[tuple[Numbers, Numbers]]) -> tuple[Numbers, Numbers]:
    """Mean sensitivity at every false positive rate at which a fold has a corner, before and after the step."""
    rates = np.unique(np.concatenate([x for x, _ in drawn]))
    # Of several values at one rate np.interp takes the last: backwards that is the foot of the step.
    foot = np.mean([np.interp(-rates, -x[::-1], y[::-1]) for x, y in drawn], axis=0)
    top = np.mean([np.interp(rates, x, y) for x, y in drawn], axis=0)
    return np.repeat(rates, 2), np.stack([foot, top], axis=1).ravel()
