"""External validation: nothing is chosen on these patients, and nobody who trained the models is among them."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, brier_score_loss, recall_score, roc_auc_score

from wsikit.errors import ConfigError
from wsikit.evaluation.crossval import crossval
from wsikit.evaluation.external import evaluate_external
from wsikit.evaluation.external_survival import Absolute, risk_calibration
from wsikit.evaluation.predict import predict_slides
from wsikit.evaluation.recalibration import parts_of
from wsikit.evaluation.recalibration_survival import fit_risks
from wsikit.metrics import (
    calibration_intercept,
    calibration_slope,
    censoring_curve,
    harrell_c,
    kaplan_meier,
    survival_brier,
    uno_c,
)
from wsikit.store.writer import begin_store
from wsikit.training.bundle import load_bundle

SHORT = {"training": {"epochs": 6, "learning_rate": 0.01}, "splits": {"folds": 2, "inner_folds": 2}}
DRAWS = {"bootstrap": 100}


@pytest.fixture(scope="module")
def runs(planted, experiment, tmp_path_factory):
    """A short run for each kind of endpoint, made when it is first asked for."""
    done = {}

    def run(kind):
        if kind not in done:
            done[kind] = crossval(experiment(planted, tmp_path_factory.mktemp("runs") / kind, kind, **SHORT), workers=1)
        return done[kind]

    return run


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory, features_writer):
    """70 patients of another place, two of whom have no outcome, and a slide that was never extracted."""
    folder = tmp_path_factory.mktemp("elsewhere")
    root, rows = folder / "features.zarr", []
    root.mkdir()
    begin_store(root, {"tiling": {"tile_px": 256}})
    for i in range(70):
        rng = np.random.default_rng([21, i])
        burden, x = rng.random(), rng.normal(size=(12, 8))
        x[: round(12 * burden * 0.7)] += np.array([5, -5, 5, -5, 0, 0, 0, 0])
        features_writer(root, f"e{i:03d}", {"toy-0000": x})
        level = float(np.clip(burden + rng.normal(0, 0.2), 0, 0.999))
        time = round(rng.exponential() ** 0.4 * np.exp(4 - 4 * level) + 0.1, 3)
        label, number = (int(level > 0.6), level * 10 + 3) if i > 1 else ("", "")
        rows.append([f"e{i:03d}", f"x{i:03d}", label, ["I", "II", "III"][int(level * 3)], time, i % 4 != 0, number])
    rows.append(["never", "x999", 1, "I", 3, 1, 4])
    with (folder / "cohort.csv").open("w", newline="") as file:
        names = ["slide_id", "patient_id", "label", "grade", "time", "event", "value"]
        csv.writer(file).writerows([names, *rows])
    return folder


def evaluated(result, elsewhere, out, **more):
    return evaluate_external(
        elsewhere / "features.zarr", result.out / "models", elsewhere / "cohort.csv", out=out, **DRAWS | more
    )


def value(model, name):
    return next(m for m in model.metrics if m.name == name).value


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_number_is_that_of_scikit_learn_at_the_mean_of_the_stored_thresholds(runs, elsewhere, tmp_path):
    result = runs("class")
    found = evaluated(result, elsewhere, tmp_path / "out")
    assert len(found.cohort) == 68
    chance, label = found.model.prediction[:, 1], found.cohort.target.label
    cuts = [load_bundle(result.out / m.bundle).facts["thresholds"]["probability"] for m in result.members]
    called = chance > np.mean(cuts)
    assert found.threshold == np.mean(cuts)
    assert value(found.model, "AUC") == pytest.approx(roc_auc_score(label, chance))
    assert value(found.model, "sensitivity") == pytest.approx(recall_score(label, called))
    assert value(found.model, "specificity") == pytest.approx(recall_score(1 - label, ~called))
    assert value(found.model, "balanced accuracy") == pytest.approx(balanced_accuracy_score(label, called))
    assert value(found.model, "Brier score") == pytest.approx(brier_score_loss(label, chance))
    assert value(found.model, "calibration slope") == calibration_slope(chance, label)
    assert value(found.model, "calibration intercept") == calibration_intercept(chance, label)
    note = next(m for m in found.model.metrics if m.name == "sensitivity").note
    assert note == f"at {np.mean(cuts):.3g}, frozen at training"
    assert "inner validation patients of fold 1" in found.cuts
    assert list(found.calls) == [str(int(c)) for c in called]


def test_predictions_are_those_of_predict_and_outcomes_decide_nothing(runs, elsewhere, tmp_path):
    result = runs("class")
    found = evaluated(result, elsewhere, tmp_path / "a")
    said = predict_slides(
        elsewhere / "features.zarr", result.out / "models", out=tmp_path / "p", patients=elsewhere / "cohort.csv"
    )
    theirs = {p.patient_id: p for p in said.predictions}
    for i, patient in enumerate(found.cohort.patients):
        assert np.array_equal(found.model.prediction[i], theirs[patient].values)
        assert found.calls[i] == theirs[patient].call
    other = tmp_path / "turned.csv"
    rows = rows_of(elsewhere / "cohort.csv")
    with other.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(row | {"label": {"0": "1", "1": "0", "": ""}[row["label"]]} for row in rows)
    turned = evaluate_external(elsewhere / "features.zarr", result.out / "models", other, out=tmp_path / "b", **DRAWS)
    assert (turned.threshold, turned.calls) == (found.threshold, found.calls)
    assert np.array_equal(turned.model.prediction, found.model.prediction)
    assert value(turned.model, "AUC") == pytest.approx(1 - value(found.model, "AUC"))
    assert value(turned.model, "sensitivity") == pytest.approx(1 - value(found.model, "specificity"))


def test_models_of_one_fold_on_its_test_patients_say_what_cross_validation_said(runs, planted, tmp_path):
    result = runs("class")
    models = tmp_path / "models"
    models.mkdir()
    for member in result.members:
        if member.fold == 1:
            shutil.copy(result.out / member.bundle, models)
    tested = {p for p, fold in zip(result.cohort.patients, result.fold, strict=True) if fold == 1}
    rows = rows_of(planted / "cohort.csv")
    table = tmp_path / "fold.csv"
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(row for row in rows if row["patient_id"] in tested)
    found = evaluate_external(planted / "features.zarr", models, table, out=tmp_path / "out", **DRAWS)
    mine = result.fold == 1
    assert np.array_equal(found.model.prediction, result.model.prediction[mine])
    assert found.threshold == pytest.approx(result.threshold[mine][0], abs=1e-15)
    assert found.trained == (~mine).sum()


def test_patients_who_trained_are_refused_by_name_and_by_content(runs, planted, tmp_path):
    models = runs("class").out / "models"
    with pytest.raises(ConfigError, match=r"40 of 40 patients trained these models: p000, p001, .* \.\.\.; on them"):
        evaluate_external(planted / "features.zarr", models, planted / "cohort.csv", out=tmp_path / "out")
    renamed = tmp_path / "renamed.csv"
    rows = rows_of(planted / "cohort.csv")[:3]
    with renamed.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(row | {"patient_id": "new-" + row["patient_id"]} for row in rows)
    words = r"2 of 2 patients trained these models: new-p000 \(under another name: a slide's content is the same\)"
    with pytest.raises(ConfigError, match=words):
        evaluate_external(planted / "features.zarr", models, renamed, out=tmp_path / "out")
    assert not (tmp_path / "out" / "metrics.csv").exists()


def test_a_recalibrated_result_stands_second_and_changes_nothing_of_the_first(runs, elsewhere, tmp_path):
    plain = evaluated(runs("class"), elsewhere, tmp_path / "a")
    both = evaluated(runs("class"), elsewhere, tmp_path / "b", recalibrate="slope")
    assert plain.recalibrated is None
    assert both.model.metrics == plain.model.metrics
    name = "recalibrated on 68 external patients (slope and intercept, 5-fold cross-fitted)"
    assert both.recalibrated.name == name
    table = rows_of(tmp_path / "b" / "metrics.csv")
    assert [row["metric"] for row in table if row["model"] == name] == [
        "Brier score", "calibration error", "calibration slope", "calibration intercept",
    ]  # fmt: skip
    assert table[0]["model"] == "as trained (abmil on toy)"
    assert value(both.recalibrated, "Brier score") < value(both.model, "Brier score")
    facts = json.loads((tmp_path / "b" / "external.json").read_text())
    assert facts["recalibration"]["learnt on"] == 68
    assert facts["threshold"] == {"value": both.threshold, "chosen on": both.cuts, "frozen": True}
    assert json.loads((tmp_path / "a" / "external.json").read_text())["recalibration"] is None


def test_sets_are_counted_against_the_truth(runs, elsewhere, tmp_path):
    found = evaluated(runs("class"), elsewhere, tmp_path / "out", coverage=0.8)
    label = [str(v) for v in found.cohort.target.label]
    rows = rows_of(tmp_path / "out" / "predictions.csv")
    held = [truth in row["prediction_set"].split("|") for truth, row in zip(label, rows, strict=True)]
    assert value(found.model, "coverage of sets") == np.mean(held)
    assert value(found.model, "classes in a set") == np.mean([int(row["set_size"]) for row in rows])
    assert [row["label"] for row in rows] == label
    assert {row["ood_flag"] for row in rows} <= {"0", "1"}


def test_who_could_not_be_measured_is_counted(runs, elsewhere, tmp_path):
    found = evaluated(runs("class"), elsewhere, tmp_path / "out")
    assert found.cohort.excluded == {
        "slide: in no store": 1, "patient: no slide that can be used": 1, "patient: no value of label": 2,
        "slide: of a patient left out": 2,
    }  # fmt: skip
    assert any("Fewer than 100" in note for note in found.notes)


def test_survival_is_measured_by_the_trainings_censoring_and_horizon(runs, elsewhere, planted, tmp_path):
    result = runs("survival")
    found = evaluated(result, elsewhere, tmp_path / "out")
    target, risk = found.cohort.target, found.model.prediction[:, 0]
    assert value(found.model, "Harrell's C") == harrell_c(risk, target.time, target.event)
    inside = result.cohort.target
    tau = min(np.quantile(inside.time[(result.fold != k) & inside.event], 0.9) for k in (0, 1))

    class Mean:
        """The mean of the folds' own curves, evaluated apart from the code under test."""

        def at(self, time):
            curves = [censoring_curve(inside.time[result.fold != k], inside.event[result.fold != k]) for k in (0, 1)]
            return np.mean([curve.at(time) for curve in curves], axis=0)

    expected = uno_c(risk, target.time, target.event, censoring=Mean(), tau=tau)
    assert value(found.model, "Uno's C") == pytest.approx(expected, abs=1e-12)
    seen = 1 - float(kaplan_meier(target.time, target.event).at(found.absolute.horizon))
    assert value(found.model, "observed / expected") == pytest.approx(seen / found.absolute.risk.mean())
    later = evaluated(result, elsewhere, tmp_path / "later", horizon=found.absolute.horizon * 1.2)
    assert (later.absolute.risk >= found.absolute.risk).all()
    assert (later.absolute.risk > found.absolute.risk).any()
    assert found.log_rank.p_permutation < 0.05
    with pytest.raises(ConfigError, match=r"horizon 1e\+06 months: the patients .* were followed for"):
        evaluated(result, elsewhere, tmp_path / "out", horizon=1e6)


def test_recalibrated_risks_stand_second_and_each_patients_own_outcome_teaches_nothing(runs, elsewhere, tmp_path):
    models = runs("survival")
    plain = evaluated(models, elsewhere, tmp_path / "a")
    both = evaluated(models, elsewhere, tmp_path / "b", recalibrate="slope")
    assert both.model.metrics == plain.model.metrics
    assert both.recalibrated.name == (
        "recalibrated on 70 external patients (slope and baseline hazard, 5-fold cross-fitted)"
    )
    assert [m.name for m in both.recalibrated.metrics] == ["calibration slope", "observed / expected", "Brier score"]
    target, at, x = both.cohort.target, both.absolute.horizon, both.model.prediction[:, 0]
    risk = both.recalibrated.prediction[:, 0]
    assert value(both.model, "Brier score") == survival_brier(both.absolute.risk, target.time, target.event, at=at)
    assert value(both.recalibrated, "Brier score") == survival_brier(risk, target.time, target.event, at=at)
    assert both.recalibration.slope == value(both.model, "calibration slope")
    # off from 1 by what five other fifths teach of one, and no more
    assert abs(np.log(value(both.recalibrated, "observed / expected"))) < 0.1
    assert abs(value(both.recalibrated, "calibration slope") - 1) < 0.25
    (part,) = {p for p in range(5) if parts_of(70, 5, 0)[3] == p}
    others = parts_of(70, 5, 0) != part
    taught = fit_risks(x[others], target.time[others], target.event[others], "slope", at=at)
    assert risk[3] == pytest.approx(float(taught(x[3])))
    facts = json.loads((tmp_path / "b" / "external.json").read_text())["recalibration"]
    assert facts["learnt on"] == 70
    hazard, slope = facts["risk = 1 - exp(-hazard exp(slope log_risk))"]
    assert (slope, facts["until"]) == (both.recalibration.slope, at)
    assert both.recalibration(x) == pytest.approx(1 - np.exp(-hazard * np.exp(slope * x)))
    written = rows_of(tmp_path / "b" / "predictions.csv")
    assert [float(r[f"recalibrated_risk_at_{at:.4g}_months"]) for r in written] == risk.tolist()
    late = evaluated(models, elsewhere, tmp_path / "c", recalibrate="intercept", horizon=at * 1.2)
    assert late.recalibration.slope == 1
    assert "(baseline hazard, 5-fold cross-fitted)" in late.recalibrated.name


def test_stated_risks_of_a_cross_validation_are_those_that_come_true(runs, planted):
    """Out of fold the mean stated risk at the horizon is near the observed one: the baseline is of those patients."""
    result = runs("survival")
    target = result.cohort.target
    from wsikit.evaluation.external_survival import absolute_risks

    for fold in (0, 1):
        bundles = [load_bundle(result.out / m.bundle) for m in result.members if m.fold == fold]
        rows = result.fold == fold
        risk = result.model.prediction[rows]
        found = absolute_risks(bundles, [risk] * len(bundles), None)
        seen = 1 - float(kaplan_meier(target.time[rows], target.event[rows]).at(found.horizon))
        assert found.risk.mean() == pytest.approx(seen, abs=0.12)


def test_risk_groups_of_a_true_model_lie_on_the_diagonal_and_few_followed_count_for_less():
    rng = np.random.default_rng(0)
    x = rng.normal(size=4000)
    time, censored = rng.exponential(np.exp(-x)), rng.exponential(1.5, 4000)
    from wsikit.cohort.endpoints import SurvivalTarget

    target = SurvivalTarget(np.minimum(time, censored) + 1e-9, time <= censored, "years")
    found = risk_calibration(Absolute(0.8, "years", "", 1 - np.exp(-0.8 * np.exp(x))), target)
    assert len(found.patients) == 5
    assert np.abs(found.predicted - found.observed).max() < 0.05
    assert (found.patients < 800).all()  # censoring costs
    assert (found.patients > 300).all()


def test_numbers_and_several_classes(runs, elsewhere, tmp_path):
    found = evaluated(runs("continuous"), elsewhere, tmp_path / "a", coverage=0.9)
    x, y = found.model.prediction[:, 0], found.cohort.target.value
    assert value(found.model, "calibration slope") == pytest.approx(np.polyfit(x, y, 1)[0])
    assert value(found.model, "calibration intercept") == pytest.approx((y - x).mean())
    held = (found.sets.ends[:, 0] <= y) & (y <= found.sets.ends[:, 1])
    assert value(found.model, "coverage of sets") == held.mean()
    three = evaluated(runs("three"), elsewhere, tmp_path / "b")
    label = three.cohort.target.label
    auc = roc_auc_score(label, three.model.prediction, multi_class="ovr", average="macro")
    assert value(three.model, "macro AUC") == pytest.approx(auc)
    assert three.threshold is None


@pytest.fixture(scope="module")
def grouped(elsewhere):
    """The same patients with labels, a sex, and an age that one of them has not; by name of a group who is in it."""
    rows = rows_of(elsewhere / "cohort.csv")
    for i, row in enumerate(rows):
        row |= {"late": "" if i % 7 == 0 else i % 3 % 2, "odd": i % 2, "sex": "FM"[i % 3 > 0], "age": 40 + i % 40}
    rows[5]["age"] = ""
    members = {
        "F": [r for r in rows if r["sex"] == "F"],
        "M": [r for r in rows if r["sex"] == "M"],
        "age below 60": [r for r in rows if r["age"] != "" and r["age"] < 60],
        "age 60 or more": [r for r in rows if r["age"] != "" and r["age"] >= 60],
        "no value": [rows[5]],
    }
    for name, some in {"grouped": rows, **members}.items():
        with (elsewhere / f"{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(some)
    return list(members)


@pytest.mark.parametrize("kind", ["class", "survival", "continuous", "ordinal", "labels"])
def test_a_subgroup_is_measured_as_if_its_patients_were_the_cohort(runs, elsewhere, grouped, tmp_path, kind):
    """Nothing in it depends on the others: the threshold, the horizon and the sets are of the training."""
    models, more = runs(kind).out / "models", {"coverage": 0.8} if kind in ("class", "continuous", "ordinal") else {}

    def of(table, **asked):
        return evaluate_external(
            elsewhere / "features.zarr",
            models,
            elsewhere / f"{table}.csv",
            out=tmp_path / table,
            **DRAWS | more | asked,
        )

    found = of("grouped", subgroups=["sex", "age:60"])
    assert [(group.column, group.name) for group in found.subgroups] == list(
        zip(["sex", "sex", "age", "age", "age"], grouped, strict=True)
    )
    for group in found.subgroups:
        alone = of(group.name)
        assert [found.cohort.patients[i] for i in group.rows] == list(alone.cohort.patients)
        assert alone.model.metrics == group.metrics
    assert len(found.subgroups[-1].rows) == 1
    undefined = [m for m in found.subgroups[-1].metrics if m.value is None]
    assert undefined  # one patient cannot be ranked
    assert all(m.note for m in undefined)


def test_subgroups_are_written_and_those_of_an_earlier_call_go(runs, elsewhere, grouped, tmp_path):
    table, out = elsewhere / "grouped.csv", tmp_path / "out"

    def of(**asked):
        models = runs("class").out / "models"
        return evaluate_external(elsewhere / "features.zarr", models, table, out=out, **DRAWS | asked)

    found = of(subgroups=["sex"])
    women, men = found.subgroups
    written = rows_of(out / "subgroups.csv")
    assert [(row["column"], row["group"], row["patients"]) for row in written] == [
        ("sex", group.name, str(len(group.rows))) for group in (women, men) for _ in group.metrics
    ]
    assert [row["metric"] for row in written[: len(women.metrics)]] == [m.name for m in found.model.metrics]
    assert float(written[len(women.metrics)]["value"]) == men.metrics[0].value
    assert json.loads((out / "external.json").read_text())["subgroups"] == ["sex"]
    of()
    assert not (out / "subgroups.csv").exists()
    with pytest.raises(ConfigError, match="subgroups: no column 'sexx'; did you mean 'sex'"):
        of(subgroups=["sexx"])


def test_what_an_endpoint_cannot_have_is_refused_at_once(runs, elsewhere, tmp_path):
    with pytest.raises(ConfigError, match="of one of two classes, or of survival risks, and the models"):
        evaluated(runs("continuous"), elsewhere, tmp_path / "out", recalibrate="slope")
    with pytest.raises(ConfigError, match="recalibrate: 'isotonic', expected 'intercept', or 'slope'"):
        evaluated(runs("class"), elsewhere, tmp_path / "out", recalibrate="isotonic")
    with pytest.raises(ConfigError, match="no survival; leave out --horizon"):
        evaluated(runs("class"), elsewhere, tmp_path / "out", horizon=3)
    with pytest.raises(ConfigError, match="no prediction sets for an endpoint of kind 'survival'"):
        evaluated(runs("survival"), elsewhere, tmp_path / "out", coverage=0.9)
    assert not (tmp_path / "out").exists()
