"""How much of a planted cohort's truth cross-validation finds again, beside the best that is possible.

For each seed the demo is run (80 patients, its own configurations) and its scores are printed with their
95 % intervals: AUC of the label and Harrell's C, each with the baselines and the ceiling, and the
AUC of the attention for lesion.

    python benchmarks/planted_recovery.py --seeds 0 21 22        # about four minutes a seed on 2 cores
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from wsikit.evaluation.result import ModelResult
from wsikit.testing.demo import run_demo


def line(model: ModelResult) -> str:
    """The model's first metric with its interval."""
    metric = model.metrics[0]
    ends = f" [{metric.interval.low:.3f}, {metric.interval.high:.3f}]" if metric.interval else ""
    return f"{model.name}: {metric.name} {metric.value:.3f}{ends}"


def measure(seed: int, patients: int) -> None:
    """Run the demo of one seed and print what it found."""
    with tempfile.TemporaryDirectory() as folder:
        found = run_demo(Path(folder), patients=patients, seed=seed)
        print(f"\nseed {seed}, {patients} patients")
        for study in found.studies:
            name = study.config.stem
            models = "; ".join(line(m) for m in (study.result.model, *study.result.baselines))
            print(f"  {name}: {models}; at best {found.ceilings[name]:.3f}", flush=True)
        print(f"  attention of the label model for lesion: AUC {found.attention_auc:.3f}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--patients", type=int, default=80)
    args = parser.parse_args()
    for seed in args.seeds:
        measure(seed, args.patients)
