"""Tuning: no tested patient's outcome reaches a trial, and the estimate is of the settings chosen without them."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import yaml

from wsikit.cohort.endpoints import SurvivalTarget
from wsikit.cohort.splits import inner_splits
from wsikit.errors import ConfigError
from wsikit.evaluation.comparison import compare_runs
from wsikit.evaluation.crossval import crossval
from wsikit.evaluation.run_files import read_run
from wsikit.evaluation.settings import load_experiment
from wsikit.evaluation.train import train
from wsikit.evaluation.tuning.folds import of_fold
from wsikit.evaluation.tuning.plan import plan_folds
from wsikit.evaluation.tuning.run import data_of, tune
from wsikit.evaluation.tuning.trial import TrialFit, fit_trial, hidden
from wsikit.extract.clusters import local_crew
from wsikit.reports.comparison import write_comparison
from wsikit.reports.tuning import write_tuning_figures
from wsikit.training.bundle import load_bundle

pytest.importorskip("optuna")
SPACE = {"learning_rate": {"low": 1e-4, "high": 0.1, "log": True}, "dropout": [0.0, 0.1, 0.5]}
TUNE = {"trials": 3, "at_once": 2, "space": SPACE}
FAST = {"epochs": 3}


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def tuned(planted, experiment, tmp_path_factory):
    """A tuning for both purposes, and what was asked."""
    given = experiment(planted, tmp_path_factory.mktemp("tuned") / "out", training=FAST, tune=TUNE)
    return given, tune(given, workers=1)


def test_the_files_are_whole_and_say_what_was_spent(tuned):
    given, found = tuned
    rows = rows_of(given.out / "trials.csv")
    assert [(r["study"], r["trial"]) for r in rows] == [
        (study, str(n)) for study in ("fold-1", "fold-2", "fold-3", "model") for n in (1, 2, 3)
    ]
    assert [sum(int(r["best"]) for r in rows[i : i + 3]) for i in range(0, 12, 3)] == [1, 1, 1, 1]
    record = found.best.tuned
    assert (record.trials, record.studies, record.fits, record.epochs, record.failed) == (3, 4, 24, 72, 0)
    assert record.cpu_hours > 0
    run = json.loads((given.out / "crossval" / "run.json").read_text())
    assert run["tuning"] == {
        "trials": 3, "chosen on": "each fold's other patients", "studies": 4, "fits": 24, "epochs": 72,
        "cpu_hours": record.cpu_hours, "failed": 0, "metric": "score",
    }  # fmt: skip
    assert not any("were chosen by" in note for note in found.estimate.notes)
    assert len(write_tuning_figures(found)) == 4


def test_best_yaml_is_taken_by_crossval_and_by_train_as_it_is(tuned, tmp_path):
    given, found = tuned
    best = load_experiment(given.out / "best.yaml")
    assert best.tuned == found.best.tuned
    again = crossval(best.model_copy(update={"out": tmp_path / "again"}), workers=1)
    assert np.array_equal(again.model.prediction, found.estimate.model.prediction)
    assert (tmp_path / "again" / "metrics.csv").read_bytes() == (given.out / "crossval" / "metrics.csv").read_bytes()
    model = found.studies[-1].best.values
    assert best.training.learning_rate == model["training.learning_rate"]
    assert best.model.options == {"embed_dim": 16, "dropout": model["model.options.dropout"]}
    result = train(best.model_copy(update={"out": tmp_path / "final"}))
    assert max(e.learning_rate for e in result.history) <= best.training.learning_rate


def test_each_fold_has_the_settings_that_its_own_study_chose(tuned, tmp_path):
    _, found = tuned
    assert len({str(sorted(one.best.values.items())) for one in found.studies[:3]}) > 1
    for number, study in enumerate(found.studies[:3]):
        mine = of_fold(found.best, 0, number)
        assert mine.training.learning_rate == study.best.values["training.learning_rate"]
        alone = mine.model_copy(update={"tuned": None, "out": tmp_path / str(number)})
        plain = crossval(alone, workers=1)
        rows = plain.fold == number
        assert np.array_equal(plain.model.prediction[rows], found.estimate.model.prediction[rows])


@pytest.mark.parametrize("kind", ["class", "survival", pytest.param("continuous", marks=pytest.mark.slow)])
def test_outcomes_of_the_tested_patients_change_no_trial_and_no_choice(
    tuned, planted, planting, experiment, tmp_path, kind
):
    """With other outcomes and features of all patients of fold 2, its study is as it was, bit for bit."""
    _, found = tuned
    tested = found.estimate.splits.folds[1].test
    garbled = planting(tmp_path / "cohort", garbage=tested)
    splits = {"file": found.estimate.out / "splits.csv", "inner_folds": 2}
    results = []
    for name, cohort in (("a", planted), ("b", garbled)):
        given = experiment(cohort, tmp_path / name, kind, training=FAST, tune=TUNE, splits=splits)
        results.append(tune(given, purpose="estimate", workers=1))
    one, other = ([r for r in rows_of(x.out / "trials.csv") if r["study"] == "fold-2"] for x in results)
    assert len(one) == 3
    assert one == other
    assert results[0].best.tuned.folds[1] == results[1].best.tuned.folds[1]
    for i in (0, 2):  # the other studies saw the garbage
        a, b = (rows_of(x.out / "trials.csv")[3 * i : 3 * i + 3] for x in results)
        assert [r["value"] for r in a] != [r["value"] for r in b]


def test_what_a_trial_is_given_does_not_hold_the_outcomes_of_others(tuned):
    given, found = tuned
    cohort = found.estimate.cohort
    for number, plan in enumerate(plan_folds(given, cohort, [found.estimate.splits])):
        tested = cohort.index(found.estimate.splits.folds[number].test)
        assert set(plan.rows.tolist()) == set(range(40)) - set(tested.tolist())
        assert len(set(plan.target.label[tested].tolist())) == 1
        assert np.array_equal(plan.target.label[plan.rows], cohort.target.label[plan.rows])
        for part in plan.parts:
            assert not set(part.train.tolist()) & set(part.judged.tolist())
    times = SurvivalTarget(np.arange(1.0, 6.0), np.array([True, False, True, False, True]), "days")
    covered = hidden(times, np.array([1, 3]))
    assert (covered.time.tolist(), covered.event.tolist()) == ([2, 2, 2, 4, 2], [False] * 5)


def test_a_trials_loss_is_that_of_the_models_that_the_fold_then_has(planted, experiment, tmp_path):
    """The inner folds of a study are those of the fold's models: the chosen trial's value is in their history."""
    given = experiment(planted, tmp_path / "out", training=FAST, tune=TUNE | {"metric": "loss", "trials": 2})
    found = tune(given, purpose="estimate", workers=1)
    assert found.sign == -1
    trials, history = rows_of(tmp_path / "out" / "trials.csv"), rows_of(tmp_path / "out" / "crossval" / "history.csv")
    for fold in range(3):
        best = next(r for r in trials if r["study"] == f"fold-{fold + 1}" and r["best"] == "1")
        assert float(best["value"]) == min(float(r["value"]) for r in trials if r["study"] == best["study"])
        last = [float(r["validation_loss"]) for r in history if (r["fold"], r["epoch"]) == (str(fold), "3")]
        sizes = [m.validation for m in found.estimate.members if m.fold == fold]
        assert float(best["value"]) == pytest.approx(np.average(last, weights=sizes), rel=1e-6)


def test_where_the_best_epoch_is_kept_nobody_judges_who_has_chosen_it(tuned, planted, experiment, tmp_path):
    """Other outcomes of the judged patients change the score and not the model's predictions."""
    _, found = tuned
    given = experiment(planted, tmp_path, training=FAST | {"keep": "best"})
    cohort = found.estimate.cohort
    (fold, *_) = found.estimate.splits.folds
    train_rows, judged = inner_splits(fold, cohort, parts=2, seed=0)[0]
    data = data_of(given, cohort)
    flipped = cohort.target.label.copy()
    flipped[judged] = 1 - flipped[judged]
    other = type(cohort.target)(flipped, cohort.target.classes)
    one, two = (fit_trial(data, TrialFit({}, t, train_rows, judged, 5)) for t in (cohort.target, other))
    assert np.array_equal(one.prediction, two.prediction)
    assert one.loss != two.loss


def test_settings_that_the_aggregator_refuses_fail_and_are_named(planted, experiment, tmp_path):
    space = {"embed_dim": [16, 24], "heads": [4, 16]}  # each goes with the others as they are, and 24 not with 16
    model = {"aggregator": "set-transformer", "options": {"embed_dim": 16}}
    given = experiment(planted, tmp_path / "out", model=model, training=FAST, tune={"trials": 6, "space": space})
    given = given.model_copy(update={"model": given.model.model_copy(update={"options": {"embed_dim": 16}})})
    found = tune(given, purpose="model", workers=1)
    rows = rows_of(tmp_path / "out" / "trials.csv")
    failed = [r for r in rows if r["problem"]]
    assert found.best.tuned.failed == len(failed) > 0
    assert all(r["value"] == "" and r["best"] == "0" for r in failed)
    assert any("expected a multiple of heads" in r["problem"] for r in failed)
    assert found.studies[0].best.score is not None


def test_a_study_that_comes_to_nothing_is_an_error_with_the_reason(planted, experiment, tmp_path):
    given = experiment(
        planted, tmp_path / "out", training=FAST, tune={"trials": 2, "space": {"learning_rate": [1e30, 1e32]}}
    )
    with pytest.raises(ConfigError, match=r"final model: none of 2 trials came to anything; the first: .*finite"):
        tune(given, purpose="model", workers=1)


def test_an_option_that_no_model_takes_is_refused_before_anything_is_fitted(planted, experiment, tmp_path):
    given = experiment(planted, tmp_path / "out", tune={"space": {"dropout": [0.1, 1.5]}})
    with pytest.raises(ConfigError, match="'abmil': dropout=1.5; expected at least 0 and below 1"):
        tune(given, workers=1)
    assert not (tmp_path / "out").exists()


def test_a_nested_estimate_is_refused_before_anything_is_fitted(planted, experiment, tmp_path):
    given = experiment(planted, tmp_path / "out", tune=TUNE, evaluation={"nested": True})
    with pytest.raises(ConfigError, match="each pair of folds would need a study of its own"):
        tune(given, workers=1)
    assert not (tmp_path / "out").exists()


def test_settings_of_other_folds_and_of_other_patients_are_refused(tuned, tmp_path):
    _, found = tuned
    other = found.best.splits.model_copy(update={"seed": 1})
    with pytest.raises(ConfigError, match=r"tuned: its settings are of 3 folds with hash .*run 'wsikit tune' again"):
        crossval(found.best.model_copy(update={"splits": other, "out": tmp_path / "a"}), workers=1)
    for_folds = found.best.tuned.model_copy(update={"patients": None})
    with pytest.raises(ConfigError, match="none for a model of all patients; run 'wsikit tune --for model'"):
        train(found.best.model_copy(update={"tuned": for_folds, "out": tmp_path / "b"}))
    file = found.best.splits.model_copy(update={"file": found.estimate.out / "splits.csv"})
    with pytest.raises(ConfigError, match="chosen on other patients than this fold of .*splits.csv trains on"):
        train(found.best.model_copy(update={"splits": file, "out": tmp_path / "c"}), fold=0)
    assert not any((tmp_path / name).exists() for name in "abc")


def test_a_model_of_a_fold_is_tuned_on_its_training_patients_alone(tuned, planted, experiment, tmp_path):
    _, found = tuned
    splits = {"file": found.estimate.out / "splits.csv", "inner_folds": 2}
    given = experiment(planted, tmp_path / "out", training=FAST, tune=TUNE | {"trials": 1}, splits=splits)
    made = tune(given, purpose="model", fold=1, workers=1)
    assert made.estimate is None
    best = load_experiment(tmp_path / "out" / "best.yaml").model_copy(update={"out": tmp_path / "final"})
    assert train(best, fold=1).fold.test == found.estimate.splits.folds[1].test
    with pytest.raises(ConfigError, match="chosen on other patients than this fold"):
        train(best.model_copy(update={"out": tmp_path / "other"}), fold=0)


def test_settings_chosen_on_the_reported_patients_are_a_caution_and_unequal_budgets_are_named(
    tuned, planted, experiment, tmp_path
):
    given, found = tuned
    on_these = found.best.tuned.model_copy(update={"folds": (), "splits": ()})
    winner = crossval(found.best.model_copy(update={"tuned": on_these, "out": tmp_path / "winner"}), workers=1)
    assert "chosen by 3 trials on these same patients" in winner.notes[0]
    crossval(experiment(planted, tmp_path / "plain", training=FAST), workers=1)
    runs = [read_run(path) for path in (given.out / "crossval", tmp_path / "winner", tmp_path / "plain")]
    compared = compare_runs(runs, draws=100)
    assert [text.partition(" (")[0] for text in compared.tuning] == [
        "3 trials in each fold, on its other patients", "3 trials on these patients", "none",
    ]  # fmt: skip
    unequal, here = compared.notes
    assert unequal.startswith("Tuned unequally: crossval 3 trials, winner 3 trials, plain no trials.")
    assert here.startswith("The settings of winner were chosen on these same patients")
    page = write_comparison(compared, tmp_path / "page").read_text()
    assert "Tuned unequally: crossval 3 trials" in page
    assert page.count("<td>none</td>") == 1
    assert compare_runs([runs[0], replace(runs[0], name="other")], draws=100).notes == ()


def written(folder, planted, trials):
    folder.mkdir()
    values = {
        "name": "killed", "cohort": str(planted / "cohort.csv"), "stores": str(planted / "features.zarr"),
        "encoder": "toy", "endpoint": {"kind": "class", "column": "label", "classes": ["0", "1"]}, "out": "out",
        "model": {"options": {"embed_dim": 16}}, "training": {"epochs": 2, "device": "cpu"},
        "splits": {"folds": 2, "inner_folds": 2}, "tune": TUNE | {"trials": trials},
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    return folder


def start(folder, *more):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "wsikit", "tune", "config.yaml", "--for", "model", *more], cwd=folder,
        env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is of POSIX systems")
def test_killed_and_called_again_it_ends_with_the_same_trials(planted, tmp_path):
    whole, parts = written(tmp_path / "whole", planted, 10), written(tmp_path / "parts", planted, 10)
    undisturbed, process = start(whole, "--workers", "1"), start(parts, "--workers", "1")
    table = parts / "out" / "tuned" / "trials.csv"
    while not table.exists() or len(rows_of(table)) < 6:
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert len(rows_of(table)) < 10
    last = start(parts, "--workers", "1")
    said = last.communicate(timeout=600)
    assert last.returncode == 0, said
    assert "of 10 trials are there already" in said[1]
    said = undisturbed.communicate(timeout=600)
    assert undisturbed.returncode == 0, said
    one, other = ((f / "out" / "tuned" / "trials.csv").read_bytes() for f in (whole, parts))
    assert one == other
    assert one.count(b"\n") == 11
    a, b = (yaml.safe_load((f / "out" / "tuned" / "best.yaml").read_text()) for f in (whole, parts))
    assert a["training"] == b["training"]


@pytest.mark.slow
def test_workers_of_a_cluster_give_the_same_bytes(tuned, tmp_path):
    """Trials and the fold's models on two Dask workers with two threads each, which take turns."""
    given, found = tuned
    elsewhere = given.model_copy(update={"out": tmp_path / "out"})
    asked = tune(elsewhere, crew=lambda: local_crew(2), workers=1)
    for one, other in zip(asked.studies, found.studies, strict=True):
        assert [(dict(t.values), t.score) for t in one.trials] == [(dict(t.values), t.score) for t in other.trials]
    assert asked.best.tuned.folds == found.best.tuned.folds
    assert np.array_equal(asked.estimate.model.prediction, found.estimate.model.prediction)
    for member in found.estimate.members:
        name = member.bundle
        one, other = (load_bundle(r.estimate.out / name).model.state_dict() for r in (found, asked))
        assert all(np.array_equal(v, other[n]) for n, v in one.items())


def test_trials_of_another_experiment_are_not_gone_on_with(tuned, planted, experiment):
    given, _ = tuned
    longer = given.model_copy(update={"training": given.training.model_copy(update={"epochs": 4})})
    with pytest.raises(ConfigError, match=r"are of another experiment \(training\.epochs: stored 3, asked for 4"):
        tune(longer, purpose="estimate", workers=1)
    more = given.model_copy(update={"tune": given.tune.model_copy(update={"trials": 4})})
    before = rows_of(given.out / "trials.csv")
    found = tune(more, purpose="model", workers=1)
    after = rows_of(given.out / "trials.csv")
    assert [r | {"best": ""} for r in after[:3]] == [r | {"best": ""} for r in before[-3:]]
    assert len(after) == 4
    assert found.best.tuned.trials == 4
