"""What trials vary: names find their setting, ranges hold what they say, and what cannot be tuned is refused."""

from __future__ import annotations

import numpy as np
import pytest

from wsikit.errors import ConfigError
from wsikit.evaluation.tuning.space import Choice, Range, changed, current, space_from
from wsikit.evaluation.tuning.study import at, spread
from wsikit.training.settings import ModelSettings, TrainingSettings

MODEL, TRAINING = ModelSettings(aggregator="abmil", options={"embed_dim": 64}), TrainingSettings()


def test_names_find_their_setting():
    given = {
        "learning_rate": {"low": 1e-4, "high": 0.01, "log": True},
        "embed_dim": [64, 128],
        "training.epochs": [5, 9],
    }
    space = space_from(given, MODEL, TRAINING)
    assert space == {
        "training.learning_rate": Range(1e-4, 0.01, True),
        "model.options.embed_dim": Choice((64, 128)),
        "training.epochs": Choice((5, 9)),
    }
    model, training = changed(MODEL, TRAINING, {"training.learning_rate": 0.002, "model.options.embed_dim": 128})
    assert (training.learning_rate, training.epochs) == (0.002, 40)
    assert model.options == {"embed_dim": 128}
    assert (MODEL.options, TRAINING.learning_rate) == ({"embed_dim": 64}, None)


@pytest.mark.parametrize(("optimizer", "rate"), [("adamw", 3e-3), ("sgd", 0.1)])
def test_the_usual_space_holds_the_usual_settings(optimizer, rate):
    """So the first trial is what somebody would get who does not tune."""
    training = TrainingSettings(optimizer=optimizer)
    space = space_from({}, MODEL, training)
    assert "model.options.dropout" in space
    assert "model.options.dropout" not in space_from({}, ModelSettings(aggregator="mean"), training)
    first = current(space, MODEL, training)
    assert first["training.learning_rate"] == rate
    assert first["training.tile_dropout"] == 0.5
    assert current(space, MODEL, training.model_copy(update={"tile_dropout": 0.3})) is None
    assert current({"training.mixup": Choice((True, False))}, MODEL, training) is None  # 0.0 is not False


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"learning_rat": [1, 2]}, r"no setting 'learning_rat'; did you mean 'learning_rate'.*'abmil' has: embed_dim"),
        ({"model.options.layers": [1, 2]}, "no setting 'model.options.layers'"),
        ({"seed": [1, 2]}, "'seed' is not tuned: the luckiest seed"),
        ({"training.device": ["cpu", "cuda"]}, "'training.device' is not tuned"),
        ({"epochs": [10]}, r"'epochs' is \[10\]; expected two or more different values"),
        ({"epochs": [10, 10]}, "two or more different"),
        ({"epochs": 10}, r"expected a list of values, or \{low: ..., high: ..., log: true\}"),
        ({"epochs": {"low": 10, "hihg": 20}}, "expected a list of values, or"),
        ({"learning_rate": {"low": "1e-4", "high": 0.1}}, "YAML wants 1.0e-4"),
        ({"learning_rate": {"low": 0.1, "high": 0.01}}, "expected low below high"),
        ({"weight_decay": {"low": 0, "high": 0.01, "log": True}}, "above 0 where log is true"),
        ({"learning_rate": [0.1, -1]}, r"training.learning_rate is -1: Input should be greater than 0"),
        ({"tile_dropout": {"low": 0.1, "high": 1.0}}, "training.tile_dropout is 1.0: Input should be less than 1"),
        ({"epochs": [5, 9], "training.epochs": [5, 9]}, "'training.epochs' is there twice"),
        ({"scaling": ["patients", [1]]}, "expected a list of plain values"),
    ],
)
def test_what_cannot_be_tuned_is_named(given, words):
    with pytest.raises(ConfigError, match=words):
        space_from(given, MODEL, TRAINING)


def test_a_spread_has_one_point_in_every_part_of_every_range():
    space = {"a": Range(1e-4, 1.0, True), "b": Range(0, 15), "c": Choice(("x", "y", "z", "w")), "d": Range(-1.0, 1.0)}
    for seed in range(20):
        points = spread(space, np.random.default_rng(seed), 8)
        logs = (np.log10([p["a"] for p in points]) + 4) / 4
        assert sorted(np.floor(logs * 8)) == list(range(8))
        assert sorted(p["b"] // 2 for p in points) == list(range(8))
        assert sorted(p["c"] for p in points) == sorted("xxyyzzww")
        assert sorted(np.floor((np.array([p["d"] for p in points]) + 1) * 4)) == list(range(8))


def test_whole_numbers_have_equal_shares_and_stay_inside():
    found = [at(Range(1, 4), u) for u in np.linspace(0, 1, 400, endpoint=False)]
    assert {v: found.count(v) for v in found} == {1: 100, 2: 100, 3: 100, 4: 100}
    assert all(isinstance(v, int) for v in found)
    assert {at(Range(1, 4, True), u) for u in np.linspace(0, 1, 400, endpoint=False)} == {1, 2, 3, 4}
