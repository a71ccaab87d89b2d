"""Cross-validate ABMIL on one prepared folder, and score its attention by the known classes of the tiles.

python pipelines/colorectal/run.py colorectal/
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import numpy as np

from wsikit.cohort.bags import Bags
from wsikit.evaluation.bootstrap import bootstrap_interval
from wsikit.evaluation.crossval import crossval
from wsikit.evaluation.result import CrossvalResult
from wsikit.evaluation.settings import load_experiment
from wsikit.metrics import roc_auc
from wsikit.reports.crossval import write_report

HERE = Path(__file__).parent


def attention_auc(result: CrossvalResult, folder: Path) -> str:
    """AUC of the attention for tiles of the rare class against the others of the same slide, on slides of label 1."""
    rare = json.loads((folder / "summary.json").read_text())["rare"]
    with (folder / "tile_truth.csv").open(newline="") as file:
        known = {(r["slide_id"], int(r["x"]), int(r["y"])): r["class"] == rare for r in csv.DictReader(file)}
    bags = Bags(result.cohort.slides, encoder=result.cohort.encoder)
    scored = []
    for i in np.flatnonzero(result.cohort.target.label).tolist():
        slide = bags[i].slides[0].slide_id
        scored.append((np.array([known[slide, int(x), int(y)] for x, y in bags[i].coords]), result.attention[i]))

    def auc(slides: np.ndarray) -> float:
        group = np.repeat(np.arange(len(slides)), [len(scored[s][0]) for s in slides])
        return roc_auc(*(np.concatenate([scored[s][k] for s in slides]) for k in (1, 0)), groups=group)

    found = bootstrap_interval(auc, len(scored))
    return f"attention, {rare} tiles: AUC {auc(np.arange(len(scored))):.3f} [{found.low:.3f}, {found.high:.3f}]"


def run(folder: Path, workers: int | None) -> None:
    """One cross-validation, its numbers and its report."""
    asked = load_experiment(HERE / "config.yaml", out=folder / "run")
    places = {"cohort": folder / "cohort.csv", "stores": (folder / "tiles.zarr",)}
    result = crossval(asked.model_copy(update=places), workers=workers, say=print)
    for name, m in [(one.name, one.metrics[0]) for one in (result.model, *result.baselines)]:
        print(f"{name}: {m.name} {m.value:.3f} [{m.interval.low:.3f}, {m.interval.high:.3f}]")
    for m in result.differences:
        print(f"{m.name}: {m.value:+.3f} [{m.interval.low:+.3f}, {m.interval.high:+.3f}]")
    print(attention_auc(result, folder))
    print(write_report(result))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="as prepare.py and wsikit extract left it")
    parser.add_argument("--workers", type=int)
    given = parser.parse_args()
    run(given.folder, given.workers)
