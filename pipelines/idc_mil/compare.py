"""Every aggregator on the same slides and folds, beside what needs none: a table and a picture.

python pipelines/idc_mil/compare.py idc/

Models that an earlier call has fitted with the same settings on the same tiles are taken as they are.
"""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from maps import gradients, tile_auc, tile_classes
from rows import Row, row_of, shown, write

from wsikit.aggregators.registry import AGGREGATORS, aggregator_card, list_aggregators
from wsikit.cohort.bags import Bags
from wsikit.errors import ConfigError
from wsikit.evaluation.crossval import crossval
from wsikit.evaluation.result import CrossvalResult, Round
from wsikit.evaluation.settings import load_experiment
from wsikit.metrics import roc_auc
from wsikit.training.settings import ModelSettings, graph_of

HERE = Path(__file__).parent
REFERENCE = "abmil"
WIDTH = 128
"""Of every aggregator that projects the features to a width: the papers' widths are for thousands of tiles."""
REPEATS = 5
"""Dealings of the folds for the reference: what one cross-validation owes to chance."""


def model_of(name: str) -> ModelSettings:
    """The aggregator with its own defaults, but for the width where it has one."""
    width = inspect.signature(AGGREGATORS[name].build).parameters.get("embed_dim")
    return ModelSettings(aggregator=name, options={"embed_dim": WIDTH} if width and width.default else {})


def sees(name: str) -> str:
    """What an aggregator is given beside the set of tiles."""
    graph = graph_of(ModelSettings(aggregator=name))
    if aggregator_card(name).uses_grid:
        return "places"
    return "a set" if graph is None else "alike tiles" if graph.kind == "features" else "neighbours"


def validate(folder: Path, name: str, *, repeats: int, workers: int | None) -> CrossvalResult:
    """Cross-validate one aggregator; finished models are kept."""
    out = folder / "compare" / (name if repeats == 1 else f"{name}-{repeats}-times")
    asked = load_experiment(HERE / "compare.yaml", out=out)
    changes = {
        "name": name,
        "cohort": folder / "cohort.csv",
        "stores": (folder / "tiles.zarr",),
        "model": model_of(name),
        "splits": asked.splits.model_copy(update={"repeats": repeats}),
    }
    return crossval(asked.model_copy(update=changes), workers=workers)


def tiles_found(result: CrossvalResult, truth: Path) -> tuple[str, str]:
    """How well attention, and gradient times input, find the carcinoma tiles; a dash where there is none."""
    bags = Bags(result.cohort.slides, encoder=result.cohort.encoder)
    carcinoma = tile_classes(bags, truth)
    said = "—"
    if any(weights is not None for weights in result.attention):
        said = shown(tile_auc(result.attention, carcinoma, name="attention"))
    try:
        return said, shown(tile_auc(gradients(result, bags), carcinoma, name="gradient"))
    except ConfigError as e:  # no gradient reaches the tiles
        print(f"  gradient x input: {e}")
        return said, "—"


def spread(folder: Path, workers: int | None) -> str:
    """The reference's AUC with the folds dealt anew, and so with other models."""
    result = validate(folder, REFERENCE, repeats=REPEATS, workers=workers)
    rounds = [Round(result.model.prediction, result.fold), *(one.round for one in result.repeats)]
    positive = result.cohort.target.label == 1
    values = [roc_auc(one.prediction[:, 1], positive, groups=one.fold) for one in rounds]
    said = ", ".join(f"{value:.3f}" for value in values)
    return f"{REFERENCE}, folds dealt {REPEATS} times: AUC {said}; SD {np.std(values, ddof=1):.3f}\n"


def run(folder: Path, names: Sequence[str], workers: int | None) -> None:
    """Aggregator by aggregator; table and picture are written anew after each."""
    rows: list[Row] = []
    baselines: list[Row] = []
    for name in [REFERENCE, *(n for n in names if n != REFERENCE)]:
        result = validate(folder, name, repeats=1, workers=workers)
        row = row_of(result, name, result.model, rows[0].run if rows else None)
        if not rows:  # they are the same for all
            baselines = [row_of(result, one.name, one, row.run) for one in result.baselines]
        rows.append(replace(row, sees=sees(name), tiles=tiles_found(result, folder / "tile_truth.csv")))
        print(f"{name}: AUC {shown(row.point)}", *result.notes, flush=True)
        write(folder / "compare", [*sorted(rows, key=lambda r: r.point.name), *baselines])
    with (folder / "compare" / "table.md").open("a", encoding="utf-8") as file:
        file.write("\n" + spread(folder, workers))
    print((folder / "compare" / "table.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="as prepare.py and wsikit extract left it")
    parser.add_argument(
        "--aggregators", nargs="+", default=list_aggregators(), choices=list_aggregators(), metavar="NAME"
    )
    parser.add_argument("--workers", type=int)
    given = parser.parse_args()
    run(given.folder, given.aggregators, given.workers)
