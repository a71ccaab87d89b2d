"""MUSK1, the classic of multiple instance learning: 92 molecules, musk or not, of 476 shapes in all.

python pipelines/musk/run.py musk1.csv --out musk/

Models that an earlier call has fitted with the same settings on the same molecules are taken as they are.
"""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Sequence
from pathlib import Path

import minn  # noqa: F401  registers the literature's network, in every process
from prepare import prepare
from scores import Row, row_of, table

from wsikit.aggregators.registry import AGGREGATORS, aggregator_card, list_aggregators
from wsikit.cohort.bags import Bags
from wsikit.evaluation.crossval import crossval
from wsikit.evaluation.probe import probe_predictions
from wsikit.evaluation.result import CrossvalResult, Round
from wsikit.evaluation.settings import load_experiment
from wsikit.training.settings import ModelSettings, graph_of

HERE = Path(__file__).parent
WIDTH = 128
"""Of every aggregator that projects the features to a width, as in pipelines/idc_mil."""
LITERATURE = {f"minn-{pooling}": {"pooling": pooling} for pooling in ("max", "gated")}
"""Rows with the literature's network and training, and the options of ``minn``."""


def placeless(name: str) -> bool:
    """Whether an aggregator needs neither places nor neighbours by place: molecules have none."""
    graph = graph_of(ModelSettings(aggregator=name))
    return not aggregator_card(name).uses_grid and (graph is None or graph.kind == "features")


ALL = [
    "abmil",
    *LITERATURE,
    *(name for name in list_aggregators() if name not in ("abmil", "minn") and placeless(name)),
]


def validate(out: Path, name: str, *, repeats: int, workers: int | None) -> CrossvalResult:
    """Cross-validate one row of the table; finished models are kept."""
    if name in LITERATURE:
        model, settings = ModelSettings(aggregator="minn", options=LITERATURE[name]), "literature.yaml"
    else:
        width = inspect.signature(AGGREGATORS[name].build).parameters.get("embed_dim")
        options = {"embed_dim": WIDTH} if width and width.default else {}
        model, settings = ModelSettings(aggregator=name, options=options), "config.yaml"
    asked = load_experiment(HERE / settings, out=out / name)
    changes = {
        "name": name,
        "cohort": out / "cohort.csv",
        "stores": (out / "features.zarr",),
        "model": model,
        "splits": asked.splits.model_copy(update={"repeats": repeats}),
    }
    return crossval(asked.model_copy(update=changes), workers=workers)


def rounds_of(result: CrossvalResult) -> list[Round]:
    """All cross-validations of the run."""
    return [Round(result.model.prediction, result.fold), *(one.round for one in result.repeats)]


def probe(result: CrossvalResult) -> Row:
    """The baseline: a linear model of the mean shape, on the same folds."""
    cohort = result.cohort
    means = Bags(cohort.slides, encoder=cohort.encoder).means()
    again = [Round(probe_predictions(means, cohort.target, one.fold), one.fold) for one in rounds_of(result)]
    return row_of("linear probe on the mean shape", again, cohort.target.label, result.baselines[0].metrics[0])


def run(out: Path, names: Sequence[str], *, repeats: int, workers: int | None) -> None:
    """``table.md``, written anew after each row; the first is what the others are compared with."""
    rows: list[Row] = []
    for name in names:
        result = validate(out, name, repeats=repeats, workers=workers)
        label = result.cohort.target.label
        rows.append(row_of(name, rounds_of(result), label, result.model.metrics[0]))
        print(f"{name}: accuracy {rows[-1].right.mean():.3f}", *result.notes[:-1], flush=True)
        (out / "table.md").write_text(table([*rows, probe(result)], label), encoding="utf-8")
    print((out / "table.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="musk1.csv: label, bag, 166 features, no header")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--aggregators", nargs="+", default=ALL, choices=ALL, metavar="NAME", help=", ".join(ALL))
    parser.add_argument("--repeats", type=int, default=1, help="dealings of the ten folds; the literature has 5")
    parser.add_argument("--workers", type=int)
    args = parser.parse_args()
    prepare(args.table, args.out)
    run(args.out, args.aggregators, repeats=args.repeats, workers=args.workers)
