"""MUSK1, the classic of multiple instance learning: 92 molecules, musk or not, of 476 shapes in all.

python pipelines/musk/run.py musk1.csv --out musk/
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from pathlib import Path

import numpy as np

import wsikit as wk
from wsikit.evaluation.bootstrap import bootstrap_interval
from wsikit.evaluation.crossval import crossval
from wsikit.evaluation.result import CrossvalResult
from wsikit.evaluation.settings import load_experiment

HERE = Path(__file__).parent


def prepare(table: Path, out: Path) -> None:
    """The table of UCI (label, bag, 166 columns) -> a feature store and a table of the cohort."""
    shapes: dict[str, list[list[float]]] = defaultdict(list)
    label = {}
    with table.open(newline="") as file:
        for row in csv.reader(file):
            bag = f"molecule-{int(row[1]):03d}"
            shapes[bag].append([float(value) for value in row[2:]])
            assert label.setdefault(bag, row[0]) == row[0], f"{bag} has two labels"
    out.mkdir(parents=True, exist_ok=True)
    bags = {name: np.array(rows) for name, rows in shapes.items()}
    wk.store_features(out / "features.zarr", bags, encoder="musk", source="UCI, Musk (Version 1)")
    lines = ["slide_id,patient_id,label", *(f"{name},{name},{label[name]}" for name in bags)]
    (out / "cohort.csv").write_text("\n".join(lines) + "\n")


def accuracy(result: CrossvalResult) -> str:
    """Share of molecules whose likelier class is right: pooled with its interval, and as papers give it, by fold."""
    right = result.model.prediction.argmax(1) == result.cohort.target.label
    pooled = bootstrap_interval(lambda rows: float(right[rows].mean()), len(right))
    folds = [right[result.fold == number].mean() for number in np.unique(result.fold)]
    ends = f"[{pooled.low:.3f}, {pooled.high:.3f}]"
    return f"{right.mean():.3f} {ends} | {np.mean(folds):.3f} ± {np.std(folds):.3f}"


def run(out: Path, aggregators: list[str], workers: int | None) -> None:
    """One line of a table for each aggregator, on the same folds."""
    print("| aggregator | accuracy | mean ± SD of folds | AUC |\n| --- | --- | --- | --- |")
    for name in aggregators:
        experiment = load_experiment(HERE / "config.yaml", out=out / name)
        model = experiment.model.model_copy(update={"aggregator": name})
        places = {"cohort": out / "cohort.csv", "stores": (out / "features.zarr",), "model": model}
        result = crossval(experiment.model_copy(update=places), workers=workers)
        auc = result.model.metrics[0]
        print(
            f"| {name} | {accuracy(result)} | {auc.value:.3f} [{auc.interval.low:.3f}, {auc.interval.high:.3f}] |",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="musk1.csv: label, bag, 166 features, no header")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--aggregators", nargs="+", default=["mean", "max", "abmil"])
    parser.add_argument("--workers", type=int)
    args = parser.parse_args()
    prepare(args.table, args.out)
    run(args.out, args.aggregators, args.workers)
