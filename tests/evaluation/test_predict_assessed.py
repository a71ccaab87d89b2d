"""What `predict` adds to a prediction: sets from held-out patients, and who is unlike those of the training."""

from __future__ import annotations

import csv
import shutil

import numpy as np
import pytest

from wsikit.cohort.bags import Bags
from wsikit.errors import ConfigError
from wsikit.evaluation.crossval import crossval
from wsikit.evaluation.outliers import fit_reference
from wsikit.evaluation.predict import predict_slides
from wsikit.evaluation.train import train
from wsikit.store.writer import begin_store
from wsikit.training.bundle import add_to_bundle, load_bundle, read_bundle

SHORT = {"training": {"epochs": 4, "learning_rate": 0.01}, "splits": {"folds": 2, "inner_folds": 2}}


@pytest.fixture(scope="module")
def runs(planted, experiment, tmp_path_factory):
    """A short run for each kind of endpoint, made when it is first asked for."""
    done = {}

    def run(kind):
        if kind not in done:
            done[kind] = crossval(experiment(planted, tmp_path_factory.mktemp("runs") / kind, kind, **SHORT), workers=1)
        return done[kind]

    return run


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def predicted(result, planted, out, **more):
    return predict_slides(
        planted / "features.zarr", result.out / "models", out=out, patients=planted / "cohort.csv", **more
    )


def strangers(folder, write_features, change):
    """A store of 30 patients of one slide each, whose features are ``change`` of what the planted cohort has."""
    root = folder / "features.zarr"
    root.mkdir(parents=True)
    begin_store(root, {"tiling": {"tile_px": 256}})
    for i in range(30):
        rng = np.random.default_rng([11, i])
        x = rng.normal(size=(12, 8))
        x[: round(12 * 0.7 * i / 30)] += np.array([5, -5, 5, -5, 0, 0, 0, 0])
        write_features(root, f"t{i:03d}", {"toy-0000": change(x, rng)})
    return root


def test_p_values_are_of_out_of_fold_predictions_counted_by_hand(runs, planted, tmp_path):
    result = runs("class")
    report = predicted(result, planted, tmp_path / "out", coverage=0.8)
    label = result.cohort.target.label
    each = {}
    for member in result.members:  # of each model alone, for everybody
        alone = predict_slides(
            planted / "features.zarr", result.out / member.bundle, out=tmp_path / "one", patients=planted / "cohort.csv"
        )
        each.setdefault(member.fold, []).append([p.values for p in alone.predictions])
    for i, found in enumerate(report.predictions):
        for number, name in enumerate(("0", "1")):
            worse = 0
            for fold, values in each.items():
                mine = np.mean(values, axis=0)[i, number]
                held = result.fold == fold
                true = result.model.prediction[held, label[held]]  # what the run itself reported of them
                worse += int((true <= mine).sum())
            p = (1 + worse) / (1 + len(label))
            assert float(found.assessed[f"p_{name}"]) == pytest.approx(p, rel=1e-5)
            assert (name in found.assessed["prediction_set"].split("|")) == (p > 0.2 + 1e-9)
    rows = rows_of(report.table)
    assert rows[3]["prediction_set"] == report.predictions[3].assessed["prediction_set"]
    assert {row["set_size"] for row in rows} <= {"0", "1", "2"}
    assert len({row["prediction_set"] for row in rows}) > 1


def test_a_full_and_an_empty_set_are_called_so(runs, planted, tmp_path):
    full = predicted(runs("class"), planted, tmp_path / "full", coverage=0.97)
    notes = {p.assessed["set_note"] for p in full.predictions if p.assessed["set_size"] == "2"}
    assert notes == {"all classes: none can be left out"}
    empty = predicted(runs("class"), planted, tmp_path / "empty", coverage=0.05)
    none = [p.assessed for p in empty.predictions if p.assessed["set_size"] == "0"]
    assert none
    assert {(one["prediction_set"], one["set_note"]) for one in none} == {("", "empty: no class fits")}


def test_an_interval_of_a_number_holds_its_prediction(runs, planted, tmp_path):
    result = runs("continuous")
    report = predicted(result, planted, tmp_path / "out", coverage=0.9)
    error = np.sort(np.abs(result.model.prediction[:, 0] - result.cohort.target.value))
    for found in report.predictions:
        low, high = float(found.assessed["low"]), float(found.assessed["high"])
        assert low < found.values[0] < high
        assert high - low < 2.5 * error[-1]  # folds differ a little, and no more
    inside = [
        float(p.assessed["low"]) <= v <= float(p.assessed["high"])
        for p, v in zip(report.predictions, result.cohort.target.value, strict=True)
    ]
    assert np.mean(inside) >= 0.9  # most models were fitted on these patients


def test_what_cannot_be_covered_is_said_before_anything_is_made(runs, planted, tmp_path):
    with pytest.raises(ConfigError, match="coverage 0.9: no prediction sets for an endpoint of kind 'survival'"):
        predicted(runs("survival"), planted, tmp_path / "a", coverage=0.9)
    with pytest.raises(ConfigError, match="coverage 0.99 needs 99 held-out patients, the models have 40"):
        predicted(runs("class"), planted, tmp_path / "b", coverage=0.99)
    with pytest.raises(ConfigError, match="coverage 0.96 needs 24 held-out patients of class '0', the models have 20"):
        predicted(runs("class"), planted, tmp_path / "c", coverage=0.96, by_class=True)
    with pytest.raises(ConfigError, match="by_class says for whom a coverage holds, and none is given"):
        predicted(runs("class"), planted, tmp_path / "d", by_class=True)
    assert not list(tmp_path.iterdir())


def test_models_of_two_runs_have_no_common_held_out_patients(runs, planted, experiment, tmp_path):
    other = experiment(planted, tmp_path / "other", **SHORT | {"splits": {"folds": 2, "inner_folds": 1, "seed": 5}})
    result = crossval(other, workers=1)
    mixed = tmp_path / "models"
    shutil.copytree(runs("class").out / "models", mixed)
    shutil.copy(result.out / result.members[0].bundle, mixed / "x.safetensors")
    said = []
    report = predict_slides(planted / "features.zarr", mixed, out=tmp_path / "out", say=said.append)
    assert "ood_flag" not in report.predictions[0].assessed
    assert any("models are of several runs" in line for line in said)
    with pytest.raises(ConfigError, match="models are of several runs"):
        predict_slides(planted / "features.zarr", mixed, out=tmp_path / "out", coverage=0.8)


def test_models_of_an_earlier_wsikit_predict_as_before_and_say_what_they_lack(runs, planted, tmp_path):
    result = runs("class")
    old = tmp_path / "models"
    shutil.copytree(result.out / "models", old)
    for path in old.iterdir():
        facts, _ = read_bundle(path)
        facts = {k: v for k, v in facts.items() if k not in ("held_out", "patients", "slides", "cuts")}
        forget(path, facts)
    said = []
    before = predicted(result, planted, tmp_path / "now")
    after = predict_slides(
        planted / "features.zarr", old, out=tmp_path / "then", patients=planted / "cohort.csv", say=said.append
    )
    assert [p.values.tolist() for p in after.predictions] == [p.values.tolist() for p in before.predictions]
    assert after.unlike is None
    assert any("do not know whom they have not seen" in line for line in said)
    with pytest.raises(ConfigError, match="hold no predictions of held-out patients"):
        predict_slides(planted / "features.zarr", old, out=tmp_path / "then", coverage=0.8)


def forget(path, facts):
    """A bundle of version 1: the same weights, and no word of any patient."""
    import json

    from safetensors.torch import load_file, save_file

    tensors = {name: value for name, value in load_file(path).items() if not name.startswith("known.")}
    save_file(tensors, path, metadata={"wsikit": json.dumps(facts | {"version": "1"})})


def test_entering_what_is_known_leaves_the_weights_and_takes_the_place_of_what_was(runs, tmp_path):
    result = runs("class")
    path = shutil.copy(result.out / result.members[0].bundle, tmp_path)
    before = load_bundle(path)
    add_to_bundle(path, facts={"cuts": "elsewhere"}, known={"x": np.arange(3)})
    after = load_bundle(path)
    for name, value in before.model.state_dict().items():
        assert value.equal(after.model.state_dict()[name])
    assert (after.facts["cuts"], after.facts["fold"]) == ("elsewhere", 0)
    assert {k: v.tolist() for k, v in after.known.items()} == {"x": [0, 1, 2]}
    assert "held_out.label" in before.known


def test_no_bundle_joins_a_patient_to_an_outcome(runs):
    result = runs("class")
    bundle = load_bundle(result.out / result.members[0].bundle)
    assert bundle.facts["patients"] == sorted(bundle.facts["patients"])
    assert len(bundle.facts["patients"]) == (result.fold != 0).sum()
    assert not any(name in str(bundle.facts) for name in result.cohort.patients)
    held = np.mean([load_bundle(result.out / m.bundle).known["held_out.prediction"] for m in result.members[:2]], 0)
    assert (np.diff(held[:, 0]) >= 0).all()  # in the order of the prediction, not of the patients
    assert sorted(held[:, 0]) == sorted(result.model.prediction[result.fold == 0, 0])


def test_the_flag_compares_with_held_out_patients_of_each_fold(runs, planted, tmp_path):
    result = runs("class")
    report = predicted(result, planted, tmp_path / "out")
    means = Bags(result.cohort.slides, encoder="toy").means()
    farther = np.zeros(len(means))
    for fold in (0, 1):
        reference = fit_reference(means[result.fold != fold])
        held = reference.distances(means[result.fold == fold])
        farther += (held[None] >= reference.distances(means)[:, None] * (1 - 1e-6)).sum(1)
    assert [float(p.assessed["ood_share"]) for p in report.predictions] == pytest.approx(farther / 40, abs=1e-5)
    assert report.unlike.rate == pytest.approx(1 / 41)


@pytest.mark.parametrize("what", ["stain", "encoder", "noise"])
def test_other_cohorts_are_flagged_and_one_of_the_same_kind_is_not(runs, tmp_path, what, features_writer):
    changes = {
        "stain": lambda x, rng: x + np.array([0, 0, 0, 0, 2, -2, 2, 2]),
        "encoder": lambda x, rng: 4 * x @ np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0] + 1,
        "noise": lambda x, rng: 6 * rng.normal(size=x.shape),
    }
    models = runs("class").out / "models"
    other = strangers(tmp_path / "other", features_writer, changes[what])
    like = strangers(tmp_path / "like", features_writer, lambda x, rng: x)
    flags = [predict_slides(s, models, out=tmp_path / s.parent.name / "out").unlike.flagged for s in (other, like)]
    assert flags[0].mean() > 0.9
    assert flags[1].sum() <= 4  # of 30 at 1/41 each; 5 or more happen once in 500 times


def test_a_single_trained_model_has_sets_from_those_who_watched(planted, experiment, tmp_path):
    wanted = experiment(planted, tmp_path / "t", training={"epochs": 3}, splits={"validation": 0.3})
    result = train(wanted)
    report = predict_slides(
        planted / "features.zarr", result.bundle, out=tmp_path / "out", patients=planted / "cohort.csv", coverage=0.8
    )
    bundle = load_bundle(result.bundle)
    assert bundle.facts["held_out"]["who"] == "patients who watched the training"
    assert len(bundle.known["held_out.label"]) == len(result.fold.validation) == report.sets.known
    assert len(bundle.known["held_out.distance"]) == 40  # cross-fitted: everybody counts
    values = {p.patient_id: p for p in report.predictions}
    label = dict(zip(result.cohort.patients, result.cohort.target.label.tolist(), strict=True))
    true = np.array([values[p].values[label[p]] for p in result.fold.validation])
    found = values[result.fold.train[0]]
    p = (1 + (true <= found.values[1]).sum()) / (1 + len(true))
    assert float(found.assessed["p_1"]) == pytest.approx(p, rel=1e-5)
