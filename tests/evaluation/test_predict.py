"""Trained models on a store: what cross-validation said of its own test patients, and nothing for what does not fit."""

from __future__ import annotations

import csv
import shutil

import numpy as np
import pytest

from wsikit.cohort.table import load_cohort
from wsikit.errors import ConfigError
from wsikit.evaluation.crossval import crossval
from wsikit.evaluation.predict import predict_slides
from wsikit.training.bundle import load_bundle


@pytest.fixture(scope="module")
def runs(planted, experiment, tmp_path_factory):
    """A short run for each kind of endpoint, made when it is first asked for."""
    done = {}

    def run(kind, aggregator="abmil"):
        if (kind, aggregator) not in done:
            model = {"aggregator": aggregator} | ({} if aggregator == "abmil" else {"options": {}})
            short = {"training": {"epochs": 4, "learning_rate": 0.01}, "splits": {"folds": 2, "inner_folds": 2}}
            wanted = experiment(planted, tmp_path_factory.mktemp("runs") / kind, kind, model=model, **short)
            done[kind, aggregator] = crossval(wanted, workers=1)
        return done[kind, aggregator]

    return run


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def models_of(result, fold, folder):
    """A folder with the models of one fold."""
    folder.mkdir()
    for member in result.members:
        if member.fold == fold:
            shutil.copy(result.out / member.bundle, folder)
    return folder


@pytest.mark.parametrize("kind", ["class", "three", "survival", "continuous"])
def test_a_folds_models_say_again_what_they_said_of_its_test_patients(runs, planted, tmp_path, kind):
    result = runs(kind)
    models = models_of(result, 1, tmp_path / "models")
    table, store = planted / "cohort.csv", planted / "features.zarr"
    report = predict_slides(store, models, out=tmp_path / "out", patients=table)
    assert report.columns == result.columns
    assert [p.patient_id for p in report.predictions] == list(result.cohort.patients)
    assert not report.skipped
    assert report.run is None
    for i in np.flatnonzero(result.fold == 1):
        found = report.predictions[i]
        assert found.slides[0].slide_id == result.cohort.slides[i][0].slide_id
        assert np.array_equal(found.values, result.model.prediction[i])  # bit for bit
        assert np.array_equal(found.attention, result.attention[i])
        if kind == "class":
            assert found.call == str(int(found.values[1] > result.threshold[i]))
        elif kind == "three":
            assert found.call == ("I", "II", "III")[found.values.argmax()]
        else:
            assert found.call == ("" if kind == "continuous" else ("low", "high")[result.risk_group[i]])
    rows = rows_of(report.table)
    assert [float(row[report.columns[0]]) for row in rows] == [p.values[0] for p in report.predictions]
    assert rows[0]["slides"] == "s000-0 s000-1"
    bag = sum(len(s.store.bag(s.slide_id, encoder="toy")) for s in result.cohort.slides[0])
    assert int(rows[0]["tiles"]) == bag


def test_all_models_are_the_mean_of_single_ones(runs, planted, tmp_path):
    result = runs("class")
    store = planted / "features.zarr"
    whole = predict_slides(store, result.out / "models", out=tmp_path / "whole")
    single = [predict_slides(store, result.out / m.bundle, out=tmp_path / "one") for m in result.members]
    assert len(single) == 4
    assert len(whole.predictions) == 48  # without a table of patients every slide is predicted
    for i, found in enumerate(whole.predictions):
        assert found.patient_id == found.slides[0].slide_id
        assert found.values == pytest.approx(np.mean([s.predictions[i].values for s in single], axis=0), abs=1e-12)
        mean = np.mean([s.predictions[i].attention for s in single], axis=0)
        assert found.attention == pytest.approx(mean, abs=1e-6)
        assert found.attention.sum() == pytest.approx(1, abs=1e-5)


def test_tiles_are_counted_where_a_model_has_no_attention_too(runs, planted, tmp_path):
    result = runs("class", "max")
    report = predict_slides(planted / "features.zarr", result.out / "models", out=tmp_path / "out")
    tiles = [len(p.slides[0].store.bag(p.patient_id, encoder="toy")) for p in report.predictions]
    assert [int(row["tiles"]) for row in rows_of(report.table)] == tiles


def test_another_tiling_is_refused_in_words(runs, planting, tmp_path):
    other = planting(tmp_path / "other", patients=1, tile_px=128)
    words = "was tiled otherwise than the models were trained with: tiling.tile_px: models 256, store 128"
    with pytest.raises(ConfigError, match=words):
        predict_slides(other / "features.zarr", runs("class").out / "models", out=tmp_path / "out")
    assert not (tmp_path / "out" / "predictions.csv").exists()


def test_features_of_another_encoder_are_named(runs, planting, tmp_path):
    other = planting(tmp_path / "other", patients=2, key="toy-1111")
    words = r"no slide can be predicted \(s000-0: no features toy-0000 \(toy; the store has colour-0000, toy-1111\)"
    with pytest.raises(ConfigError, match=words):
        predict_slides(other / "features.zarr", runs("class").out / "models", out=tmp_path / "out")


def test_slides_that_are_not_there_are_named_and_the_others_predicted(runs, planted, tmp_path):
    table = tmp_path / "patients.csv"
    table.write_text("slide_id,patient_id\ns001-0,a\ns002-0,b\nabsent,b\ngone,c\n")
    report = predict_slides(
        planted / "features.zarr", runs("class").out / "models", out=tmp_path / "out", patients=table
    )
    assert [p.patient_id for p in report.predictions] == ["a", "b"]
    assert report.skipped == {"absent": "not in the store", "gone": "not in the store"}


def test_models_that_do_not_belong_together_and_folders_without_any(runs, planted, tmp_path):
    store = planted / "features.zarr"
    models = models_of(runs("class"), 0, tmp_path / "models")
    first = runs("survival").members[0].bundle
    shutil.copy(runs("survival").out / first, models / "other.safetensors")
    with pytest.raises(ConfigError, match="do not belong together .*endpoint"):
        predict_slides(store, models, out=tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"empty: no \*.safetensors in this folder; name the models/"):
        predict_slides(store, tmp_path / "empty", out=tmp_path / "out")
    with pytest.raises(ConfigError, match="nowhere: no such slide, folder or store"):
        predict_slides(tmp_path / "nowhere", runs("class").out / "models", out=tmp_path / "out")
    (tmp_path / "text.safetensors").write_text("no weights")
    with pytest.raises(ConfigError, match="not a model bundle"):
        predict_slides(store, tmp_path / "text.safetensors", out=tmp_path / "out")


def test_a_bundle_says_what_it_was_trained_on(runs, planted):
    result = runs("class")
    cohort = load_cohort(
        planted / "cohort.csv", endpoint=result.cohort.endpoint, stores=planted / "features.zarr", encoder="toy"
    )
    facts = load_bundle(result.out / result.members[3].bundle).facts
    assert (facts["fold"], facts["in_dim"], facts["encoder"]["key"]) == (1, 8, cohort.encoder)
    assert facts["splits hash"] == result.splits.hash
    assert facts["store digest"] == result.manifest["store digest"]
    assert facts["configuration"] == {"tiling": {"tile_px": 256}}
