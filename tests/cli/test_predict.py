"""From slides of a planted cohort to a model, and from the model to a new slide, as a user types it."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest

from wsikit.store.reader import open_store
from wsikit.testing.cohort import plant_cohort

CONFIG = """
cohort: cohort.csv
stores: features.zarr
encoder: colour
endpoint: {kind: class, column: label, classes: [0, 1]}
model: {options: {embed_dim: 16}}
training: {epochs: 2, device: cpu}
splits: {folds: 2, inner_folds: 1}
evaluation: {bootstrap: 100, heatmaps: 1}
out: run
"""


def wsikit(*arguments, cwd):
    command = [sys.executable, "-m", "wsikit", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=150)


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return {row["patient_id"]: row for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Twelve slides, their features, a run, and the predictions of a store and of a folder with one bad slide."""
    folder = tmp_path_factory.mktemp("predict")
    plant_cohort(folder, patients=12, size_px=1024, processes=1)
    (folder / "config.yaml").write_text(CONFIG)
    done = {
        "extract": wsikit(
            "extract", "slides", "--out", "features.zarr", "--encoder", "colour", "--workers", 1, cwd=folder
        ),
        "crossval": wsikit("crossval", "config.yaml", "--workers", 1, cwd=folder),
    }
    for name in done:
        assert done[name].returncode == 0, done[name].stdout + done[name].stderr
    (folder / "new").mkdir()
    shutil.copy(folder / "slides" / "P001-S0.svs", folder / "new")
    (folder / "new" / "bad.svs").write_bytes(b"not a slide")
    done["store"] = wsikit("predict", "features.zarr", "-m", "run/models", "-o", "a", "--no-heatmaps", cwd=folder)
    done["folder"] = wsikit("predict", "new", "-m", "run/models", "-o", "b", "--workers", 1, cwd=folder)
    return folder, done


def test_crossval_shows_its_metrics_and_writes_the_report(place):
    folder, done = place
    out = " ".join(done["crossval"].stdout.split())
    with (folder / "run" / "metrics.csv").open(newline="", encoding="utf-8") as file:
        metrics = list(csv.DictReader(file))
    auc = next(m for m in metrics if m["model"] == "abmil on colour" and m["metric"] == "AUC")
    assert f"abmil on colour AUC {float(auc['value']):.3f}" in out
    assert f"{float(auc['low']):.3f} to {float(auc['high']):.3f}" in out
    assert "number of tiles AUC" in out
    assert "note: 12 patients" in out
    assert "fold 2 of 2 fitted" in done["crossval"].stderr
    report = (folder / "run" / "report.html").read_text(encoding="utf-8")
    assert "abmil on colour" in report
    assert f"{float(auc['value']):.2f}" in report
    assert len(rows_of(folder / "run" / "predictions.csv")) == 12


def test_a_slide_file_gets_what_its_features_in_a_store_get(place):
    folder, done = place
    assert done["store"].returncode == 0, done["store"].stderr
    stored, fresh = rows_of(folder / "a" / "predictions.csv"), rows_of(folder / "b" / "predictions.csv")
    assert len(stored) == 12
    assert list(fresh) == ["P001-S0"]
    assert fresh["P001-S0"] == stored["P001-S0"]  # tiles, features, probability and call, digit by digit
    assert not (folder / "a" / "heatmaps").exists()
    assert f"{float(fresh['P001-S0']['probability_1']):.3f}" in done["folder"].stdout


def test_a_bad_slide_is_named_and_the_exit_code_is_1(place):
    _, done = place
    assert done["folder"].returncode == 1
    assert "not predicted: bad: unreadable" in " ".join(done["folder"].stdout.split())
    assert "Traceback" not in done["folder"].stderr


def test_heatmaps_hold_the_attention(place):
    folder, _ = place
    picture = cv2.imread(str(folder / "b" / "heatmaps" / "P001-S0.png"))
    assert picture is not None
    assert picture.std() > 5
    shapes = json.loads((folder / "b" / "heatmaps" / "P001-S0.geojson").read_text())["features"]
    store = open_store(folder / "features.zarr")
    assert len(shapes) == len(store.bag("P001-S0", encoder="colour"))
    measured = [shape["properties"]["measurements"] for shape in shapes]
    name = next(key for key in measured[0] if key.startswith("attention"))
    weights = np.array([m[name] for m in measured])
    assert weights.sum() == pytest.approx(1, abs=1e-3)


def test_patients_of_a_table_are_predicted(place, tmp_path):
    folder, _ = place
    (tmp_path / "two.csv").write_text("slide_id,patient_id\nP001-S0,x\nP002-S0,x\n")
    done = wsikit(
        "predict", "features.zarr", "-m", "run/models", "-o", tmp_path / "c", "--patients", tmp_path / "two.csv",
        "--no-heatmaps", cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = rows_of(tmp_path / "c" / "predictions.csv")
    assert found["x"]["slides"] == "P001-S0 P002-S0"
    single = rows_of(folder / "a" / "predictions.csv")
    assert int(found["x"]["tiles"]) == int(single["P001-S0"]["tiles"]) + int(single["P002-S0"]["tiles"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["predict", "features.zarr", "-m", "slides"], "no *.safetensors in this folder"),
        (["predict", "nowhere", "-m", "run/models"], "nowhere: no such slide, folder or store"),
        (
            ["predict", "features.zarr", "-m", "run/models", "--map", "rollout"],
            "'abmil' has no attention rollout; those",
        ),
    ],
)
def test_what_cannot_be_predicted_is_one_line_and_exit_2(place, arguments, words, tmp_path):
    folder, _ = place
    done = wsikit(*arguments, "-o", tmp_path / "out", cwd=folder)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert words in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
