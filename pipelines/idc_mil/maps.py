"""How well what a model says of single tiles finds the carcinoma tiles, which it was never told of."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wsikit.cohort.bags import Bags
from wsikit.evaluation.attribution import gradient_times_input
from wsikit.evaluation.bootstrap import bootstrap_interval
from wsikit.evaluation.result import CrossvalResult
from wsikit.figures.forest import ForestRow
from wsikit.metrics import roc_auc
from wsikit.training.bundle import load_bundle

Map = npt.NDArray[np.floating]


def tile_classes(bags: Bags, truth: Path) -> list[npt.NDArray[np.bool_]]:
    """Of each patient whether a tile (N,) is carcinoma, from ``tile_truth.csv``."""
    known = {}
    with truth.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            known[row["slide_id"], int(row["x"]), int(row["y"])] = row["class"] == "1"
    found = []
    for i in range(len(bags)):
        slide = bags[i].slides[0].slide_id
        found.append(np.array([known[slide, x, y] for x, y in bags[i].coords.tolist()]))
    return found


def gradients(result: CrossvalResult, bags: Bags) -> list[Map]:
    """Of each patient gradient times input (N,) for the second class, summed over the models that never saw it.

    Raises:
        ConfigError: The aggregator cuts the gradient between its output and the tiles.
    """
    found: list[Map] = [np.zeros(bags.count(i)) for i in range(len(bags))]
    for member in result.members:
        model = load_bundle(result.out / member.bundle).model
        for row in np.flatnonzero(result.fold == member.fold).tolist():
            found[row] = found[row] + gradient_times_input(model, bags.batch([row], graph=model.graph), column=1)
    return found


def tile_auc(maps: Sequence[Map | None], carcinoma: Sequence[npt.NDArray[np.bool_]], *, name: str) -> ForestRow:
    """AUC for carcinoma tiles against the others of the same slide, with its interval over slides that have both."""
    scored = [(m, c) for m, c in zip(maps, carcinoma, strict=True) if m is not None and 0 < c.sum() < len(c)]

    def auc(slides: npt.NDArray[np.int64]) -> float:
        group = np.repeat(np.arange(len(slides)), [len(scored[s][0]) for s in slides])
        score, positive = (np.concatenate([scored[s][k] for s in slides]) for k in (0, 1))
        return roc_auc(score, positive, groups=group)

    found = bootstrap_interval(auc, len(scored))
    return ForestRow(name, auc(np.arange(len(scored))), found.low, found.high)
