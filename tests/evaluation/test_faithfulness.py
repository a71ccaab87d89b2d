"""A map's own evidence: known answers where one tile decides, and every registered model through the same door."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wsikit.aggregators.registry import create_aggregator, list_aggregators
from wsikit.cohort.bags import BagBatch
from wsikit.cohort.endpoints import ClassLabel
from wsikit.errors import ConfigError
from wsikit.evaluation.attribution import integrated_gradients
from wsikit.evaluation.faithfulness import Faithfulness, faithfulness, highest_first, removals, score_of, subset_scores
from wsikit.tasks.classification import ClassificationTask
from wsikit.testing.random_bags import make_bags
from wsikit.training.bundle import Bundle
from wsikit.training.model import SlideModel

N = 101
DECIDES = 13
"""The one tile of the planted bag that makes the class 1."""


def bundle_of(model: SlideModel) -> Bundle:
    return Bundle(model.eval(), ClassificationTask(("0", "1")), ClassLabel("label", ("0", "1")), {})


@pytest.fixture
def planted():
    """A model whose truth is known, as a score, and a bag: feature 0 of the highest tile decides, nothing else."""
    model = SlideModel(create_aggregator("max", in_dim=3), 2)
    with torch.no_grad():
        model.head.weight[1, 0] = 10.0
        model.head.bias[1] = -20.0
    x = np.random.default_rng(0).normal(size=(N, 3)).astype(np.float16)
    x[:, 0] = 0.0
    x[DECIDES, 0] = 4.0
    bag = BagBatch(x, np.array([0, N]), np.stack([np.arange(N), np.zeros(N, np.int64)], 1))
    return bundle_of(model), bag


def true_map() -> np.ndarray:
    tile_map = np.random.default_rng(1).uniform(0, 0.5, N)
    tile_map[DECIDES] = 1.0
    return tile_map


def test_one_tile_decides_and_the_curves_say_so(planted):
    bundle, bag = planted
    low, high = 1 / (1 + np.exp(20)), 1 / (1 + np.exp(-20))
    found = faithfulness(score_of([bundle], 1), bag, true_map(), steps=N)
    np.testing.assert_allclose(found.deletion, [high] + [low] * (N - 1), atol=1e-6)
    np.testing.assert_allclose(found.insertion, [high] * N, atol=1e-6)
    assert found.removed.tolist() == list(range(N))
    # trapezoids: half of the first of N - 1 steps
    assert found.deletion_area == pytest.approx(0.5 / (N - 1), abs=1e-6)
    assert found.insertion_area == pytest.approx(1, abs=1e-6)
    # a random order takes the tile away after k others: area (k + 1/2) / (N - 1)
    possible = np.append((np.arange(N - 1) + 0.5) / (N - 1), 1)
    assert np.abs(found.random_areas[:, None] - possible).min(1).max() < 1e-6
    assert 0.3 < found.random_areas.mean() < 0.7
    assert found.verdict == "faithful"
    assert str(found).startswith("deletion AUC 0.01 against random 0.")
    assert str(found).endswith("insertion AUC 1.00")


def test_the_reversed_map_is_unfaithful_and_a_flat_one_undecided(planted):
    bundle, bag = planted
    score = score_of([bundle], 1)
    wrong = faithfulness(score, bag, -true_map(), steps=N)
    assert wrong.verdict == "unfaithful"
    assert wrong.deletion_area == pytest.approx(1, abs=1e-6)  # only the decisive tile is left at the end
    assert wrong.insertion_area == pytest.approx(0.5 / (N - 1), abs=1e-6)
    verdicts = [faithfulness(score, bag, np.zeros(N), seed=seed).verdict for seed in range(40)]
    # a map without an order is a random order: as good as 19 others or better in 1 of 20
    assert verdicts.count("undecided") >= 30
    blind = SlideModel(create_aggregator("max", in_dim=3), 2)  # its head is zero: nothing matters to it
    assert faithfulness(score_of([bundle_of(blind)], 1), bag, true_map()).verdict == "undecided"


def test_attributions_of_the_planted_model_are_faithful(planted):
    bundle, bag = planted
    score = score_of([bundle], 1)
    tile_map = integrated_gradients(bundle.model, bag, column=1).values
    assert tile_map.argmax() == DECIDES
    assert faithfulness(score, bag, tile_map, steps=N).verdict == "faithful"


def test_necessary_and_sufficient(planted):
    bundle, bag = planted
    one, many = removals(score_of([bundle], 1), bag, true_map(), tiles=[1, N - 1])
    assert one.whole == pytest.approx(1)
    assert (one.without, one.only) == (pytest.approx(0, abs=1e-6), pytest.approx(1))
    assert (many.tiles, many.without, many.only) == (N - 1, pytest.approx(0, abs=1e-6), pytest.approx(1))
    # dropping one tile at random misses it nearly always, and one tile alone is nearly never it
    assert one.random_without.mean() > 0.7
    assert one.random_only.mean() < 0.3
    with pytest.raises(ConfigError, match=f"tiles={N} of {N}; expected 1 to {N - 1}"):
        removals(score_of([bundle], 1), bag, true_map(), tiles=[N])


def test_a_low_value_is_explained_with_the_sign_turned(planted):
    bundle, bag = planted
    assert score_of([bundle], 1, sign=-1.0)(bag) == pytest.approx(-score_of([bundle], 1)(bag))
    assert score_of([bundle, bundle], 1)(bag) == pytest.approx(score_of([bundle], 1)(bag))


@pytest.mark.parametrize("name", list_aggregators())
def test_every_model_is_asked_by_the_packed_interface(name):
    """Scores of parts in one batch, in small batches, and of each part as a bag of its own, made by hand."""
    torch.manual_seed(0)
    model = SlideModel(create_aggregator(name, in_dim=24, classes=2, seed=0), 2)
    torch.nn.init.normal_(model.head.weight)
    made = make_bags(model.aggregator, (12,))
    edges = None if made.edges is None else made.edges.numpy()
    bag = BagBatch(made.x.numpy(), made.offsets.numpy(), made.grid.numpy(), edges)
    score = score_of([bundle_of(model)], 1)
    rng = np.random.default_rng(0)
    subsets = [np.sort(rng.permutation(12)[:size]) for size in (12, 1, 5, 7)]
    expected = []
    for rows in subsets:
        kept = None
        if edges is not None:
            pairs = [(a, b) for a, b in edges.T.tolist() if a in rows and b in rows]
            kept = np.searchsorted(rows, np.array(pairs, np.int64).reshape(-1, 2).T)
        expected.append(score(BagBatch(bag.x[rows], np.array([0, len(rows)]), bag.grid[rows], kept))[0])
    for max_tiles in (100, 8, 1):
        np.testing.assert_allclose(subset_scores(score, bag, subsets, max_tiles=max_tiles), expected, atol=1e-5)
    found = faithfulness(score, bag, rng.random(12), random_orders=3, steps=5)
    assert found.random.shape == (3, 5)
    assert np.ptp(found.random) > 0
    whole = score(bag)[0]
    np.testing.assert_allclose([found.deletion[0], found.insertion[0], *found.random[:, 0]], whole, atol=1e-5)


def test_equal_tiles_get_no_credit_for_where_they_stand():
    tile_map = np.array([0.0, 1.0, 0.0, 0.0, 1.0])
    orders = {tuple(highest_first(tile_map, np.random.default_rng(seed)).tolist()) for seed in range(50)}
    assert len(orders) > 6
    assert {frozenset(order[:2]) for order in orders} == {frozenset({1, 4})}


def test_a_bag_of_one_tile_has_nothing_to_take_away(planted):
    bundle, bag = planted
    one = BagBatch(bag.x[:1], np.array([0, 1]), bag.grid[:1])
    found = faithfulness(score_of([bundle], 1), one, np.ones(1))
    assert isinstance(found, Faithfulness)
    assert found.verdict == "undecided"
    assert found.deletion_area == found.insertion_area == found.random_areas[0]


def test_maps_that_do_not_fit_are_refused(planted):
    bundle, bag = planted
    score = score_of([bundle], 1)
    with pytest.raises(ConfigError, match=f"for {N} tiles; expected a finite number for each tile"):
        faithfulness(score, bag, np.ones(N + 1))
    with pytest.raises(ConfigError, match="expected a finite number for each tile"):
        removals(score, bag, np.full(N, np.nan), tiles=[1])
    with pytest.raises(ConfigError, match="random_orders=0"):
        faithfulness(score, bag, np.ones(N), random_orders=0)
    with pytest.raises(ConfigError, match="a part has no tile"):
        subset_scores(score, bag, [np.array([], np.int64)])
    with pytest.raises(ConfigError, match="2 bags; expected one"):
        subset_scores(score, BagBatch(bag.x, np.array([0, 3, N]), bag.grid), [np.arange(2)])
