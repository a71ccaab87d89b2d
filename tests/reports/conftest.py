"""A small store with slides and a table, and results of cross-validations on it, put together by hand."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from wsikit.cohort.endpoints import endpoint_from
from wsikit.cohort.splits import make_splits
from wsikit.cohort.table import load_cohort
from wsikit.evaluation.result import CrossvalResult, Member, ModelResult
from wsikit.evaluation.risk_groups import log_rank
from wsikit.evaluation.scores import differences_of, metrics_of
from wsikit.evaluation.settings import experiment_from
from wsikit.store.writer import add_features, begin_store, write_plan, write_shard
from wsikit.tasks.task import create_task
from wsikit.testing.svs import write_svs
from wsikit.training.fit import Epoch

SIZE, TILE = (512, 384), 64
EVIL = "<script>alert(1)</script>&\"'"

ENDPOINTS = {
    "class": {"kind": "class", "column": "label", "classes": ["benign", "<b>tumour"]},
    "classes": {"kind": "class", "column": "stage", "classes": ["I", "II", "$III"]},
    "survival": {"kind": "survival", "time": "time", "event": "event", "unit": "months"},
    "continuous": {"kind": "continuous", "column": "grade"},
}


def grid(unreadable: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(coords, status) of a slide's tiles; the first few cannot be read."""
    y, x = np.mgrid[0 : SIZE[1] : TILE, 0 : SIZE[0] : TILE]
    coords = np.stack([x.ravel(), y.ravel()], 1).astype(np.int32)
    return coords, (np.arange(len(coords)) < unreadable).astype(np.uint8)


@pytest.fixture(scope="session")
def planted(tmp_path_factory) -> Path:
    """``cohort.csv``, ``features.zarr`` and ``slides``: 16 patients; P00 is named to do harm and has two slides."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "slides").mkdir()
    root = folder / "features.zarr"
    root.mkdir()
    begin_store(root, {"tiling": {"tile_px": TILE, "target_mpp": 0.5}})
    rng = np.random.default_rng(0)
    rows = []
    for i in range(16):
        for s in range(2 if i == 0 else 1):
            name = f"S{i:02d}-{s}"
            coords, status = grid(unreadable=3 if i == 0 else 0)
            facts = {
                "fingerprint": f"{i:064d}", "size_level0_px": list(SIZE), "tile_level0_px": [float(TILE)] * 2,
                "mpp": [0.5, 0.5],
                "stride_level0_px": [TILE, TILE],
            }  # fmt: skip
            write_plan(root, name, attributes=facts, coords=coords, quality=np.ones((len(coords), 1), np.float32))
            for key in ("texture-00000000", "colour-00000000"):
                card = {"card": {"name": key.split("-")[0], "dim": 3}, "run": {}}
                add_features(root, name, key, dim=3, attributes=card)
                values = rng.normal(size=(len(coords), 3)).astype(np.float16)
                write_shard(root, name, key, 0, values=values, status=status, facts={})
            picture = np.full((SIZE[1], SIZE[0], 3), (200, 130, 175), np.uint8)
            write_svs(folder / "slides" / f"{name}.svs", picture, mpp=0.5, levels=(1,))
            patient = EVIL if i == 0 else f"P{i:02d}"
            label = "benign" if i % 2 else "<b>tumour"
            path = f"slides/{name}.svs" if i != 1 else ""
            row = [name, patient, path, label, 3.0 + i, i % 3 != 0, "" if i == 15 else i / 4]
            row.append(("I", "II", "$III")[i % 3])
            rows.append(row)
    rows.append(["S99-0", "P99", "", "benign", 5, 1, 1.0, "I"])
    rows.append(["S98-0", "<i>P98", "", "benign", 5, 1, 1.0, "I"])
    with (folder / "cohort.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["slide_id", "patient_id", "path", "label", "time", "event", "grade", "stage"])
        writer.writerows(rows)
    return folder


@pytest.fixture
def make_result(planted, tmp_path):
    """The function that makes the result of a cross-validation of a kind of endpoint, with random predictions."""

    def made(kind: str, **changed) -> CrossvalResult:
        experiment = experiment_from(
            {
                "cohort": str(planted / "cohort.csv"), "stores": [str(planted / "features.zarr")],
                "endpoint": ENDPOINTS[kind], "missing_slides": "exclude", "name": "Planted <i>report",
                "splits": {"folds": 2}, "evaluation": {"bootstrap": 100, "heatmaps": 2, "faithfulness": 0},
                "out": str(tmp_path / "run"),
            }
        )  # fmt: skip
        endpoint = endpoint_from(ENDPOINTS[kind])
        cohort = load_cohort(
            planted / "cohort.csv", endpoint=endpoint, stores=planted / "features.zarr", missing_slides="exclude"
        )
        splits = make_splits(cohort, folds=2)
        fold = splits.test_fold(cohort.patients)
        task = create_task(endpoint, cohort.target)
        rng = np.random.default_rng(1)
        guesses = [rng.normal(size=(len(cohort), len(task.columns))) for _ in range(2)]
        if kind.startswith("class"):
            guesses = [np.exp(g) / np.exp(g).sum(1, keepdims=True) for g in guesses]
        settings = experiment.evaluation
        threshold = np.full(len(cohort), 0.5) if kind == "class" else None
        first = metrics_of(task, guesses[0], cohort.target, fold, settings, threshold=threshold)
        second = metrics_of(task, guesses[1], cohort.target, fold, settings)
        others = [("mean of colour", guesses[1])]
        group = test = None
        if kind == "survival":
            group = (guesses[0][:, 0] > 0).astype(np.int64)
            test = log_rank(cohort.target.time, cohort.target.event, group, fold=fold, permutations=100)
        history = tuple(Epoch(n, 1 / n, 0.5 + 1 / n, 0.5, 1e-3) for n in range(1, 6))
        usable = [sum(len(s.store.bag(s.slide_id, encoder="texture")) for s in mine) for mine in cohort.slides]
        result = CrossvalResult(
            experiment=experiment, cohort=cohort, splits=splits, fold=fold, columns=task.columns,
            model=ModelResult("abmil on texture", guesses[0], first),
            baselines=(ModelResult("mean of colour", guesses[1], second),),
            differences=differences_of(task, guesses[0], others, cohort.target, fold, settings),
            members=tuple(Member(f, m, 6, 2, 3, history, Path("m")) for f in range(2) for m in range(2)),
            attention=tuple(rng.dirichlet(np.ones(n)).astype(np.float32) for n in usable),
            threshold=threshold, risk_group=group, log_rank=test, notes=("A note of <i>this</i> run.",),
            manifest={"versions": {"wsikit": "9.9.9"}, "table": "<i>cohort.csv", "seeds": [0, 1]},
        )  # fmt: skip
        return replace(result, **changed)

    return made
