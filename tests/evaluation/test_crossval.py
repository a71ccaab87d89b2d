"""Cross-validation of planted cohorts: it finds what is there, nothing where nothing is, and says what it wrote."""

from __future__ import annotations

import csv
import json
from collections import Counter

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import (
    balanced_accuracy_score,
    brier_score_loss,
    cohen_kappa_score,
    f1_score,
    roc_auc_score,
)

from wsikit.cohort.split_files import load_splits
from wsikit.cohort.table import load_cohort
from wsikit.errors import ConfigError
from wsikit.evaluation.crossval import best_threshold, crossval
from wsikit.evaluation.members import plan_members
from wsikit.metrics import harrell_c
from wsikit.store.writer import add_features, begin_store, write_plan, write_shard
from wsikit.training.bundle import load_bundle


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def column(rows, name):
    return np.array([float(row[name]) for row in rows])


@pytest.fixture(scope="module")
def runs(planted, experiment, tmp_path_factory):
    """A run for each kind of endpoint, made when it is first asked for."""
    done = {}

    def run(kind):
        if kind not in done:
            out = tmp_path_factory.mktemp("runs") / kind
            done[kind] = crossval(experiment(planted, out, kind), workers=1)
        return done[kind]

    return run


def test_a_planted_class_is_found_and_beats_the_baselines(runs):
    result = runs("class")
    auc = result.model.metrics[0]
    assert (auc.name, auc.value > 0.85, auc.interval.low > 0.6) == ("AUC", True, True)
    assert [b.name for b in result.baselines] == ["linear probe on mean toy", "mean of colour", "number of tiles"]
    probe, *others = result.baselines
    assert probe.metrics[0].value > 0.85  # what is planted is a share of tiles, which a mean shows
    assert all(b.metrics[0].value < 0.75 for b in others)
    for difference, baseline in zip(result.differences, result.baselines, strict=True):
        assert difference.value == pytest.approx(auc.value - baseline.metrics[0].value)
        assert (difference.interval.low > 0) == (baseline is not probe)
    assert [m.name for m in result.model.metrics[1:]] == [
        "average precision", "balanced accuracy", "sensitivity", "specificity", "F1", "Cohen's kappa", "Brier score",
        "calibration error", "calibration slope", "calibration intercept",
    ]  # fmt: skip
    assert result.model.metrics[2].value > 0.7


def test_planted_three_classes_survival_and_number_are_found(runs):
    three = runs("three")
    assert three.columns == ("probability_I", "probability_II", "probability_III")
    assert three.model.prediction.sum(1) == pytest.approx(np.ones(40))
    assert three.model.metrics[0].value > 0.75
    number = runs("continuous")
    value = number.cohort.target.value
    assert spearmanr(number.model.prediction[:, 0], value).statistic > 0.7
    error = next(m for m in number.model.metrics if m.name == "mean absolute error")
    assert error.value == pytest.approx(np.abs(number.model.prediction[:, 0] - value).mean())
    assert error.value < np.abs(value - value.mean()).mean()
    survival = runs("survival")
    assert survival.model.metrics[0].value > 0.65
    assert survival.log_rank.p_permutation < 0.05
    high = survival.risk_group == 1
    assert np.median(survival.cohort.target.time[high]) < np.median(survival.cohort.target.time[~high])
    assert any("events: intervals are wide" in note for note in survival.notes)


def test_where_nothing_is_planted_nothing_is_found(planted, experiment, tmp_path):
    """The labels of other patients, dealt four times: one 95 % interval in twenty misses 0.5 by right."""
    rows, found = rows_of(planted / "cohort.csv"), []
    label = {row["patient_id"]: row["label"] for row in rows}
    for seed in range(4):
        dealt = dict(zip(label, np.random.default_rng(seed).permutation(list(label.values())), strict=True))
        lines = [f"{row['slide_id']},{row['patient_id']},{dealt[row['patient_id']]}" for row in rows]
        table = tmp_path / f"shuffled-{seed}.csv"
        table.write_text("\n".join(["slide_id,patient_id,label", *lines, ""]))
        wanted = experiment(planted, tmp_path / "run", splits={"folds": 3, "inner_folds": 1})
        found.append(crossval(wanted.model_copy(update={"cohort": table}), workers=1).model.metrics[0])
    assert 0.35 < np.mean([m.value for m in found]) < 0.65
    assert sum(m.interval.low < 0.5 < m.interval.high for m in found) >= 3


@pytest.mark.parametrize("kind", ["class", pytest.param("survival", marks=pytest.mark.slow)])
def test_equal_arguments_give_equal_bytes_in_one_process_and_in_two(runs, planted, experiment, tmp_path, kind):
    first = runs(kind)
    crossval(experiment(planted, tmp_path / "second", kind), workers=2)
    second = tmp_path / "second"
    names, others = (sorted(p.relative_to(f) for p in f.rglob("*") if p.is_file()) for f in (first.out, second))
    names, others = ([n for n in found if n.parts[0] != ".wsikit"] for found in (names, others))  # who wrote there
    assert names == others
    for name in names:
        assert (first.out / name).read_bytes() == (tmp_path / "second" / name).read_bytes(), name
    assert len(names) == 6 + 6  # models; run, splits and their hash, predictions, metrics, history
    other = crossval(experiment(planted, tmp_path / "third", kind, training={"seed": 1}), workers=1)
    assert not np.array_equal(other.model.prediction, first.model.prediction)


@pytest.fixture(scope="module")
def garbled(runs, planting, tmp_path_factory):
    """The cohort with other features and other outcomes of the patients that fold 1 of the class run tests."""
    return planting(tmp_path_factory.mktemp("garbled") / "cohort", garbage=runs("class").splits.folds[1].test)


@pytest.mark.parametrize("kind", ["class", "survival", pytest.param("continuous", marks=pytest.mark.slow)])
def test_test_patients_decide_nothing(runs, planted, garbled, experiment, tmp_path, kind):
    """With garbage for a fold's test patients, all that was fitted for the fold is as it was, bit for bit."""
    fixed = {"file": runs("class").out / "splits.csv", "inner_folds": 2}
    before = crossval(experiment(planted, tmp_path / "before", kind, splits=fixed), workers=1)
    again = crossval(experiment(garbled, tmp_path / "again", kind, splits=fixed), workers=1)
    assert again.splits.hash == before.splits.hash == runs("class").splits.hash
    for one, other in zip(before.members, again.members, strict=True):
        a, b = load_bundle(before.out / one.bundle), load_bundle(again.out / other.bundle)
        same = all(np.array_equal(v, b.model.state_dict()[n]) for n, v in a.model.state_dict().items())
        assert same == (one.fold == 1)  # the other folds trained on the garbage
        if one.fold == 1:
            assert a.facts["thresholds"] == b.facts["thresholds"]
            assert a.task.state() == b.task.state()
            assert one.history == other.history
    mine = before.fold == 1
    assert before.baselines[0].name == "linear probe on mean toy"  # it sees the garbage, as the model does
    for first, second in zip(before.baselines[1:], again.baselines[1:], strict=True):
        # Sizes and colour are as they were, and the outcomes are not those that the fold's baseline learns from.
        assert np.array_equal(first.prediction[mine], second.prediction[mine])
    if kind == "class":
        assert np.array_equal(before.threshold[mine], again.threshold[mine])
    assert not np.allclose(before.model.prediction[mine], again.model.prediction[mine])


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_every_other_patient_watches_one_model_and_none_is_tested(planted, experiment, tmp_path, parts, runs):
    wanted = experiment(planted, tmp_path, splits={"inner_folds": parts})
    splits, cohort = runs("class").splits, runs("class").cohort
    jobs = plan_members(wanted, cohort, splits)
    assert len(jobs) == 3 * parts
    for number, fold in enumerate(splits.folds):
        mine = [job for job in jobs if job.fold == number]
        test = set(cohort.index(fold.test).tolist())
        rest = set(range(40)) - test
        watched = Counter(row for job in mine for row in job.validation.tolist())
        for job in mine:
            train, watch = set(job.train.tolist()), set(job.validation.tolist())
            assert not train & watch
            assert train | watch == rest
            assert set(job.test.tolist()) == test
            assert len(np.unique(cohort.target.label[job.validation])) == 2
        if parts > 1:
            assert set(watched.values()) == {1}
            assert set(watched) == rest


def test_predictions_give_the_metrics_again(runs):
    result = runs("class")
    rows = rows_of(result.out / "predictions.csv")
    assert [row["patient_id"] for row in rows] == list(result.cohort.patients)
    fold, label, score = column(rows, "fold"), column(rows, "label"), column(rows, "probability_1")
    called = score > column(rows, "threshold")
    written = {m["metric"]: m for m in rows_of(result.out / "metrics.csv") if m["model"] == "abmil on toy"}
    pairs, right = 0.0, 0.0
    for number in range(3):  # patients of different folds are never compared
        mine = fold == number
        n = label[mine].sum() * (1 - label[mine]).sum()
        pairs, right = pairs + n, right + n * roc_auc_score(label[mine], score[mine])
    assert float(written["AUC"]["value"]) == pytest.approx(right / pairs, abs=1e-12)
    assert float(written["balanced accuracy"]["value"]) == pytest.approx(balanced_accuracy_score(label, called))
    assert float(written["sensitivity"]["value"]) == pytest.approx(called[label == 1].mean())
    assert float(written["specificity"]["value"]) == pytest.approx((~called)[label == 0].mean())
    called = called.astype(int)
    assert float(written["F1"]["value"]) == pytest.approx(f1_score(label, called))
    assert float(written["Cohen's kappa"]["value"]) == pytest.approx(cohen_kappa_score(label, called))
    assert float(written["Brier score"]["value"]) == pytest.approx(brier_score_loss(label, score))
    assert "no interval: resampling would raise it" in written.pop("calibration error")["note"]
    for metric in written.values():
        assert float(metric["low"]) <= float(metric["value"]) <= float(metric["high"])
        assert metric["level"] == "0.95"
    assert {"AUC minus that of mean of colour", "AUC minus that of number of tiles"} < set(written)


def test_survival_predictions_give_the_c_again_and_groups_are_cut_by_training_risks(runs):
    result = runs("survival")
    rows = rows_of(result.out / "predictions.csv")
    fold, risk, time, event = (column(rows, n) for n in ("fold", "log_risk", "time", "event"))
    value = harrell_c(risk, time, event == 1, groups=fold.astype(int))
    assert result.model.metrics[0].value == pytest.approx(value, abs=1e-12)
    for member in result.members:
        cut = load_bundle(result.out / member.bundle).facts["thresholds"]["log_risk"]
        mine = fold == member.fold
        assert np.array_equal(column(rows, "risk_group")[mine] == 1, risk[mine] > cut)


def test_history_splits_and_manifest_are_whole(runs, planted):
    result = runs("class")
    history = rows_of(result.out / "history.csv")
    places = [(int(r["fold"]), int(r["model"]), int(r["epoch"])) for r in history]
    assert places == [(f, m, e) for f in range(3) for m in range(2) for e in range(1, 13)]
    assert column(history, "train_loss")[:12].min() < column(history, "train_loss")[0]
    assert float(history[11]["validation_loss"]) == result.members[0].history[-1].validation_loss
    cohort = load_cohort(
        planted / "cohort.csv", endpoint=result.cohort.endpoint, stores=planted / "features.zarr", encoder="toy"
    )
    run = json.loads((result.out / "run.json").read_text())
    assert load_splits(result.out / "splits.csv", cohort).hash == result.splits.hash == run["splits hash"]
    assert run["cohort"]["patients"] == 40
    assert run["cohort"]["slides"] == 48
    assert run["cohort"]["tiles"] == sum(len(a) for a in result.attention)
    assert run["encoder"] == "toy-0000"
    assert run["settings"]["training"]["epochs"] == 12
    assert run["settings"]["splits"]["inner_folds"] == 2
    assert run["versions"].keys() >= {"wsikit", "torch", "numpy"}
    assert run["results"]["metrics"]["AUC"] == result.model.metrics[0].value
    assert run["patients of roles"].keys() == {"fold 0", "fold 1", "fold 2"}
    assert str(planted) not in (result.out / "run.json").read_text()  # nothing of this machine


def test_attention_is_that_of_every_tile_and_sums_to_one(runs):
    result = runs("class")
    for weights, slides in zip(result.attention, result.cohort.slides, strict=True):
        assert len(weights) == sum(len(s.store.bag(s.slide_id, encoder="toy")) for s in slides)
        assert weights.sum() == pytest.approx(1, abs=1e-5)


@pytest.fixture(scope="module")
def flat(planted, tmp_path_factory):
    """The cohort with one and the same tile everywhere."""
    folder = tmp_path_factory.mktemp("flat")
    root = folder / "features.zarr"
    root.mkdir()
    begin_store(root, {"tiling": {"tile_px": 256}})
    (folder / "cohort.csv").write_bytes((planted / "cohort.csv").read_bytes())
    for row in rows_of(folder / "cohort.csv"):
        name, ones = row["slide_id"], np.ones((2, 1), np.float32)
        facts, coords = (
            {"fingerprint": "f" * 64, "stride_level0_px": [256, 256]},
            np.array([[0, 0], [256, 0]], np.int32),
        )
        write_plan(root, name, attributes=facts, coords=coords, quality=ones)
        add_features(root, name, "toy-0000", dim=8, attributes={"card": {"name": "toy", "dim": 8}, "run": {}})
        x, status = np.ones((2, 8), np.float16), np.zeros(2, np.uint8)
        write_shard(root, name, "toy-0000", 0, values=x, status=status, facts={})
    return folder


@pytest.mark.parametrize("kind", ["class", "survival"])
def test_a_collapsed_model_is_named_and_not_a_crash(flat, experiment, tmp_path, kind):
    """All patients look the same; a missing baseline is a note too."""
    tiny = {"epochs": 1, "scaling": "none"}
    result = crossval(experiment(flat, tmp_path / "run", kind, training=tiny), workers=1)
    named = [note for note in result.notes if "the model has collapsed there" in note]
    assert [note[:6] for note in named] == ["Fold 1", "Fold 2", "Fold 3"]
    interval = result.model.metrics[0].interval
    assert interval.low < 0.5 < interval.high
    assert len(rows_of(result.out / "predictions.csv")) == 40
    assert [b.name for b in result.baselines] == ["linear probe on mean toy", "number of tiles"]
    assert any("No colour baseline: 48 slides have no features of that encoder" in note for note in result.notes)
    if kind == "survival":
        assert result.log_rank is result.risk_group is None
        assert any("No risk groups" in note and "patients take" in note for note in result.notes)
        assert load_bundle(result.out / result.members[0].bundle).facts["thresholds"] == {}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"encoder": "texture"}, r"no store has features of encoder 'texture'.*colour-0000.*toy-0000"),
        ({"encoder": "tou"}, "no store has features of encoder 'tou'"),
        ({"endpoint": {"kind": "class", "column": "lable", "classes": ["0", "1"]}}, "'lable'; did you mean 'label'"),
        ({"endpoint": {"kind": "class", "column": "label", "classes": ["0", "1", "2"]}}, "class '2' has 0 patients"),
        ({"endpoint": {"kind": "class", "column": "label", "classes": ["0", "2"]}}, "'1'"),
    ],
)
def test_a_cohort_that_cannot_be_used(planted, experiment, tmp_path, changes, words):
    given = experiment(planted, tmp_path / "run").model_copy(update=changes)
    with pytest.raises(ConfigError, match=words):
        crossval(given, workers=1)
    assert not (tmp_path / "run").exists()


def test_a_later_run_leaves_no_model_of_an_earlier_one(planted, experiment, tmp_path):
    short = {"epochs": 1}
    crossval(experiment(planted, tmp_path / "run", training=short), workers=1)
    said = []
    small = experiment(planted, tmp_path / "run", training=short, splits={"folds": 2, "inner_folds": 1})
    result = crossval(small, workers=1, say=said.append)
    assert sorted(p.name for p in (tmp_path / "run" / "models").iterdir()) == [
        "fold-0-0.safetensors",
        "fold-1-0.safetensors",
    ]
    assert said[0] == "cohort: 40 patients: 20 x 0, 20 x 1; 48 slides"
    assert "  fold 2 of 2 fitted" in said
    assert [m.bundle.name for m in result.members] == ["fold-0-0.safetensors", "fold-1-0.safetensors"]


def test_a_model_that_is_refused_leaves_the_models_of_an_earlier_run(planted, experiment, tmp_path):
    given = experiment(planted, tmp_path / "run", training={"epochs": 1})
    crossval(given, workers=1)
    files = {p.name: p.read_bytes() for p in (tmp_path / "run" / "models").iterdir()}
    mistyped = given.model_copy(update={"model": given.model.model_copy(update={"options": {"embed_dims": 16}})})
    with pytest.raises(ConfigError, match="'embed_dims'"):
        crossval(mistyped, workers=1)
    assert files == {p.name: p.read_bytes() for p in (tmp_path / "run" / "models").iterdir()}


def test_an_option_that_the_endpoint_rules_out_leaves_the_models_of_an_earlier_run(experiment, planted, tmp_path):
    earlier = tmp_path / "out" / "models" / "fold-0-0.safetensors"
    earlier.parent.mkdir(parents=True)
    earlier.write_bytes(b"of an earlier run")
    model = {"aggregator": "dtfd", "options": {"distillation": "maxs"}}
    values = experiment(planted, tmp_path / "out", kind="survival")
    asked = values.model_copy(update={"model": values.model.model_copy(update=model)})
    with pytest.raises(ConfigError, match="'dtfd'.*'afs'"):
        crossval(asked, workers=1)
    assert earlier.read_bytes() == b"of an earlier run"


def test_the_best_threshold_is_that_of_a_search():
    rng = np.random.default_rng(0)
    for _ in range(20):
        score, positive = rng.random(30).round(1), rng.random(30) < 0.4
        found = best_threshold(score, positive)
        every = [balanced_accuracy_score(positive, score > cut) for cut in np.linspace(-0.05, 1.05, 12)]
        assert balanced_accuracy_score(positive, score > found) == pytest.approx(max(every))
    assert best_threshold(np.array([0.1, 0.9]), np.array([True, True])) == 0.5
