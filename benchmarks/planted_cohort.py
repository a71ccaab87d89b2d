"""How fast planted cohorts are drawn, and whether they measure what they should.

Prints, for each seed: seconds for the cohort; per-tile lesion AUC of the ``colour`` and ``texture``
encoders (linear probe, five folds of whole slides, 256 px tiles at 0.5 um per px with at least half
tissue, lesional when at least half lesion); AUC of tissue area, tile count and file size for the
label, folded to >= 0.5; the ceilings. Then the seconds of one large slide.

    python benchmarks/planted_cohort.py --seeds 0 1 2 --patients 80 --large 20000
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import openslide
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from wsikit import create_encoder
from wsikit.testing import CohortTruth, plant_cohort, plant_slide

TILE_PX = 256
LIMITS = {"colour": "<= 0.65", "texture": ">= 0.85"}


def tiles_of(cohort: CohortTruth) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[int]]:
    """Tiles (N, 256, 256, 3), lesion share (N,), slide number (N,), and tiles per slide."""
    start = np.arange(0, cohort.size_px - TILE_PX + 1, TILE_PX)
    grid = np.stack(np.meshgrid(start, start), -1).reshape(-1, 2)
    tiles, lesion, number, counts = [], [], [], []
    for i, slide_id in enumerate(cohort.slide_ids):
        truth = cohort.slide(slide_id)
        coords = grid[truth.share("tissue", grid, TILE_PX) >= 0.5]
        with openslide.OpenSlide(cohort.slide_path(slide_id)) as slide:
            for x, y in coords.tolist():
                tiles.append(np.asarray(slide.read_region((x, y), 0, (TILE_PX, TILE_PX)))[..., :3])
        lesion.append(truth.tile_truth(coords, TILE_PX))
        number.append(np.full(len(coords), i))
        counts.append(len(coords))
    return np.stack(tiles), np.concatenate(lesion), np.concatenate(number), counts


def probe_auc(x: np.ndarray, positive: np.ndarray, group: np.ndarray, model: object) -> float:
    """Out-of-fold AUC of a classifier with whole slides held out."""
    score = cross_val_predict(model, x, positive, groups=group, cv=GroupKFold(5), method="predict_proba")[:, 1]
    return float(roc_auc_score(positive, score))


def folded(label: np.ndarray, value: object) -> float:
    """AUC, in whichever direction it points."""
    auc = float(roc_auc_score(label, value))
    return max(auc, 1 - auc)


def measure(folder: Path, seed: int, patients: int, processes: int | None) -> None:
    """Draw one cohort and print its numbers."""
    cpu, begin = os.times(), time.perf_counter()
    cohort = plant_cohort(folder, patients=patients, seed=seed, processes=processes)
    wall, spent = time.perf_counter() - begin, os.times()
    used = sum(spent[:4]) - sum(cpu[:4])
    print(f"\nseed {seed}: {patients} slides of {cohort.size_px} px in {wall:.1f} s wall, {used:.1f} s of CPU")
    tiles, share, group, counts = tiles_of(cohort)
    positive = share >= 0.5
    print(f"  {len(tiles)} tiles, {positive.mean():.0%} lesional")
    for name, limit in LIMITS.items():
        encoder = create_encoder(name)
        x = np.concatenate([encoder.encode(part) for part in np.array_split(tiles, len(tiles) // 64 + 1)])
        models = {
            f"linear C={c}": make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=3000)) for c in (0.1, 1)
        }
        models["boosted"] = HistGradientBoostingClassifier(max_iter=60, max_depth=3, random_state=0)
        found = ", ".join(f"{how} {probe_auc(x, positive, group, model):.3f}" for how, model in models.items())
        print(f"  {name} (wanted {limit}): {found}")
    label = np.array([cohort.outcomes.label[int(patient[1:])] for patient in cohort.patient_ids])
    sizes = [cohort.slide_path(slide_id).stat().st_size for slide_id in cohort.slide_ids]
    area = [cohort.slide(slide_id).tissue_fraction for slide_id in cohort.slide_ids]
    print(
        f"  label (wanted <= 0.6): tissue area {folded(label, area):.3f}, tile count {folded(label, counts):.3f}, "
        f"file size {folded(label, sizes):.3f}"
    )
    best = {task: value["ceiling"] for task, value in cohort.ceilings.items()}
    print(f"  ceilings: {best}; events {cohort.outcomes.event.mean():.0%}, positive {label.mean():.0%}")


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--patients", type=int, default=80)
    parser.add_argument("--large", type=int, default=20000, help="side of the one large slide; 0 leaves it out")
    parser.add_argument("--processes", type=int, default=None)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for seed in args.seeds:
            measure(Path(folder) / str(seed), seed, args.patients, args.processes)
        if args.large:
            begin = time.perf_counter()
            path = Path(folder) / "large.svs"
            plant_slide(path, seed=0, size_px=args.large, processes=args.processes or len(os.sched_getaffinity(0)))
            seconds, size = time.perf_counter() - begin, path.stat().st_size / 2**20
            print(f"\none slide of {args.large} px: {seconds:.1f} s, {size:.0f} MiB")


if __name__ == "__main__":
    main()
