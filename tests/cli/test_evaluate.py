"""External validation as a user types it: what is shown, what is written, and the exit code."""

from __future__ import annotations

import csv
import subprocess
import sys

import numpy as np
import pytest

from wsikit.cohort.endpoints import endpoint_from
from wsikit.evaluation.crossval import crossval
from wsikit.evaluation.run_files import read_external
from wsikit.evaluation.settings import experiment_from
from wsikit.store.writer import add_features, begin_store, write_plan, write_shard

LABEL = {"kind": "class", "column": "label", "classes": ["0", "1"]}


def wsikit(*arguments, cwd):
    command = [sys.executable, "-m", "wsikit", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=150)


def place(folder, patients, seed):
    """A store and a table of patients whose features tell their label, more or less."""
    root, rows = folder / "features.zarr", []
    root.mkdir(parents=True)
    begin_store(root, {"tiling": {"tile_px": 256}})
    for i in range(patients):
        rng, name = np.random.default_rng([seed, i]), f"{folder.name}{i:02d}"
        coords = np.stack([np.arange(6), np.zeros(6)], 1).astype(np.int32) * 256
        facts = {
            "fingerprint": f"{seed:032d}{i:032d}", "mpp": [0.5, 0.5], "size_level0_px": [4096, 256],
            "tile_level0_px": [256.0, 256.0], "stride_level0_px": [256, 256],
        }  # fmt: skip
        write_plan(root, name, attributes=facts, coords=coords, quality=np.ones((6, 1), np.float32))
        add_features(root, name, "toy-0000", dim=3, attributes={"card": {"name": "toy", "dim": 3}, "run": {}})
        x = (rng.normal(size=(6, 3)) + np.array([i % 2 + rng.normal(), 0, 0])).astype(np.float16)
        write_shard(root, name, "toy-0000", 0, values=x, status=np.zeros(6, np.uint8), facts={})
        rows.append([name, name, i % 2, "FM"[i % 3 > 0]])
    with (folder / "cohort.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["slide_id", "patient_id", "label", "sex"], *rows])


@pytest.fixture(scope="module")
def two_places(tmp_path_factory):
    """Models of one place, and the patients of another."""
    folder = tmp_path_factory.mktemp("evaluate")
    place(folder / "here", 30, 1)
    place(folder / "there", 40, 2)
    crossval(
        experiment_from(
            {
                "cohort": folder / "here" / "cohort.csv", "stores": folder / "here" / "features.zarr", "encoder": "toy",
                "endpoint": LABEL, "out": folder / "run", "model": {"options": {"embed_dim": 8}},
                "training": {"epochs": 4, "device": "cpu", "learning_rate": 0.01},
                "splits": {"folds": 2, "inner_folds": 1}, "evaluation": {"bootstrap": 100},
            }
        ),
        workers=1,
    )  # fmt: skip
    return folder


def test_an_external_cohort_is_measured_and_compared_with_itself_recalibrated(two_places):
    done = wsikit(
        "evaluate", "there/features.zarr", "-m", "run/models", "-t", "there/cohort.csv", "--bootstrap", 100,
        "--recalibrate", "intercept", "--coverage", 0.8, "--subgroup", "sex", cwd=two_places,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shown = " ".join(done.stdout.split())
    with (two_places / "external" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    auc = next(row for row in rows if row["metric"] == "AUC")
    assert f"AUC {float(auc['value']):.3f} {float(auc['low']):.3f} to {float(auc['high']):.3f}" in shown
    assert "recalibrated on 40 external patients (intercept, 5-fold cross-fitted)" in shown
    assert "frozen: mean over 2 models: best balanced accuracy on" in shown
    with (two_places / "external" / "subgroups.csv").open(newline="") as file:
        women = next(csv.DictReader(file))
    assert women["patients"] == "14"
    assert f"sex F 14 {float(women['value']):.3f} {float(women['low']):.3f} to {float(women['high']):.3f}" in shown
    assert "note: Fewer than 100 (0: 20, 1: 20)" in shown
    assert "40 patients who had no part" in (two_places / "external" / "report.html").read_text(encoding="utf-8")
    again = read_external(two_places / "external", two_places / "there" / "cohort.csv", endpoint_from(LABEL))
    assert len(again.patients) == 40  # 'wsikit compare --external' takes the folder


def test_patients_of_the_training_end_it_with_their_names(two_places):
    done = wsikit(
        "evaluate", "here/features.zarr", "-m", "run/models", "-t", "here/cohort.csv", "-o", "no", cwd=two_places
    )
    assert done.returncode == 2
    assert "error: here/cohort.csv: 30 of 30 patients trained these models: here00, here01" in " ".join(
        done.stderr.split()
    )
    assert "Traceback" not in done.stderr
    assert not (two_places / "no" / "report.html").exists()


def test_a_slide_that_is_missing_is_told_by_the_exit_code(two_places):
    table = two_places / "more.csv"
    table.write_text((two_places / "there" / "cohort.csv").read_text() + "gone,gone,1,F\n")
    done = wsikit(
        "evaluate", "there/features.zarr", "-m", "run/models", "-t", table, "-o", "more", "--bootstrap", 100,
        cwd=two_places,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "left out: 1 x slide: in no store" in done.stdout


def test_predict_shows_sets_and_who_is_unlike(two_places):
    done = wsikit(
        "predict",
        "there/features.zarr",
        "-m",
        "run/models",
        "-o",
        "p",
        "--no-heatmaps",
        "--coverage",
        0.8,
        cwd=two_places,
    )
    assert done.returncode == 0, done.stderr
    shown = " ".join(done.stdout.split())
    assert "of 40 are unlike the 30 patients of the training cohort (ood_flag); of like ones 3.2% would be" in shown
    assert "sets hold the truth for 80% of like patients, by 30 held-out ones" in shown
    with (two_places / "p" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[-9:] == [
        "predicted_class", "ood_score", "ood_share", "ood_flag", "p_0", "p_1", "prediction_set", "set_size", "set_note",
    ]  # fmt: skip
