"""Patch-GCN against the layers of PyTorch Geometric that its authors used, with the same weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from wsikit.aggregators.registry import create_aggregator
from wsikit.errors import ConfigError


def bags(seed=0, sizes=(7, 1, 12), dim=6):
    """Features in float64, offsets, and edges one way inside each bag; some tiles hear nobody."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(sum(sizes), dim, dtype=torch.float64, generator=generator)
    offsets = torch.tensor([0, *sizes]).cumsum(0)
    edges = []
    for start, size in zip(offsets.tolist(), sizes, strict=False):
        pairs = torch.cartesian_prod(torch.arange(size), torch.arange(size)) + start
        pairs = pairs[pairs[:, 0] != pairs[:, 1]] if size > 1 else pairs[:0].reshape(0, 2)
        edges.append(pairs[torch.rand(len(pairs), generator=generator) < 0.3].T)
    return x, offsets, torch.cat(edges, dim=1)


def reference(geometric, model, x, edges):
    """One bag through the authors' sequence of steps, built from PyTorch Geometric's layers."""
    layers = []
    for i, mine in enumerate(model.convolutions):
        width = mine.mlp[0].in_features
        conv = geometric.GENConv(width, width, aggr="softmax", t=1.0, learn_t=True, num_layers=2, norm=None, bias=True)
        linear1, norm, linear2 = mine.mlp[0], mine.mlp[1], mine.mlp[3]
        conv.mlp = nn.Sequential(linear1, norm, nn.ReLU(), linear2)  # norm="layer" as of version 1.6.3
        conv.aggr_module.t = nn.Parameter(mine.temperature.detach().reshape(1))
        layers.append(
            geometric.DeepGCNLayer(conv, model.norms[i - 1] if i else None, nn.ReLU(), block="res", dropout=0.0)
        )
    h = model.project(x)
    depths = [h]
    h = layers[0].conv(h, edges)
    depths.append(h)
    for layer in layers[1:]:
        h = layer(h, edges)
        depths.append(h)
    tiles = model.phi(torch.cat(depths, dim=1))
    scores = model.scores
    attention = scores.score(scores.value(tiles).tanh() * scores.gate(tiles).sigmoid()).softmax(0)
    return model.rho((attention * tiles).sum(0)), attention[:, 0]


def test_output_is_that_of_the_authors_layers(geometric):
    model = create_aggregator("patch-gcn", in_dim=6, hidden_dim=5, seed=0).double().eval()
    for convolution, temperature in zip(model.convolutions, (0.4, 1.0, 3.0), strict=True):
        nn.init.constant_(convolution.temperature, temperature)
    x, offsets, edges = bags()
    found = model(x, offsets=offsets, edges=edges)
    for b in range(3):
        start, stop = int(offsets[b]), int(offsets[b + 1])
        mine = edges[:, (edges[0] >= start) & (edges[0] < stop)] - start
        embedding, attention = reference(geometric, model, x[start:stop], mine)
        torch.testing.assert_close(found.embedding[b], embedding, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(found.attention[start:stop], attention, rtol=1e-10, atol=1e-12)


def test_gradients_are_those_of_the_authors_layers(geometric):
    model = create_aggregator("patch-gcn", in_dim=6, hidden_dim=5, seed=0).double().eval()
    x, _, edges = bags(sizes=(12,))
    expected = torch.autograd.grad(reference(geometric, model, x, edges)[0].sin().sum(), model.project[0].weight)[0]
    found = torch.autograd.grad(model(x, edges=edges).embedding.sin().sum(), model.project[0].weight)[0]
    assert found.abs().max() > 1e-4
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_a_tile_is_heard_as_far_as_there_are_convolutions():
    """In a chain of tiles a change of the first reaches the tile 3 steps away, and not the one after."""
    model = create_aggregator("patch-gcn", in_dim=6, hidden_dim=8, seed=0).eval()
    seen = []
    model.phi.register_forward_hook(lambda module, given, tiles: seen.append(tiles))
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    here = torch.arange(7)
    changed = x.clone()
    changed[0] += 5
    for given in (x, changed):
        model(given, edges=torch.stack([here, here + 1]))
    differs = (seen[0] != seen[1]).any(1).tolist()
    assert differs == [True] * 4 + [False] * 4


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="'patch-gcn': convolutions=0; expected at least 1"):
        create_aggregator("patch-gcn", in_dim=6, convolutions=0)
    with pytest.raises(ConfigError, match="'patch-gcn': dropout=1; expected at least 0 and below 1"):
        create_aggregator("patch-gcn", in_dim=6, dropout=1)
    with pytest.raises(ConfigError, match="'patch-gcn' uses edges, but none were given"):
        create_aggregator("patch-gcn", in_dim=6)(torch.zeros(2, 6))
