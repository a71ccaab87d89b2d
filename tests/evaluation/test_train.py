"""One model from a table and a store; killed at any moment and called again, the same bytes."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import yaml

from wsikit.errors import ConfigError
from wsikit.evaluation.crossval import crossval
from wsikit.evaluation.predict import predict_slides
from wsikit.evaluation.settings import experiment_from
from wsikit.evaluation.train import train
from wsikit.training.bundle import load_bundle, save_bundle

FILES = ["checkpoint.safetensors", "history.csv", "model.safetensors", "run.json", "splits.csv", "splits.json"]
EPOCHS = 40


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def written(folder, planted):
    """The configuration of a run, in a folder of its own."""
    folder.mkdir()
    values = {
        "name": "killed", "cohort": str(planted / "cohort.csv"), "stores": str(planted / "features.zarr"),
        "encoder": "toy", "endpoint": {"kind": "class", "column": "label", "classes": ["0", "1"]}, "out": "out",
        "model": {"options": {"embed_dim": 16, "dropout": 0.25}},
        "training": {"epochs": EPOCHS, "tile_dropout": 0.3, "device": "cpu", "batch_patients": 2},
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    return folder


def start(folder):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "wsikit", "train", "config.yaml"], cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def epochs_done(folder):
    path = folder / "out" / "history.csv"
    return len(rows_of(path)) if path.exists() else 0


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is of POSIX systems")
def test_killed_twice_and_called_again_it_ends_with_the_same_bytes(planted, tmp_path):
    whole, parts = written(tmp_path / "whole", planted), written(tmp_path / "parts", planted)
    undisturbed = start(whole)
    rng, done = random.Random(0), 0
    for _ in range(2):
        process = start(parts)
        wanted = done + rng.randint(2, 8)
        while epochs_done(parts) < wanted:
            assert process.poll() is None, process.communicate()
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert not (parts / "out" / "model.safetensors").exists()
        before, done = done, epochs_done(parts)
        assert before < done < EPOCHS
    last = start(parts)
    said = last.communicate(timeout=120)
    assert last.returncode == 0, said
    assert "going on after epoch" in said[1]
    assert undisturbed.communicate(timeout=120)
    assert undisturbed.returncode == 0
    for name in FILES:
        assert (parts / "out" / name).read_bytes() == (whole / "out" / name).read_bytes(), name
    assert not list((parts / "out").glob("*.partial"))
    assert epochs_done(whole) == EPOCHS


@pytest.fixture(scope="module")
def trained(planted, experiment, tmp_path_factory):
    """A model and what it was asked."""
    given = experiment(planted, tmp_path_factory.mktemp("train") / "out", splits={"validation": 0.25})
    return given, train(given)


def test_roles_are_apart_and_all_patients_have_one(trained):
    given, result = trained
    assert len(result.fold.validation) == 10
    assert sorted(result.fold.train + result.fold.validation) == list(result.cohort.patients)
    label = result.cohort.target.label
    assert label[result.cohort.index(result.fold.validation)].sum() == 5  # stratified
    roles = {row["patient_id"]: row["fold_0"] for row in rows_of(given.out / "splits.csv")}
    assert {p for p, role in roles.items() if role == "validation"} == set(result.fold.validation)


def test_the_model_predicts_as_its_bundle_says(trained, planted, tmp_path):
    given, result = trained
    bundle = load_bundle(result.bundle)
    assert set(bundle.facts["thresholds"]) == {"probability"}
    assert len(bundle.facts["history"]) == len(result.history) == 12
    report = predict_slides(planted / "features.zarr", result.bundle, out=tmp_path, patients=planted / "cohort.csv")
    truth = dict(zip(result.cohort.patients, result.cohort.target.label.tolist(), strict=True))
    right = [p.call == str(truth[p.patient_id]) for p in report.predictions]
    assert np.mean(right) > 0.8  # of patients it was trained on, mostly
    run = json.loads((given.out / "run.json").read_text())
    assert run["splits hash"]
    assert str(planted) not in (given.out / "run.json").read_text()


def test_a_second_call_finds_everything_done(trained):
    given, first = trained
    before, said, seen = first.bundle.read_bytes(), [], []
    again = train(given, say=said.append, watch=seen.append)
    assert (seen, again.before, again.history) == ([], 12, first.history)
    assert "going on after epoch 12 of 12" in said
    assert first.bundle.read_bytes() == before
    longer = given.model_copy(update={"training": given.training.model_copy(update={"epochs": 13})})
    with pytest.raises(ConfigError, match=r"training\.epochs: stored 12, asked for 13"):
        train(longer)


def test_a_fold_of_a_split_file(trained, planted, experiment, tmp_path):
    _, first = trained
    lines = [f"{p},{i % 4}" for i, p in enumerate(first.cohort.patients)]
    file = tmp_path / "folds.csv"
    file.write_text("\n".join(["patient_id,fold", *lines, ""]))
    given = experiment(planted, tmp_path / "out", splits={"file": file}, training={"epochs": 1})
    with pytest.raises(ConfigError, match=r"4 folds; say which one trains the model \(--fold 0, 1"):
        train(given)
    with pytest.raises(ConfigError, match="no fold 4, expected 0 to 3"):
        train(given, fold=4)
    result = train(given, fold=2)
    assert set(result.fold.test) == {p for i, p in enumerate(first.cohort.patients) if i % 4 == 2}
    assert not set(result.fold.test) & set(result.fold.train + result.fold.validation)
    with pytest.raises(ConfigError, match="there is no split file"):
        train(experiment(planted, tmp_path / "other", training={"epochs": 1}), fold=0)


def test_given_weights_are_loaded_one_for_one_or_refused(trained, planted, experiment, tmp_path):
    _, first = trained
    start_from = {"init": first.bundle, "options": {"embed_dim": 16, "dropout": 0.1}}
    still = {"epochs": 1, "learning_rate": 1e-12, "weight_decay": 0.0}
    said = []
    result = train(experiment(planted, tmp_path / "a", "three", model=start_from, training=still), say=said.append)
    one, other = (load_bundle(b).model.state_dict() for b in (first.bundle, result.bundle))
    names = [name for name in one if name.startswith("aggregator.")]
    assert len(result.started.loaded) == len(names)
    assert result.started.left == ("head.bias", "head.weight")
    for name in [*names, "mean", "scale"]:
        np.testing.assert_allclose(other[name], one[name], atol=1e-9)
    assert f"starting from model.safetensors: {len(names)} tensors of the aggregator, all it has" in said
    run = json.loads((tmp_path / "a" / "run.json").read_text())
    assert run["started"]["sha256"] == result.started.sha256 == run["settings"]["model"]["init"]["sha256"]
    assert str(first.bundle) not in (tmp_path / "a" / "run.json").read_text()
    wide = {"init": first.bundle, "options": {"embed_dim": 32}}
    with pytest.raises(
        ConfigError, match=r"do not fit aggregator 'abmil' with these options: .*\(16, 8\), expected \(32, 8\)"
    ):
        train(experiment(planted, tmp_path / "b", model=wide))
    with pytest.raises(ConfigError, match="no 'scores.weight' in the file|is not of this aggregator"):
        train(experiment(planted, tmp_path / "c", model={"init": first.bundle, "aggregator": "mean", "options": {}}))
    colour = experiment(planted, tmp_path / "d", model=start_from).model_copy(update={"encoder": "colour"})
    with pytest.raises(ConfigError, match="are of features 'toy-0000', and these are 'colour-0000'"):
        train(colour)
    assert not (tmp_path / "d").exists()


def test_a_cross_validation_goes_on_with_the_models_it_has(planted, experiment, tmp_path):
    given = experiment(planted, tmp_path / "run", training={"epochs": 2}, splits={"folds": 2, "inner_folds": 2})
    first, said = crossval(given, workers=1), []
    files = {p.name: p for p in (tmp_path / "run" / "models").iterdir()}
    bytes_before = {name: p.read_bytes() for name, p in files.items()}
    files["fold-0-1.safetensors"].unlink()
    cut = files["fold-1-0.safetensors"]
    cut.write_bytes(cut.read_bytes()[:200])  # killed while it was copied, say
    again = crossval(given, workers=1, say=said.append)
    assert "2 of 4 models are there already, fitted with the same settings on the same patients" in said
    assert {name: p.read_bytes() for name, p in files.items()} == bytes_before
    np.testing.assert_array_equal(again.model.prediction, first.model.prediction)
    assert [m.history for m in again.members] == [m.history for m in first.members]
    bundle = load_bundle(cut)  # what is there is used and not fitted: with another head it predicts otherwise
    with torch.no_grad():
        bundle.model.head.bias += torch.tensor([0.0, 1.0])
    save_bundle(bundle, cut)
    moved = crossval(given, workers=1).model.prediction
    assert np.array_equal(moved != first.model.prediction, (first.fold == 1)[:, None].repeat(2, 1))
    said.clear()
    longer = given.model_copy(update={"training": given.training.model_copy(update={"epochs": 3})})
    crossval(longer, workers=1, say=said.append)
    assert not any("there already" in line for line in said)


def test_a_model_of_two_encoders_says_so_and_predicts_from_both(planted, experiment, tmp_path):
    given = experiment(planted, tmp_path / "out", training={"epochs": 2})
    both = experiment_from({**given.model_dump(exclude={"encoder"}), "encoder": ["toy", "colour"]})
    result = train(both)
    bundle = load_bundle(result.bundle)
    assert bundle.facts["encoder"]["key"] == "toy-0000+colour-0000"
    assert bundle.model.aggregator.in_dim == 8 + 3
    report = predict_slides(planted / "features.zarr", result.bundle, out=tmp_path / "predicted")
    assert len(report.predictions) == 48
    one = train(given.model_copy(update={"out": tmp_path / "one"}))
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "a.safetensors").write_bytes(result.bundle.read_bytes())
    (folder / "b.safetensors").write_bytes(one.bundle.read_bytes())
    with pytest.raises(ConfigError, match="do not belong together"):
        predict_slides(planted / "features.zarr", folder, out=tmp_path / "no")
