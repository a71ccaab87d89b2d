"""A model on a graph is trained, kept and used on the same graph."""

from __future__ import annotations

import numpy as np
import pytest

from wsikit.aggregators.registry import AGGREGATORS, aggregator_card
from wsikit.cohort.endpoints import ClassLabel, ClassTarget
from wsikit.cohort.graphs import GraphSettings
from wsikit.errors import ConfigError
from wsikit.training.bundle import Bundle, load_bundle, save_bundle
from wsikit.training.fit import fit, predict
from wsikit.training.settings import ModelSettings, TrainingSettings, graph_of

LABEL = ClassLabel("label", ("0", "1"))
TRAIN, VALIDATION, TEST = np.arange(24), np.arange(24, 32), np.arange(32, 40)
SMALL = {"hidden_dim": 8}


def train(bags, label, **model):
    training = TrainingSettings(epochs=3, device="cpu", learning_rate=1e-2)
    settings = ModelSettings(**({"aggregator": "patch-gcn", "options": SMALL} | model))
    target = ClassTarget(np.asarray(label, np.int64), ("0", "1"))
    return fit(bags, LABEL, target, train=TRAIN, validation=VALIDATION, model=settings, training=training)


def test_a_model_is_kept_with_its_graph_and_predicts_the_same_bits(toy, tmp_path):
    bags, label = toy
    found = train(bags, label, graph={"kind": "features", "k": 3})
    assert found.model.graph == GraphSettings(kind="features", k=3)
    facts = {"aggregator": {"name": "patch-gcn", "options": SMALL}, "in_dim": 6, "thresholds": {}}
    loaded = load_bundle(save_bundle(Bundle(found.model, found.task, LABEL, facts), tmp_path / "a.safetensors"))
    assert loaded.model.graph == found.model.graph
    before, attention = predict(found.model, found.task, bags, TEST, with_attention=True)
    after, again = predict(loaded.model, loaded.task, bags, TEST, with_attention=True)
    np.testing.assert_array_equal(before, after)
    for one, other in zip(attention, again, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.sum() == pytest.approx(1, abs=1e-5)
    loaded.model.graph = GraphSettings(kind="features", k=1)
    assert np.abs(predict(loaded.model, loaded.task, bags, TEST)[0] - before).max() > 1e-4  # the graph does matter


def test_the_same_seed_and_graph_give_the_same_bits(toy):
    bags, label = toy
    one, same, other = (train(bags, label, graph=graph) for graph in (None, None, {"kind": "knn", "k": 1}))
    state = one.model.state_dict()
    assert all((value == same.model.state_dict()[name]).all() for name, value in state.items())
    assert any((value != other.model.state_dict()[name]).any() for name, value in state.items())


def test_without_a_graph_in_the_settings_it_is_the_aggregators_own(toy):
    assert graph_of(ModelSettings(aggregator="patch-gcn")) == GraphSettings(kind="knn", k=8, symmetric=False)
    assert graph_of(ModelSettings(aggregator="gin")) == GraphSettings()
    assert graph_of(ModelSettings()) is None
    assert train(*toy).model.graph == GraphSettings(kind="knn", k=8, symmetric=False)


@pytest.mark.parametrize("name", AGGREGATORS.names())
def test_the_graph_on_a_card_can_be_built(name):
    card = aggregator_card(name)
    assert card.uses_edges or card.graph is None
    assert (graph_of(ModelSettings(aggregator=name)) is not None) == card.uses_edges


def test_a_graph_that_nobody_uses_is_refused(toy):
    with pytest.raises(ConfigError, match="aggregator 'abmil' uses no edges, so graph='grid' would change nothing"):
        train(*toy, aggregator="abmil", options={}, graph={})


def test_a_radius_needs_the_resolution_of_the_slides(toy):
    with pytest.raises(ConfigError, match="slide 's0..': a graph within a radius in micrometres needs its resolution"):
        train(*toy, graph={"kind": "radius", "radius_um": 300.0})
