"""Given weights against scratch: the same folds, seeds and budget, and the difference with its interval."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from wsikit.evaluation.crossval import crossval
from wsikit.evaluation.predict import predict_slides
from wsikit.evaluation.train import train
from wsikit.reports.crossval import write_report
from wsikit.training.bundle import load_bundle

SMALL = {"folds": 2, "inner_folds": 1}
QUICK = {"bootstrap": 100, "heatmaps": 0}
SHORT = {"epochs": 3}
OPTIONS = {"embed_dim": 16, "dropout": 0.1}


@pytest.fixture(scope="module")
def weights(planting, experiment, tmp_path_factory):
    """A model that was trained on another cohort, as 'wsikit train' leaves it."""
    folder = tmp_path_factory.mktemp("other")
    elsewhere = planting(folder / "cohort", patients=50)
    return train(experiment(elsewhere, folder / "out", training={"epochs": 30, "learning_rate": 0.02})).bundle


@pytest.fixture(scope="module")
def compared(planted, experiment, weights, tmp_path_factory):
    """A cross-validation that starts from these weights, and what it said."""
    said, out = [], tmp_path_factory.mktemp("scratch") / "run"
    given = experiment(
        planted, out, model={"init": weights, "options": OPTIONS}, training=SHORT, splits=SMALL, evaluation=QUICK
    )
    return crossval(given, workers=1, say=said.append), said


def test_scratch_is_what_a_run_without_weights_finds(compared, planted, experiment, tmp_path):
    result, said = compared
    scratch = result.baselines[0]
    assert scratch.name == "abmil on toy from scratch"
    without = experiment(planted, tmp_path, model={"options": OPTIONS}, training=SHORT, splits=SMALL, evaluation=QUICK)
    alone = crossval(without, workers=1)
    np.testing.assert_array_equal(scratch.prediction, alone.model.prediction)
    assert scratch.metrics == alone.model.metrics
    assert result.splits.hash == alone.splits.hash
    assert not np.allclose(result.model.prediction, scratch.prediction)
    assert "fitting 4 models: 2 folds x 1" in said
    assert any("half of them from scratch" in line and "scratch: false" in line for line in said)
    assert [len(result.members), len(result.scratch), len(alone.scratch)] == [2, 2, 0]


def test_the_gain_is_a_paired_difference_with_its_interval_and_in_the_report(compared):
    result, _ = compared
    gain = result.differences[0]
    assert gain.name == "AUC minus that of abmil on toy from scratch"
    assert gain.value == pytest.approx(result.model.metrics[0].value - result.baselines[0].metrics[0].value)
    assert gain.interval.low <= gain.value <= gain.interval.high
    # three epochs are too few to learn from nothing what the weights bring along
    last = [[m.history[-1].train_loss for m in members] for members in (result.members, result.scratch)]
    assert max(last[0]) < min(last[1]) - 0.05
    with (result.out / "metrics.csv").open(newline="") as file:
        rows = [(row["model"], row["metric"]) for row in csv.DictReader(file)]
    assert ("abmil on toy from scratch", "sensitivity") in rows
    assert ("abmil on toy", gain.name) in rows
    text = write_report(result).read_text()
    assert "abmil on toy from scratch" in text
    assert "half of them from scratch" in text
    assert json.loads((result.out / "run.json").read_text())["settings"]["evaluation"]["scratch"] is True


def test_models_from_scratch_are_kept_apart_and_not_fitted_twice(compared, planted, tmp_path):
    result, _ = compared
    files = sorted(path.relative_to(result.out).as_posix() for path in (result.out / "models").rglob("*.safetensors"))
    assert files[:2] == ["models/fold-0-0.safetensors", "models/fold-1-0.safetensors"]
    assert files[2:] == [name.replace("models/", "models/scratch/") for name in files[:2]]
    assert set(load_bundle(result.out / files[2]).facts["thresholds"]) == {"probability"}
    asked = []
    predict_slides(planted / "features.zarr", result.out / "models", out=tmp_path, say=asked.append)
    assert any("with 2 models" in line for line in asked)
    said = []
    crossval(result.experiment, workers=1, say=said.append)
    assert "4 of 4 models are there already, fitted with the same settings on the same patients" in said


def test_it_can_be_left_out(compared, planted, experiment, weights, tmp_path):
    given = experiment(
        planted, tmp_path, model={"init": weights, "options": OPTIONS}, training=SHORT, splits=SMALL,
        evaluation=QUICK | {"scratch": False},
    )  # fmt: skip
    result = crossval(given, workers=1)
    np.testing.assert_array_equal(result.model.prediction, compared[0].model.prediction)
    assert not any("scratch" in model.name for model in result.baselines)
    assert not (tmp_path / "models" / "scratch").exists()


def test_weights_from_the_same_slides_are_called_out(compared, planted, experiment, tmp_path):
    same = train(experiment(planted, tmp_path / "all", training=SHORT))
    given = experiment(planted, tmp_path / "run", model={"init": same.bundle, "options": OPTIONS}, training=SHORT,
                       splits=SMALL, evaluation=QUICK | {"scratch": False})  # fmt: skip
    words = "trained on the slides of this very cohort. They may know the outcomes of tested patients"
    assert any(words in note for note in crossval(given, workers=1).notes)
    assert not any(words in note for note in compared[0].notes)
