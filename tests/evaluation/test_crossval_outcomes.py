"""Grades, several labels and binned numbers from the table to the report."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import cohen_kappa_score

from wsikit.cohort.splits import make_splits
from wsikit.errors import ConfigError
from wsikit.evaluation.crossval import crossval
from wsikit.evaluation.predict import predict_slides
from wsikit.metrics.auc import roc_auc
from wsikit.reports.crossval import write_report
from wsikit.training.bundle import load_bundle


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def cohort_folder(planting, tmp_path_factory):
    """A cohort with enough patients for three grades."""
    return planting(tmp_path_factory.mktemp("outcomes") / "cohort", patients=80)


@pytest.fixture(scope="module")
def runs(cohort_folder, experiment, tmp_path_factory):
    """A run for each kind of endpoint, made when it is first asked for."""
    done = {}

    def run(kind):
        if kind not in done:
            out, training = tmp_path_factory.mktemp("runs") / kind, {"epochs": 20, "learning_rate": 0.02}
            given = experiment(cohort_folder, out, kind, training=training, splits={"folds": 2, "inner_folds": 1})
            done[kind] = crossval(given, workers=1)
        return done[kind]

    return run


def test_labels_are_found_where_planted_and_not_where_not(runs):
    result = runs("labels")
    metrics = {m.name: m for m in result.model.metrics}
    assert list(metrics) == ["macro AUC", "AUC of label", "AUC of late", "AUC of odd"]
    each = [metrics[f"AUC of {name}"].value for name in ("label", "late", "odd")]
    assert metrics["macro AUC"].value == pytest.approx(np.mean(each))
    assert min(each[:2]) > 0.8 > each[2]
    assert metrics["AUC of late"].note == "{} with, {} without".format(*result.cohort.target.counts()[1][1:])
    rows = rows_of(result.out / "predictions.csv")
    known = [row for row in rows if row["late"]]
    assert len(known) == int(result.cohort.target.known[:, 1].sum()) < 80
    columns = [np.array([float(row[name]) for row in known]) for name in ("probability_late", "late", "fold")]
    assert roc_auc(columns[0], columns[1], groups=columns[2]) == pytest.approx(each[1])


def test_grades_are_found_and_called_by_the_median(runs):
    result = runs("ordinal")
    assert result.model.metrics[0].name == "quadratic kappa"
    assert result.model.metrics[0].value > 0.4
    prediction = result.model.prediction
    np.testing.assert_allclose(prediction.sum(1), 1)
    median = (1 - prediction.cumsum(1)[:, :-1] > 0.5).sum(1)
    by_hand = cohen_kappa_score(result.cohort.target.label, median, weights="quadratic")
    assert result.model.metrics[0].value == pytest.approx(by_hand)
    names = [m.name for m in result.model.metrics]
    assert names.count("quadratic kappa") == 1
    assert names[1] == "balanced accuracy"


def test_a_binned_number_is_found_in_its_unit(runs):
    result = runs("binned")
    value = result.cohort.target.value
    assert spearmanr(result.model.prediction[:, 0], value).statistic > 0.6
    assert next(m for m in result.model.metrics if m.name == "mean absolute error").value < np.abs(value - 8).mean()
    for member in result.members:
        bundle = load_bundle(result.out / member.bundle)
        state = bundle.task.state()
        fold = result.splits.folds[member.fold]
        width = (state["last"] - state["first"]) / 11
        mine = value[result.cohort.index(fold.train)]  # the test patients have no part in the bins
        assert state["first"] + 2 * width == pytest.approx(mine.min())
        assert state["last"] - 2 * width == pytest.approx(mine.max())


@pytest.mark.parametrize(("kind", "words"), [
    ("labels", ["AUC of late", "AUC of odd", "not known"]), ("ordinal", ["quadratic kappa", "Most right"]),
    ("binned", ["Smallest error"]),
])  # fmt: skip
def test_the_report_and_new_predictions_carry_them(runs, cohort_folder, tmp_path, kind, words):
    result = runs(kind)
    text = write_report(result).read_text()
    assert all(word in text for word in words)
    report = predict_slides(cohort_folder / "features.zarr", result.out / "models", out=tmp_path)
    rows = rows_of(report.table)
    assert len(rows) == 96
    assert {"labels": "probability_odd", "ordinal": "predicted_class", "binned": "predicted"}[kind] in rows[0]
    if kind == "ordinal":
        for row in rows:
            p = [float(row[f"probability_{name}"]) for name in ("I", "II", "III")]
            assert row["predicted_class"] == ("I", "II", "III")[int((1 - np.cumsum(p)[:2] > 0.5).sum())]


def test_labels_are_dealt_to_all_folds(runs):
    cohort = runs("labels").cohort
    splits = make_splits(cohort, folds=3)
    for fold in splits.folds:
        for role in ("train", "test"):
            for name, yes, no in cohort.target.take(cohort.index(getattr(fold, role))).counts():
                assert yes, name
                assert no, name
    with pytest.raises(ConfigError, match=r"label 'late': \d+ patients have it .* at least 30 of both"):
        make_splits(cohort, folds=30)


def test_balance_changes_the_model_and_is_kept_in_the_bundle(runs, planted, experiment, tmp_path):
    small = {"splits": {"folds": 2, "inner_folds": 1}}
    for how in ("loss", "sampling"):
        given = experiment(planted, tmp_path / how, "ordinal", training={"balance": how, "epochs": 2}, **small)
        result = crossval(given, workers=1)
        state = load_bundle(result.out / result.members[0].bundle).task.state()
        assert (len(state) == 3) == (how == "loss")
    with pytest.raises(ConfigError, match="no class; use balance=none"):
        crossval(experiment(planted, tmp_path / "no", "survival", training={"balance": "loss"}, **small), workers=1)
