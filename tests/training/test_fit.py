"""The loop learns what can be learnt, gives the same bits again, and looks at nobody it should not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wsikit.cohort.endpoints import (
    ClassLabel,
    ClassTarget,
    Continuous,
    ContinuousTarget,
    Survival,
    SurvivalTarget,
)
from wsikit.errors import ConfigError
from wsikit.training.fit import fit, predict
from wsikit.training.model import SlideModel
from wsikit.training.settings import ModelSettings, TrainingSettings

LABEL = ClassLabel("label", ("0", "1"))
SURVIVAL = Survival(time="time", event="event", unit="months")
TRAIN, VALIDATION, TEST = np.arange(24), np.arange(24, 32), np.arange(32, 40)
SMALL = {"embed_dim": 16, "attention_dim": 8}


def classes(label):
    return ClassTarget(np.asarray(label, np.int64), ("0", "1"))


def times(label, seed=0):
    """Patients with the planted tile die six times as fast; a quarter is censored early."""
    rng = np.random.default_rng(seed)
    death = rng.exponential(np.where(label == 1, 5.0, 30.0)) + 0.1
    lost = rng.exponential(60.0, len(label)) + 0.1
    return SurvivalTarget(np.minimum(death, lost).round(1) + 0.1, death <= lost, "months")


def train(bags, endpoint, target, *, rows=(TRAIN, VALIDATION), options=(), **training):
    chosen = {"epochs": 4, "device": "cpu", "tile_dropout": 0.0, "learning_rate": 1e-2} | training
    return fit(
        bags,
        endpoint,
        target,
        train=rows[0],
        validation=rows[1],
        model=ModelSettings(aggregator="abmil", options=SMALL | dict(options)),
        training=TrainingSettings(**chosen),
    )


def weights(found):
    return {name: value.numpy() for name, value in found.model.state_dict().items()}


def assert_equal(one, other):
    one, other = weights(one), weights(other)
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name)


def furthest(one, other):
    one, other = weights(one), weights(other)
    return max(float(np.abs(one[name] - other[name]).max()) for name in one)


NOISY = {"tile_dropout": 0.5, "options": {"dropout": 0.25}}


@pytest.mark.parametrize("endpoint", ["class", "survival"])
def test_same_seed_same_bits_and_another_seed_not(toy, endpoint):
    bags, label = toy
    of = (LABEL, classes(label)) if endpoint == "class" else (SURVIVAL, times(label))
    one, same, other = (train(bags, *of, seed=s, **NOISY) for s in (1, 1, 2))
    assert_equal(one, same)
    assert one.history == same.history
    assert furthest(one, other) > 1e-3


def test_the_callers_generators_are_left_alone(toy):
    bags, label = toy
    torch.manual_seed(7)
    np.random.seed(7)  # noqa: NPY002  (the one that other code may rely on)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    one = train(bags, LABEL, classes(label), epochs=1, **NOISY)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    torch.manual_seed(8)  # nor do they reach the result
    assert_equal(one, train(bags, LABEL, classes(label), epochs=1, **NOISY))


@pytest.mark.parametrize("endpoint", ["class", "survival", "number"])
@pytest.mark.parametrize("tile_dropout", [0.0, 0.5])
def test_a_step_in_parts_is_the_step_at_once(toy, endpoint, tile_dropout):
    bags, label = toy
    rng = np.random.default_rng(0)
    of = {
        "class": (LABEL, classes(label)),
        "survival": (SURVIVAL, times(label)),
        "number": (Continuous("value"), ContinuousTarget(label + rng.normal(size=40))),
    }[endpoint]
    chosen = {"precision": "64-true", "tile_dropout": tile_dropout, "epochs": 3, "batch_patients": 9}
    whole = train(bags, *of, max_step_tiles=100_000, **chosen)
    parts = train(bags, *of, max_step_tiles=30, **chosen)
    single = train(bags, *of, max_step_tiles=1, **chosen)
    assert weights(whole)["head.weight"].dtype == np.float64
    assert np.abs(weights(whole)["head.weight"]).max() > 1e-3  # it did move
    assert furthest(whole, parts) < 1e-6
    assert furthest(whole, single) < 1e-6
    assert furthest(whole, train(bags, *of, seed=1, **chosen)) > 1e-3


def test_the_weights_of_the_best_epoch_are_kept(toy):
    bags, label = toy
    target = classes(np.random.default_rng(4).permutation(label))  # nothing to learn: validation gets worse
    found = train(bags, LABEL, target, keep="best", epochs=16, patience=4, learning_rate=2e-2)
    losses = [e.validation_loss for e in found.history]
    assert found.best == 1 + int(np.argmin(losses))
    assert 1 < found.best < len(losses) == found.best + 4 < 16  # patience
    assert [e.number for e in found.history] == list(range(1, len(losses) + 1))
    assert validation_loss(found, bags, target) == pytest.approx(min(losses), abs=1e-6)
    assert losses[-1] > min(losses) + 1e-3


def test_the_weights_of_the_last_epoch_are_kept(toy):
    bags, label = toy
    target = classes(np.random.default_rng(4).permutation(label))
    found = train(bags, LABEL, target, keep="last", epochs=16, patience=2, learning_rate=2e-2)
    losses = [e.validation_loss for e in found.history]
    assert found.best == len(losses) == 16
    assert validation_loss(found, bags, target) == pytest.approx(losses[-1], abs=1e-6)
    assert losses[-1] > min(losses) + 1e-3


def validation_loss(found, bags, target):
    probability, _ = predict(found.model, found.task, bags, VALIDATION)
    return float(-np.log(probability[np.arange(len(VALIDATION)), target.label[VALIDATION]]).mean())


def test_dropout_is_on_for_every_step_and_off_for_validation(toy):
    bags, label = toy
    seen = []
    hook = torch.nn.modules.module.register_module_forward_hook(
        lambda module, given, found: seen.append(module.training) if isinstance(module, SlideModel) else None
    )
    try:
        found = train(bags, LABEL, classes(label), epochs=3, batch_patients=12, options={"dropout": 0.5})
    finally:
        hook.remove()
    assert seen == [True, True, False] * 3
    assert validation_loss(found, bags, classes(label)) == pytest.approx(found.history[-1].validation_loss, abs=1e-6)


def test_watch_sees_every_epoch_as_it_ends(toy):
    bags, label = toy
    seen = []
    found = fit(
        bags, LABEL, classes(label), train=TRAIN, validation=VALIDATION,
        model=ModelSettings(options=SMALL), training=TrainingSettings(epochs=3, device="cpu"), watch=seen.append,
    )  # fmt: skip
    assert tuple(seen) == found.history
    assert len(seen) == 3
    rates = [e.learning_rate for e in seen]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(0, abs=1e-9)  # half a cosine, to its end


def garble(target, rows):
    """The same target with nonsense for some patients."""
    if isinstance(target, ClassTarget):
        label = target.label.copy()
        label[rows] = -99
        return ClassTarget(label, target.classes)
    if isinstance(target, SurvivalTarget):
        time, event = target.time.copy(), target.event.copy()
        time[rows], event[rows] = np.nan, ~event[rows]
        return SurvivalTarget(time, event, target.unit)
    value = target.value.copy()
    value[rows] = np.nan
    return ContinuousTarget(value)


@pytest.fixture(scope="module")
def garbled(toy_draw, write_bags):
    """The toy's bags, with NaN for every feature of the test patients."""
    features, _ = toy_draw(0)
    for row in TEST:
        features[row] = np.full_like(features[row], np.nan)
    return write_bags(features)


@pytest.mark.parametrize("endpoint", ["class", "survival", "number"])
def test_nothing_of_the_test_patients_is_looked_at(toy, garbled, endpoint):
    bags, label = toy
    of = {
        "class": (LABEL, classes(label)),
        "survival": (SURVIVAL, times(label)),
        "number": (Continuous("value"), ContinuousTarget(label * 3.0 + np.arange(40))),
    }[endpoint]
    clean = train(bags, *of, keep="best", scaling="whiten", **NOISY)
    blind = train(garbled, of[0], garble(of[1], TEST), keep="best", scaling="whiten", **NOISY)
    assert_equal(clean, blind)
    assert clean.history == blind.history
    assert clean.task.state() == blind.task.state()


def test_validation_decides_when_to_stop_and_nothing_else(toy):
    bags, label = toy
    target, other = classes(label), label.copy()
    other[VALIDATION] = 1 - other[VALIDATION]
    one, two = (train(bags, LABEL, t, keep="last", **NOISY) for t in (target, classes(other)))
    assert_equal(one, two)
    assert [e.train_loss for e in one.history] == [e.train_loss for e in two.history]
    assert [e.validation_loss for e in one.history] != [e.validation_loss for e in two.history]


def auc(found, bags, label, rows=TEST):
    return found.task.score(predict(found.model, found.task, bags, rows)[0], classes(label[rows]))


def test_a_planted_tile_is_learnt_and_attended_to(toy):
    bags, label = toy
    rows = (np.arange(14), np.arange(14, 20))
    found = train(bags, LABEL, classes(label), rows=rows, epochs=25, tile_dropout=0.25)
    test = np.arange(20, 40)
    assert auc(found, bags, label, test) > 0.9
    probability, attention = predict(found.model, found.task, bags, test, with_attention=True)
    np.testing.assert_allclose(probability.sum(1), 1)
    for row, weight in zip(test, attention, strict=True):
        assert len(weight) == len(bags[int(row)])
        assert weight.sum() == pytest.approx(1, abs=1e-5)
    found_at = [int(np.argmax(weight)) for row, weight in zip(test, attention, strict=True) if label[row]]
    planted = [int(np.argmax(bags[int(r)].x[:, 0] - bags[int(r)].x[:, 1])) for r in test if label[r]]
    assert np.mean(np.array(found_at) == planted) > 0.8


def test_survival_that_hangs_on_a_planted_tile_is_learnt(toy):
    bags, label = toy
    target = times(label)
    found = train(bags, SURVIVAL, target, epochs=25)
    log_risk, _ = predict(found.model, found.task, bags, TEST)
    assert log_risk[label[TEST] == 1, 0].min() > log_risk[label[TEST] == 0, 0].max()  # higher = worse
    assert found.task.score(log_risk, target.take(TEST)) > 0.65


def test_shuffled_labels_are_not_learnt(toy):
    bags, label = toy
    scores = []
    for seed in range(5):
        order = np.random.default_rng(100 + seed).permutation(40)
        rows = tuple(np.sort(part) for part in np.split(order, [16, 20]))
        shuffled = np.random.default_rng(seed).permutation(label)
        found = train(bags, LABEL, classes(shuffled), rows=rows[:2], epochs=8, seed=seed)
        scores.append(auc(found, bags, shuffled, rows[2]))
    assert 0.3 < np.mean(scores) < 0.7, scores


def test_attention_is_given_only_where_asked(toy):
    bags, label = toy
    found = train(bags, LABEL, classes(label), epochs=1, options={"heads": 3})
    assert predict(found.model, found.task, bags, TEST)[1] == [None] * len(TEST)
    _, attention = predict(found.model, found.task, bags, TEST, with_attention=True)
    assert all(w.ndim == 1 and w.sum() == pytest.approx(1, abs=1e-5) for w in attention)  # mean of three maps


def test_a_prediction_does_not_depend_on_who_is_asked_with_it(toy):
    bags, label = toy
    found = train(bags, LABEL, classes(label))
    together, _ = predict(found.model, found.task, bags, TEST)
    alone = np.concatenate([predict(found.model, found.task, bags, TEST[i : i + 1])[0] for i in range(len(TEST))])
    np.testing.assert_array_equal(together, alone)


def test_one_class_in_validation_has_no_score_but_a_loss(toy):
    bags, label = toy
    validation = np.flatnonzero(label == 1)[-3:]
    found = train(bags, LABEL, classes(label), rows=(TRAIN, validation), epochs=2)
    assert all(np.isnan(e.validation_score) and np.isfinite(e.validation_loss) for e in found.history)


def test_bfloat16_runs_and_stays_near(toy):
    bags, label = toy
    full = train(bags, LABEL, classes(label), precision="32-true", epochs=2)
    half = train(bags, LABEL, classes(label), precision="bf16-mixed", epochs=2)
    assert 0 < furthest(full, half) < 0.1
    assert weights(half)["head.weight"].dtype == np.float32


def test_overlap_and_empty_groups_are_refused(toy):
    bags, label = toy
    with pytest.raises(ConfigError, match="training and validation patients overlap"):
        train(bags, LABEL, classes(label), rows=(np.arange(10), np.arange(9, 20)))
    nobody = np.array([], np.int64)
    for rows in ((TRAIN, nobody), (nobody, VALIDATION)):
        with pytest.raises(ConfigError, match="expected some of both"):
            train(bags, LABEL, classes(label), rows=rows)


@pytest.mark.parametrize(("name", "rows"), [("training", TRAIN), ("validation", VALIDATION)])
def test_a_group_without_an_event_is_refused(toy, name, rows):
    bags, label = toy
    target = times(label)
    event = target.event.copy()
    event[rows] = False
    with pytest.raises(ConfigError, match=f"none of {len(rows)} {name} patients has the event"):
        train(bags, SURVIVAL, SurvivalTarget(target.time, event, target.unit))


def test_a_device_that_is_not_there_is_named(toy):
    bags, label = toy
    with pytest.raises(ConfigError, match="training device 'abacus' with '32-true'"):
        train(bags, LABEL, classes(label), device="abacus")
