"""Nested cross-validation: the interval is that of losses by models without two folds, and the cost is said first."""

from __future__ import annotations

import csv
from itertools import combinations

import numpy as np
import pytest

from wsikit.cohort.endpoints import ClassTarget, ContinuousTarget
from wsikit.errors import ConfigError
from wsikit.evaluation.crossval import crossval
from wsikit.evaluation.members import bags_of
from wsikit.evaluation.nested import patient_losses
from wsikit.evaluation.unconditional import nested_crossval_interval
from wsikit.metrics import brier_score
from wsikit.training.bundle import load_bundle
from wsikit.training.fit import predict

FAST = {"epochs": 2}


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def nested(planted, experiment, tmp_path_factory):
    """A nested cross-validation of four folds, and what it said."""
    given = experiment(
        planted, tmp_path_factory.mktemp("nested") / "run", training=FAST,
        splits={"folds": 4, "inner_folds": 2}, evaluation={"nested": True, "bootstrap": 100},
    )  # fmt: skip
    said = []
    return given, crossval(given, workers=1, say=said.append), said


def test_the_number_is_that_of_the_models_on_disk(nested):
    """Every loss anew from the bundles: each was made by models that saw neither fold."""
    given, found, _ = nested
    cohort, fold = found.cohort, found.fold
    bags = bags_of(given, cohort)
    positive = cohort.target.label
    without = {}
    for a, b in combinations(range(4), 2):
        both = []
        for number in range(2):
            bundle = load_bundle(given.out / "models" / "nested" / f"fold-{a}-{b}-{number}.safetensors")
            both.append(predict(bundle.model, bundle.task, bags, np.arange(40))[0][:, 1])
        without[a, b] = without[b, a] = np.square(np.mean(both, 0) - positive)
    outer = np.square(found.model.prediction[:, 1] - positive)
    by_hand = nested_crossval_interval(
        [[np.concatenate([without[j, k][fold == j] for j in range(4) if j != k]) for k in range(4)]],
        [[outer[fold == k] for k in range(4)]],
    )
    metric = found.model.metrics[-1]
    assert metric.name == "Brier score, nested cross-validation"
    assert metric.value == pytest.approx(by_hand.error, abs=1e-12)
    assert (metric.interval.low, metric.interval.high) == pytest.approx(
        (by_hand.interval.low, by_hand.interval.high), abs=1e-12
    )
    row = next(r for r in rows_of(given.out / "metrics.csv") if r["metric"] == metric.name)
    assert float(row["low"]) == metric.interval.low
    assert row["note"].startswith("not conditional on the fitted models: Bates, Hastie and Tibshirani's interval")


def test_what_it_costs_is_said_before_and_it_goes_on_with_what_is_there(nested):
    given, first, said = nested
    line = (
        "nested cross-validation: 12 models more, without each of 6 pairs of folds, for the unconditional interval of "
        "the Brier score"
    )
    assert said.index(line) < said.index("  fold 1 of 4 fitted")
    again = []
    second = crossval(given, workers=1, say=again.append)
    assert "20 of 20 models are there already, fitted with the same settings on the same patients" in again
    assert second.model.metrics == first.model.metrics


def test_all_other_numbers_are_as_without_it(nested, experiment, planted, tmp_path):
    _, found, _ = nested
    plain = experiment(
        planted, tmp_path, training=FAST, splits={"folds": 4, "inner_folds": 2}, evaluation={"bootstrap": 100}
    )
    assert crossval(plain, workers=1).model.metrics == found.model.metrics[:-1]


def test_outcomes_of_two_folds_do_not_reach_their_models(nested, planted, planting, experiment, tmp_path):
    given, found, _ = nested
    tested = {*found.splits.folds[0].test, *found.splits.folds[2].test}
    garbled = planting(tmp_path / "cohort", garbage=tested)
    splits = {"file": given.out / "splits.csv", "inner_folds": 2}
    runs = [tmp_path / name for name in ("before", "again")]
    for folder, out in zip((planted, garbled), runs, strict=True):
        asked = experiment(folder, out, training=FAST, splits=splits, evaluation={"nested": True, "bootstrap": 100})
        crossval(asked, workers=1)
    for a, b in combinations(range(4), 2):
        name = f"models/nested/fold-{a}-{b}-0.safetensors"
        one, other = (load_bundle(run / name).model.state_dict() for run in runs)
        assert all(np.array_equal(v, other[n]) for n, v in one.items()) == ((a, b) == (0, 2))


def test_losses_are_those_of_the_metrics():
    rng = np.random.default_rng(0)
    three = rng.dirichlet(np.ones(3), 20)
    label = rng.integers(0, 3, 20)
    target = ClassTarget(label, ("a", "b", "c"))
    assert patient_losses(target, three).mean() == pytest.approx(brier_score(three, label))
    two = np.stack([1 - three[:, 0], three[:, 0]], 1)
    sick = ClassTarget((label > 0).astype(np.int64), ("0", "1"))
    assert patient_losses(sick, two).mean() == pytest.approx(brier_score(three[:, 0], label > 0))
    assert patient_losses(ContinuousTarget(np.array([1.0, 2.0])), np.array([[3.0], [2.0]])).tolist() == [4, 0]


@pytest.mark.parametrize(
    ("kind", "splits", "words"),
    [
        ("survival", {}, r"no loss that is a mean over patients.*'splits: \{repeats: 5\}' gives"),
        ("labels", {}, "no loss that is a mean over patients"),
        ("class", {"folds": 2}, "evaluation.nested: 2 folds, expected three or more"),
    ],
)
def test_what_cannot_be_nested_is_refused_before_anything_is_fitted(planted, experiment, tmp_path, kind, splits, words):
    given = experiment(planted, tmp_path, kind, splits=splits, evaluation={"nested": True})
    with pytest.raises(ConfigError, match=words):
        crossval(given, workers=1)
    assert not (tmp_path / "models").exists()
