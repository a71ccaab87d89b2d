"""Which aggregators see the arrangement of tiles, and which only what there is: planted tissue, seven models.

python pipelines/arrangement/run.py --out arrangement/
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pictures import draw_examples
from prepare import draw, write

from wsikit.evaluation.crossval import crossval
from wsikit.evaluation.settings import load_experiment
from wsikit.figures.forest import ForestRow, draw_forest
from wsikit.training.settings import ModelSettings

HERE = Path(__file__).parent
LABELS = ("nested", "composition")
OPTIONS = {
    "mean": {},
    "abmil": {"embed_dim": 32},
    "transmil": {"embed_dim": 32, "heads": 4},
    "hierarchical": {"embed_dim": 32},
    "graphsage": {"embed_dim": 32, "attention_dim": 16},
    "gin": {"embed_dim": 32, "layers": 2, "attention_dim": 16},
    "patch-gcn": {"hidden_dim": 16},
}


def row(model: str, label: str, out: Path, workers: int | None) -> ForestRow:
    """AUC of one cross-validation, with its interval."""
    asked = load_experiment(HERE / "config.yaml", out=out / f"{label}-{model}")
    changes = {
        "cohort": out / "cohort.csv",
        "stores": (out / "features.zarr",),
        "endpoint": {"kind": "class", "column": label, "classes": [0, 1]},
        "model": ModelSettings(aggregator=model, options=OPTIONS[model]),
    }
    auc = crossval(asked.model_copy(update=changes), workers=workers).model.metrics[0]
    return ForestRow(f"{model}, {label}", auc.value, auc.interval.low, auc.interval.high)


def run(out: Path, *, models: list[str], patients: int, seed: int, workers: int | None) -> None:
    """One line of a table for each aggregator, and two pictures."""
    cohort = draw(patients, seed)
    write(cohort, out)
    draw_examples(cohort).savefig(out / "examples.png")
    rows = []
    print(f"| aggregator | {' | '.join(LABELS)} |\n| --- |{' --- |' * len(LABELS)}")
    for model in models:
        mine = [row(model, label, out, workers) for label in LABELS]
        print(f"| {model} | {' | '.join(f'{r.value:.3f} [{r.low:.3f}, {r.high:.3f}]' for r in mine)} |", flush=True)
        rows += mine
    rows.sort(key=lambda r: LABELS.index(r.name.split(", ")[1]))  # label by label
    draw_forest(rows, name="AUC", reference=0.5, title="Arrangement and composition").savefig(out / "forest.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=list(OPTIONS), choices=list(OPTIONS))
    parser.add_argument("--patients", type=int, default=160)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int)
    given = parser.parse_args()
    run(given.out, models=given.models, patients=given.patients, seed=given.seed, workers=given.workers)
