"""The convolutions of GraphSAGE, GIN, GATv2 and DeepGraphSurv against PyTorch Geometric's, and what a graph adds."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from wsikit.aggregators.models.deepgraphsurv import ChebyshevConvolution
from wsikit.aggregators.models.gat import GatConvolution
from wsikit.aggregators.models.gin import GinConvolution
from wsikit.aggregators.models.graphsage import SageConvolution
from wsikit.aggregators.registry import create_aggregator
from wsikit.errors import ConfigError
from wsikit.layers.message_passing import neighbours
from wsikit.testing.aggregator_contract import check_aggregator

NODES, WIDTH = 11, 6


def tiles(seed=0):
    return torch.randn(NODES, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def edges(*, symmetric=False, seed=1):
    """A third of all pairs, no loops; tile 3 hears nobody."""
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.cartesian_prod(torch.arange(NODES), torch.arange(NODES))
    pairs = pairs[torch.rand(len(pairs), generator=generator) < 0.3]
    pairs = pairs[(pairs[:, 0] != pairs[:, 1]) & (pairs[:, 1] != 3)]
    if symmetric:
        pairs = torch.unique(torch.cat([pairs, pairs.flip(1)]), dim=0)
    return pairs.T.contiguous()


def assert_same(ours, theirs, given):
    x = tiles().requires_grad_()
    expected = theirs(x, given)
    found = ours(x, neighbours(given, NODES))
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)
    (slope,) = torch.autograd.grad(found.sin().sum(), x, retain_graph=True)
    (other,) = torch.autograd.grad(expected.sin().sum(), x)
    torch.testing.assert_close(slope, other, rtol=1e-10, atol=1e-12)


def test_graphsage(geometric):
    torch.manual_seed(0)
    ours, theirs = SageConvolution(WIDTH).double(), geometric.SAGEConv(WIDTH, WIDTH).double()
    theirs.lin_r.weight, theirs.lin_l.weight, theirs.lin_l.bias = ours.own.weight, ours.heard.weight, ours.own.bias
    assert_same(ours, theirs, edges())


@pytest.mark.parametrize("learn_eps", [False, True])
def test_gin(learn_eps, geometric):
    torch.manual_seed(0)
    ours = GinConvolution(WIDTH, learn_eps=learn_eps).double()
    if learn_eps:
        nn.init.constant_(ours.eps, 0.25)
    theirs = geometric.GINConv(nn.Sequential(*ours.mlp[:2], nn.ReLU(), ours.mlp[3]), eps=0.25 if learn_eps else 0.0)
    assert_same(ours, theirs.double(), edges())


@pytest.mark.parametrize("block", [1 << 24, 10])  # all edges at once, or one after the other
def test_gat(block, monkeypatch, geometric):
    monkeypatch.setattr("wsikit.aggregators.models.gat.BLOCK_VALUES", block)
    monkeypatch.setattr("wsikit.layers.message_passing.BLOCK_VALUES", block)
    torch.manual_seed(0)
    ours, theirs = GatConvolution(WIDTH, heads=3).double(), geometric.GATv2Conv(WIDTH, WIDTH // 3, heads=3).double()
    theirs.lin_l.load_state_dict(ours.left.state_dict())
    theirs.lin_r.load_state_dict(ours.right.state_dict())
    theirs.att = nn.Parameter(ours.score.detach()[None])
    nn.init.normal_(ours.bias)
    theirs.bias = ours.bias
    here = torch.arange(NODES)
    x, given = tiles(), edges()
    with_loops = torch.cat([given, torch.stack([here, here])], dim=1)  # PyTorch Geometric adds them itself
    assert_same(lambda x, graph: ours(x, neighbours(with_loops, NODES)), theirs, given)
    slopes = []
    for found in (ours(x, neighbours(with_loops, NODES)), theirs(x, given)):
        slopes.append(torch.autograd.grad(found.sin().sum(), ours.score if not slopes else theirs.att)[0].flatten())
    torch.testing.assert_close(*slopes, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_chebyshev(order, geometric):
    torch.manual_seed(0)
    ours, theirs = ChebyshevConvolution(WIDTH, 4, order=order).double(), geometric.ChebConv(WIDTH, 4, order).double()
    for mine, other in zip(ours.weights, theirs.lins, strict=True):
        other.weight = mine.weight
    theirs.bias = ours.weights[0].bias
    given = edges(symmetric=True)
    assert (neighbours(given, NODES).degree > 0).all()  # of a tile without neighbours PyTorch Geometric's L x is -x
    assert_same(ours, theirs, given)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_chebyshev_is_the_polynomial_of_the_dense_laplacian(order):
    torch.manual_seed(0)
    ours, x, given = ChebyshevConvolution(WIDTH, 4, order=order).double(), tiles(), edges(symmetric=True)
    adjacency = torch.zeros(NODES, NODES, dtype=torch.float64)
    adjacency[given[1], given[0]] = 1
    scale = adjacency.sum(1).rsqrt()
    eye = torch.eye(NODES, dtype=torch.float64)
    laplacian = (eye - scale[:, None] * adjacency * scale) - eye  # 2 L / 2 - I
    polynomials = [eye, laplacian]
    while len(polynomials) < order:
        polynomials.append(2 * laplacian @ polynomials[-1] - polynomials[-2])
    expected = sum(p @ x @ w.weight.T for p, w in zip(polynomials, ours.weights, strict=False)) + ours.weights[0].bias
    torch.testing.assert_close(ours(x, neighbours(given, NODES)), expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("layers", [1, 3])
def test_deepgraphsurv_is_two_branches_and_a_weighted_sum(layers):
    model = create_aggregator("deepgraphsurv", in_dim=WIDTH, hidden_dim=5, layers=layers, seed=0).double().eval()
    x, given = tiles(), edges(symmetric=True)
    graph, h = neighbours(given, NODES), x
    for convolution in model.representation:
        h = convolution(h, graph).clamp(min=0)
    weight = (model.attention(x, graph).clamp(min=0) @ model.score.weight[0]).softmax(0)
    found = model(x, edges=given)
    torch.testing.assert_close(found.embedding[0], weight @ h, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(found.attention, weight, rtol=1e-11, atol=1e-12)


def arranged(seed, bags=24):
    """Each bag has 12 tiles each of two types; in the odd ones the types are mixed, in the even ones apart."""
    generator = torch.Generator().manual_seed(seed)
    x, edges_, offsets = [], [], [0]
    here = torch.arange(23)
    for b in range(bags):
        kind = torch.arange(24) % 2 if b % 2 else torch.arange(24) // 12
        noise = 0.3 * torch.randn(24, 4, generator=generator)
        x.append(noise + kind[:, None] * torch.tensor([2.0, -2.0, 0, 0]))
        edges_.append(torch.stack([torch.cat([here, here + 1]), torch.cat([here + 1, here])]) + offsets[-1])
        offsets.append(offsets[-1] + 24)
    return torch.cat(x), torch.tensor(offsets), torch.cat(edges_, 1), (torch.arange(bags) % 2).float()


@pytest.mark.parametrize("name", ["graphsage", "gin", "gat", "deepgraphsurv", "patch-gcn", "gtp"])
def test_the_arrangement_of_the_same_tiles_is_learnt(name, one_thread):
    """Every bag has the same tiles; only who is beside whom tells the classes apart."""
    options = {"gtp": {"nodes": 4, "embed_dim": 16, "heads": 2}, "patch-gcn": {"hidden_dim": 16, "dropout": 0.0}}
    options["deepgraphsurv"] = {"hidden_dim": 32}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = create_aggregator(name, in_dim=4, **options.get(name, {"embed_dim": 32}))
        head = nn.Linear(model.out_dim, 1)
        optimiser = torch.optim.Adam([*model.parameters(), *head.parameters()], lr=0.01)
        x, offsets, given, label = arranged(0)
        for _ in range(30):
            optimiser.zero_grad()
            logits = head(model(x, offsets=offsets, edges=given).embedding)[:, 0]
            nn.functional.binary_cross_entropy_with_logits(logits, label).backward()
            optimiser.step()
        x, offsets, given, label = arranged(1)
        with torch.no_grad():
            output = model.eval()(x, offsets=offsets, edges=given)
            right = ((head(output.embedding)[:, 0] > 0) == label.bool()).float().mean()
    assert right > 0.9


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gin", {"embed_dim": 16, "layers": 1, "learn_eps": True}),
        ("gat", {"embed_dim": 16, "layers": 1, "heads": 1, "dropout": 0.2}),
        ("patch-gcn", {"hidden_dim": 8, "convolutions": 1}),
        ("deepgraphsurv", {"hidden_dim": 16, "order": 1, "dropout": 0.2}),
        ("gtp", {"embed_dim": 16, "layers": 1, "nodes": 3, "dropout": 0.2}),
        ("wikg", {"embed_dim": 16, "k": 1}),
    ],
)
def test_the_contract_holds_with_other_options(name, options, one_thread):
    check_aggregator(partial(create_aggregator, name, in_dim=24, **options))


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="'gat': embed_dim=10; expected a multiple of heads=4"):
        create_aggregator("gat", in_dim=6, embed_dim=10)
    with pytest.raises(ConfigError, match="'gin': layers=0; expected at least 1"):
        create_aggregator("gin", in_dim=6, layers=0)
