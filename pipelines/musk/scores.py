"""Accuracies of repeated cross-validations, and whether two of them have been told apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsikit.evaluation.bootstrap import Interval, bootstrap_interval, resamples
from wsikit.evaluation.comparison import holm
from wsikit.evaluation.result import Metric, Round

DRAWS = 2000
HEAD = ("aggregator", "accuracy", "mean ± SD of folds", "AUC", "accuracy minus {}", "p (Holm)")


@dataclass(frozen=True)
class Row:
    """What a model got right.

    Args:
        name: Of the model.
        right: (P,) share of the cross-validations that called each molecule as it is.
        folds: Accuracy of each fold of each cross-validation.
        auc: With its interval; None where it was not measured.
    """

    name: str
    right: npt.NDArray[np.float64]
    folds: npt.NDArray[np.float64]
    auc: Metric | None


def row_of(name: str, rounds: Sequence[Round], label: npt.NDArray[np.int64], auc: Metric | None) -> Row:
    """A model's line from its out-of-fold predictions; the likelier class is the one called."""
    right = np.stack([one.prediction.argmax(1) == label for one in rounds])  # (R, P)
    folds = [mine[one.fold == k].mean() for mine, one in zip(right, rounds, strict=True) for k in np.unique(one.fold)]
    return Row(name, right.mean(0), np.array(folds), auc)


def gaps(rows: Sequence[Row], reference: Row, label: npt.NDArray[np.int64]) -> list[tuple[float, Interval, float]]:
    """Accuracy of each row less the reference's, its interval over molecules, and p by Holm for all of them."""
    less = np.stack([row.right - reference.right for row in rows])  # (M, P)
    drawn = np.stack([less[:, i].mean(1) for i in resamples(len(label), draws=DRAWS, seed=0, strata=label)])
    least = np.minimum((drawn <= 0).sum(0), (drawn >= 0).sum(0))
    corrected = holm(np.minimum(1, 2 * (1 + least) / (1 + DRAWS)).tolist())
    ends = np.quantile(drawn, [0.025, 0.975], axis=0).T.tolist()
    each = zip(less.mean(1).tolist(), ends, corrected, strict=True)
    return [(value, Interval(low, high, 0.95, DRAWS, 0), p) for value, (low, high), p in each]


def table(rows: Sequence[Row], label: npt.NDArray[np.int64]) -> str:
    """Markdown; the first row is what the others are compared with."""
    head = [cell.format(rows[0].name) for cell in HEAD]
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    against = [("", ""), *_against(rows, label)]
    for row, gap in zip(rows, against, strict=True):
        right = row.right
        pooled = bootstrap_interval(lambda i, right=right: float(right[i].mean()), len(right), strata=label)
        cells = [
            row.name,
            f"{right.mean():.3f} [{pooled.low:.3f}, {pooled.high:.3f}]",
            f"{row.folds.mean():.3f} ± {row.folds.std():.3f}",
            "" if row.auc is None else f"{row.auc.value:.3f} [{row.auc.interval.low:.3f}, {row.auc.interval.high:.3f}]",
            *gap,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _against(rows: Sequence[Row], label: npt.NDArray[np.int64]) -> list[tuple[str, str]]:
    if len(rows) < 2:
        return []
    found = gaps(rows[1:], rows[0], label)
    return [(f"{value:+.3f} [{ends.low:+.3f}, {ends.high:+.3f}]", f"{p:.2f}") for value, ends, p in found]
