"""Cross-validate ABMIL on one prepared folder, and score its attention by the known classes of the tiles.

python pipelines/idc_mil/run.py idc/
"""

from __future__ import annotations

import argparse
from pathlib import Path

from maps import tile_auc, tile_classes
from rows import shown

from wsikit.cohort.bags import Bags
from wsikit.evaluation.crossval import crossval
from wsikit.evaluation.result import CrossvalResult
from wsikit.evaluation.settings import load_experiment
from wsikit.reports.crossval import write_report

HERE = Path(__file__).parent


def instance_auc(result: CrossvalResult, truth: Path) -> str:
    """AUC of the attention for carcinoma tiles against the others of the same slide, over all positive slides."""
    bags = Bags(result.cohort.slides, encoder=result.cohort.encoder)
    return f"attention, carcinoma tiles: AUC {shown(tile_auc(result.attention, tile_classes(bags, truth), name=''))}"


def run(folder: Path, *, everything: bool, workers: int | None) -> None:
    """One cross-validation: of the label, or of the carcinoma fraction on the uncomposed slides."""
    name = "_all" if everything else ""
    experiment = load_experiment(HERE / "config.yaml", out=folder / f"run{name}")
    changes: dict[str, object] = {"cohort": folder / f"cohort{name}.csv", "stores": (folder / f"tiles{name}.zarr",)}
    if everything:
        changes |= {"endpoint": {"kind": "continuous", "column": "carcinoma_fraction"}, "name": "Carcinoma fraction"}
    result = crossval(experiment.model_copy(update=changes), workers=workers, say=print)
    print(instance_auc(result, folder / f"tile_truth{name}.csv"))
    for model in (result.model, *result.baselines):
        for m in model.metrics:
            ends = f" [{m.interval.low:.3f}, {m.interval.high:.3f}]" if m.interval else ""
            print(f"{model.name}: {m.name} {m.value:.3f}{ends}")
    for m in result.differences:
        print(f"{m.name}: {m.value:+.3f} [{m.interval.low:+.3f}, {m.interval.high:+.3f}]")
    print(write_report(result))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="as prepare.py and wsikit extract left it")
    parser.add_argument("--all", action="store_true", help="the carcinoma fraction on the uncomposed slides")
    parser.add_argument("--workers", type=int)
    args = parser.parse_args()
    run(args.folder, everything=args.all, workers=args.workers)
