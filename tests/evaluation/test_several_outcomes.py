"""One model of several outcomes, from the table to the reports: every outcome measured on those who have it."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from wsikit.cohort.splits import Fold, Splits, save_splits
from wsikit.errors import ConfigError
from wsikit.evaluation.crossval import crossval
from wsikit.evaluation.external import evaluate_external
from wsikit.evaluation.predict import predict_slides
from wsikit.evaluation.run_files import read_run
from wsikit.evaluation.several import crossval_several
from wsikit.evaluation.train import train
from wsikit.metrics.auc import roc_auc
from wsikit.reports.outcomes import write_outcomes_report
from wsikit.training.bundle import load_bundle

LABEL = {"kind": "class", "column": "label", "classes": ["0", "1"]}
LATE = {"kind": "class", "column": "late", "classes": ["0", "1"]}
LIFE = {"kind": "survival", "time": "time", "event": "event", "unit": "months"}
SIZE = {"kind": "continuous", "column": "value"}
SMALL = {"folds": 2, "inner_folds": 1}


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def asked(planted, experiment):
    """An experiment of outcomes."""

    def build(out, outcomes, **changes):
        several = {"kind": "several", "outcomes": outcomes} | changes.pop("endpoint", {})
        given = experiment(planted, out, **{"splits": SMALL, **changes})
        return given.model_copy(update={"endpoint": several})

    return build


@pytest.fixture(scope="module")
def run(asked, tmp_path_factory):
    """Three outcomes, of which ``late`` is not known of every seventh patient."""
    out = tmp_path_factory.mktemp("several") / "run"
    training = {"epochs": 25, "learning_rate": 0.02}
    return crossval_several(asked(out, {"label": LABEL, "size": SIZE, "late": LATE}, training=training), workers=1)


def test_every_outcome_is_learnt_and_measured_on_those_who_have_it(run):
    assert list(run.outcomes) == ["label", "size", "late"]
    assert [len(one.cohort) for one in run.outcomes.values()] == [40, 40, 34]
    for name in ("label", "late"):
        assert run.outcomes[name].model.metrics[0].value > 0.8, name
    assert run.outcomes["size"].model.metrics[0].value > 0.5
    rows = rows_of(run.out / "predictions.csv")
    known = [row for row in rows if row["late_label"]]
    assert len(rows) == 40
    assert len(known) == 34
    columns = (np.array([float(row[name]) for row in known]) for name in ("late_probability_1", "late_label", "fold"))
    by_hand = roc_auc(*(c if i == 0 else c == 1 for i, c in enumerate(list(columns)[:2])),
                      groups=np.array([int(row["fold"]) for row in known]))  # fmt: skip
    assert run.outcomes["late"].model.metrics[0].value == pytest.approx(by_hand)
    metrics = rows_of(run.out / "metrics.csv")
    told = {(m["outcome"], m["metric"]): m for m in metrics if m["model"] == "abmil on toy"}
    assert float(told["late", "AUC"]["value"]) == pytest.approx(by_hand)
    assert told["late", "AUC"]["patients"] == "34"
    assert ("size", "rank correlation minus that of linear probe on mean toy") in told
    facts = json.loads((run.out / "run.json").read_text())
    assert facts["endpoint"]["kind"] == "several"
    assert facts["splits"]["stratified by"] == "label: class"


def test_the_folder_of_an_outcome_is_a_run_of_its_own(run):
    stored = read_run(run.out / "outcomes" / "late")
    result = run.outcomes["late"]
    assert stored.patients == result.cohort.patients
    np.testing.assert_array_equal(stored.rounds[0].prediction, result.model.prediction)
    np.testing.assert_array_equal(stored.target.label, result.cohort.target.label)
    with pytest.raises(
        ConfigError, match=r"several outcomes; name the folder of one of them, such as .*outcomes/label"
    ):
        read_run(run.out)
    left = [e for e in result.cohort.exclusions if e.reason == "late not known"]
    assert len(left) == 6
    for member in result.members:
        bundle = load_bundle(result.out / member.bundle)
        assert set(bundle.facts["thresholds"]) == {"label", "late"}
        mine = result.threshold[result.fold == member.fold]
        assert (mine == bundle.facts["thresholds"]["late"]["probability"]).all()


def test_the_reports_say_it_and_test_the_maps_of_the_right_column(run):
    text = write_outcomes_report(run).read_text()
    for words in ("one model for 3 outcomes", 'href="outcomes/late/report.html"', "34 patients", "rank correlation"):
        assert words in text
    for name, words in {"label": "AUC", "size": "Smallest error", "late": "late not known"}.items():
        page = (run.out / "outcomes" / name / "report.html").read_text()
        assert words in page
        assert "Faithfulness of this map" in page
    from wsikit.cohort.bags import Bags
    from wsikit.evaluation.faithfulness import score_of

    for result in run.outcomes.values():  # whole bags score what was predicted: no other outcome's column
        bags = Bags(result.cohort.slides, encoder=result.cohort.encoder)
        bundles = [load_bundle(result.out / m.bundle) for m in result.members if m.fold == result.fold[3]]
        score = score_of(bundles, result.first_column)
        np.testing.assert_allclose(score(bags.batch([3])), result.model.prediction[3, 0], rtol=1e-4)


def test_new_slides_get_every_outcome_and_its_call(run, planted, tmp_path):
    report = predict_slides(planted / "features.zarr", run.out / "models", out=tmp_path)
    assert report.columns == ("label_probability_0", "label_probability_1", "size_predicted",
                              "late_probability_0", "late_probability_1")  # fmt: skip
    rows = rows_of(report.table)
    assert [c for c in rows[0] if c.endswith("_class")] == ["label_predicted_class", "late_predicted_class"]
    assert {row["ood_flag"] for row in rows} <= {"0", "1"}
    cuts = [load_bundle(path).facts["thresholds"]["late"]["probability"] for path in (run.out / "models").iterdir()]
    for row, found in zip(rows, report.predictions, strict=True):
        assert row["late_predicted_class"] == str(int(float(row["late_probability_1"]) > np.mean(cuts)))
        label, late = (row[f"{name}_predicted_class"] for name in ("label", "late"))
        assert found.call == f"label: {label}, late: {late}"


def test_an_external_validation_of_several_at_once_is_refused(run, planted, tmp_path):
    with pytest.raises(ConfigError, match=r"predict several outcomes .label, size, late.*train a model of one"):
        evaluate_external(planted / "features.zarr", run.out / "models", planted / "cohort.csv", out=tmp_path)


def test_one_model_for_use_with_survival_among_its_outcomes(asked, planted, tmp_path):
    given = asked(tmp_path / "out", {"label": LABEL, "life": LIFE}, endpoint={"weighting": "uncertainty"})
    result = train(given)
    bundle = load_bundle(result.bundle)
    assert set(bundle.facts["thresholds"]) == {"label", "life"}
    report = predict_slides(planted / "features.zarr", result.bundle, out=tmp_path / "new")
    for row in rows_of(report.table):
        high = float(row["life_log_risk"]) > bundle.facts["thresholds"]["life"]["log_risk"]
        assert row["life_risk_group"] == ("high" if high else "low")
    again = train(given)  # gone on with, not begun anew
    assert again.before == len(result.history)


def test_a_fold_without_anybody_who_has_an_outcome_is_named(asked, planted, tmp_path):
    rows = rows_of(planted / "cohort.csv")
    patients = sorted({row["patient_id"] for row in rows})
    known = [p for p in patients if int(p[1:]) % 7]
    unknown = [p for p in patients if not int(p[1:]) % 7]
    halves = [tuple(known[::2]), tuple(known[1::2])]

    def split(*parts):
        folds = [Fold(tuple(sorted(a)), tuple(sorted(b)), tuple(sorted(c))) for a, b, c in parts]
        save_splits(Splits(tuple(folds), {}), tmp_path / "splits.csv")
        return asked(tmp_path / "run", {"label": LABEL, "late": LATE}, training={"epochs": 1},
                     splits={"file": tmp_path / "splits.csv", "inner_folds": 1})  # fmt: skip

    test = split((halves[0], halves[1], unknown), (halves[1][1:] + tuple(unknown), halves[1][:1], halves[0]),
                 (halves[0] + tuple(unknown[1:]), unknown[:1], halves[1]))  # fmt: skip
    result = crossval_several(test, workers=1)
    words = "No tested patient of fold 1 has late known: no number here is of them."
    assert words in result.outcomes["late"].notes
    assert set(result.outcomes["late"].fold.tolist()) == {1, 2}
    # now a fold whose training patients all lack it: nothing could be learnt there
    train_without = split((halves[0], halves[1], unknown), (unknown, halves[1], halves[0]),
                          (halves[0] + tuple(unknown[1:]), unknown[:1], halves[1]))  # fmt: skip
    with pytest.raises(ConfigError, match="splits, fold 1: none of 6 training patients has outcome 'late' known"):
        crossval_several(train_without, workers=1)


def test_one_outcome_and_several_have_functions_of_their_own(asked, experiment, planted, tmp_path):
    with pytest.raises(ConfigError, match="call crossval_several"):
        crossval(asked(tmp_path, {"label": LABEL, "late": LATE}))
    with pytest.raises(ConfigError, match="endpoint of kind 'class', expected 'several'"):
        crossval_several(experiment(planted, tmp_path))
