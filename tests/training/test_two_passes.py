"""A step in two passes has the gradient of one graph over all of it, dropout and a model's own loss included."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wsikit.aggregators.base import AggregatorOutput
from wsikit.aggregators.models.abmil import Abmil
from wsikit.aggregators.models.gtp import Gtp
from wsikit.aggregators.models.patch_gcn import PatchGcn
from wsikit.cohort.endpoints import ClassLabel, ClassTarget, Survival, SurvivalTarget
from wsikit.cohort.graphs import GraphSettings, build_graph
from wsikit.tasks.task import create_task
from wsikit.training.fit import _fabric, _seeded, _Steps
from wsikit.training.model import SlideModel
from wsikit.training.settings import TrainingSettings

ROWS = np.array([5, 0, 17, 3, 8, 30, 22, 11])


class Own(Abmil):
    """ABMIL with a term of its own that needs the label, a mean over bags."""

    def training_loss(self, output: AggregatorOutput, target: torch.Tensor) -> torch.Tensor:
        sign = 2.0 * target.to(output.embedding.dtype) - 1
        return (output.embedding[:, 0] - sign).square().mean()


def build(aggregator, dropout):
    if issubclass(aggregator, PatchGcn):
        return aggregator(6, hidden_dim=8, dropout=dropout, residual_dropout=dropout)
    if issubclass(aggregator, Gtp):
        return aggregator(6, embed_dim=8, nodes=4, heads=2, layers=1, dropout=dropout)
    return aggregator(6, embed_dim=16, attention_dim=8, dropout=dropout)


def prepare(toy, endpoint, *, aggregator=Abmil, dropout=0.5, max_step_tiles=40):
    bags, label = toy
    if endpoint == "class":
        task, target = create_task(ClassLabel("y", ("0", "1"))), ClassTarget(label, ("0", "1"))
    else:
        rng = np.random.default_rng(0)
        task = create_task(Survival(time="t", event="e", unit="days"))
        target = SurvivalTarget(rng.integers(1, 9, 40).astype(float), rng.random(40) < 0.6, "days")
    training = TrainingSettings(
        precision="64-true", device="cpu", tile_dropout=0.5, max_step_tiles=max_step_tiles, clip=1e9
    )
    fabric = _fabric(training)
    with _seeded(0, fabric.device):
        graph = GraphSettings(kind="knn", k=2) if aggregator.card.uses_edges else None
        net = SlideModel(build(aggregator, dropout), task.outputs, graph=graph)
        torch.nn.init.normal_(net.head.weight)  # a head of zeros would hide the gradient of all that is below
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    _, scaled = fabric.setup(net, optimizer)
    return net.train(), _Steps(fabric, net, scaled, task, bags, target, training)


def gradients(net):
    return {name: p.grad.clone() for name, p in net.named_parameters()}


def assert_close(one, other):
    assert max(float(g.abs().max()) for g in one.values()) > 1e-3
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize("aggregator", [Abmil, PatchGcn])
@pytest.mark.parametrize("endpoint", ["class", "survival"])
def test_dropout_is_replayed(toy, endpoint, aggregator):
    net, steps = prepare(toy, endpoint, aggregator=aggregator)
    parts = list(steps._parts(ROWS))
    assert len(parts) > 3
    with _seeded(1, steps.fabric.device):
        value = steps._in_two_passes(parts, thinned=9)
        following = torch.rand(1)
    found = gradients(net)
    net.zero_grad()
    with _seeded(1, steps.fabric.device):
        outputs = torch.cat([steps._forward(part, 9).outputs for part in parts])
        loss = steps.task.loss(outputs, steps.target.take(ROWS))
        assert torch.equal(torch.rand(1), following)  # as much randomness used up as by one pass
    loss.backward()
    assert_close(gradients(net), found)
    assert value == pytest.approx(float(loss.detach()), rel=1e-12)

    net.zero_grad()
    with _seeded(2, steps.fabric.device):  # other masks, other gradient: the test above can fail
        steps._in_two_passes(parts, thinned=9)
    assert any(not torch.allclose(g, found[name], rtol=1e-3) for name, g in gradients(net).items())


@pytest.mark.parametrize("aggregator", [Abmil, Own])
def test_a_models_own_loss_is_the_same_in_parts(toy, aggregator):
    found = []
    for tiles in (40, 100_000):
        net, steps = prepare(toy, "class", aggregator=aggregator, dropout=0.0, max_step_tiles=tiles)
        steps.step(ROWS, np.random.default_rng(3))
        found.append(gradients(net))
    assert_close(*found)


@pytest.mark.parametrize("endpoint", ["class", "survival"])  # the second has no label that could be asked for
def test_a_loss_that_needs_no_label_is_the_same_in_parts_and_is_learnt_from(toy, endpoint):
    found = []
    for tiles in (40, 100_000):
        net, steps = prepare(toy, endpoint, aggregator=Gtp, dropout=0.0, max_step_tiles=tiles)
        torch.nn.init.zeros_(net.head.weight)  # what is left for the rest of the model is the penalty
        steps.step(ROWS, np.random.default_rng(3))
        found.append(gradients(net))
    assert_close(*found)
    assert found[0]["aggregator.assign.weight"].abs().max() > 1e-4
    assert not found[0]["aggregator.blocks.0.qkv.weight"].any()


def test_parts_hold_every_patient_once_and_few_enough_tiles(toy):
    bags, _ = toy
    for limit in (1, 25, 40, 10_000):
        _, steps = prepare(toy, "class", max_step_tiles=limit)
        parts = list(steps._parts(ROWS))
        assert np.concatenate(parts).tolist() == ROWS.tolist()
        for part in parts:
            assert len(part) == 1 or sum(len(bags[int(r)]) for r in part) <= limit


def test_tile_dropout_thins_each_bag_the_same_in_any_company(toy):
    bags, _ = toy
    _, steps = prepare(toy, "class")
    x, offsets, grid = steps._batch(ROWS, 7)
    assert offsets.diff().tolist() == [max(1, round(0.5 * len(bags[int(r)]))) for r in ROWS]
    for i, row in enumerate(ROWS):
        alone, _, place = steps._batch(ROWS[i : i + 1], 7)
        assert torch.equal(x[offsets[i] : offsets[i + 1]], alone)
        assert torch.equal(grid[offsets[i] : offsets[i + 1]], place)
        whole = {tuple(v) for v in bags[int(row)].x.tolist()}
        kept = [tuple(v) for v in alone.tolist()]
        assert set(kept) <= whole
        assert len(set(kept)) == len(kept)  # no tile twice
    assert not torch.equal(x, steps._batch(ROWS, 8)[0])
    assert len(steps._batch(ROWS, None)[0]) == sum(len(bags[int(r)]) for r in ROWS)


def test_tile_dropout_leaves_the_edges_among_the_tiles_that_stay(toy):
    bags, _ = toy
    _, steps = prepare(toy, "class", aggregator=PatchGcn)
    _, offsets, grid, edges = steps._batch(ROWS, 7)
    bag = torch.bucketize(edges, offsets[1:], right=True)
    assert torch.equal(bag[0], bag[1])
    for i, row in enumerate(ROWS):
        start, stop = offsets[i], offsets[i + 1]
        mine = (bag[0] == i).nonzero().flatten()
        alone = steps._batch(ROWS[i : i + 1], 7)[3]
        assert torch.equal(edges[:, mine] - start, alone)
        whole = bags[int(row)]
        joined = {tuple(map(tuple, pair)) for pair in whole.grid[build_graph(steps.net.graph, whole.grid).T].tolist()}
        stay = {tuple(place) for place in grid[start:stop].tolist()}
        kept = {tuple(map(tuple, pair)) for pair in grid[start:stop][alone.T].tolist()}
        assert kept == {pair for pair in joined if set(pair) <= stay}
    assert edges.shape[1] > 10
