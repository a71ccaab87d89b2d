"""Sums over neighbours against loops over edges, their gradients against differences, and no weight for each edge."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck

from wsikit.layers.message_passing import (
    edge_softmax,
    neighbour_mean,
    neighbour_softmax_sum,
    neighbour_sum,
    neighbour_weighted_sum,
    neighbours,
)

NODES = 9


@pytest.fixture
def edges():
    """Different edges, one way, a loop among them; tile 4 hears nobody and tile 5 is heard by nobody."""
    generator = torch.Generator().manual_seed(0)
    pairs = torch.cartesian_prod(torch.arange(NODES), torch.arange(NODES))
    pairs = pairs[torch.randperm(len(pairs), generator=generator)[:30]]
    return pairs[(pairs[:, 1] != 4) & (pairs[:, 0] != 5)].T.contiguous()


def rand(*shape, seed=1):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def heard_by(edges, i):
    return [a for a, b in edges.T.tolist() if b == i]


def test_edges_are_sorted_whatever_order_they_come_in(edges):
    graph = neighbours(edges, NODES)
    pairs = sorted((b, a) for a, b in edges.T.tolist())
    assert list(zip(graph.target.tolist(), graph.source.tolist(), strict=True)) == pairs
    assert [graph.degree[i].item() for i in range(NODES)] == [len(heard_by(edges, i)) for i in range(NODES)]
    assert graph.nodes == NODES
    back = list(zip(graph.source[graph.back_order].tolist(), graph.target[graph.back_order].tolist(), strict=True))
    assert back == sorted((a, b) for a, b in edges.T.tolist())


def test_sum_and_mean_are_those_of_a_loop(edges):
    x, graph = rand(NODES, 3), neighbours(edges, NODES)
    for i in range(NODES):
        rows = heard_by(edges, i)
        expected = sum((x[j] for j in rows), torch.zeros(3, dtype=torch.float64))
        torch.testing.assert_close(neighbour_sum(x, graph)[i], expected)
        torch.testing.assert_close(neighbour_mean(x, graph)[i], expected / max(1, len(rows)))
    assert not neighbour_sum(x, graph)[4].any()


def test_softmax_over_the_edges_to_a_tile(edges):
    graph = neighbours(edges, NODES)
    scores = rand(len(graph.source), 2) * 50
    weights = edge_softmax(scores, graph)
    for i in range(NODES):
        mine = graph.target == i
        torch.testing.assert_close(weights[mine], scores[mine].softmax(0))


def test_weighted_sum_is_that_of_a_loop(edges):
    graph = neighbours(edges, NODES)
    x, weights = rand(NODES, 2, 3), rand(len(graph.source), 2, seed=2)
    expected = torch.zeros(NODES, 2, 3, dtype=torch.float64)
    for e, (j, i) in enumerate(zip(graph.source.tolist(), graph.target.tolist(), strict=True)):
        expected[i] += weights[e, :, None] * x[j]
    torch.testing.assert_close(neighbour_weighted_sum(x, weights, graph), expected)


@pytest.mark.parametrize("scale", [1.0, 1e4])  # the second is worked out edge by edge
def test_softmax_sum_is_that_of_a_loop(edges, scale):
    x, temperature, graph = rand(NODES, 3) * scale, torch.tensor(0.7, dtype=torch.float64), neighbours(edges, NODES)
    found = neighbour_softmax_sum(x, temperature, graph)
    for i in range(NODES):
        rows = heard_by(edges, i)
        expected = (x[rows] * (temperature * x[rows]).softmax(0)).sum(0)
        torch.testing.assert_close(found[i], expected)
    assert found.isfinite().all()
    assert neighbour_softmax_sum(x.float(), temperature.float(), graph).dtype == torch.float32


@pytest.mark.parametrize("apart", [0.0, 1e3])  # the second is worked out edge by edge
def test_gradients_of_the_softmax_sum_are_those_of_differences(edges, apart):
    graph, temperature = neighbours(edges, NODES), torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    x = (rand(NODES, 2) + apart * (torch.arange(NODES)[:, None] % 2)).detach().requires_grad_()
    assert gradcheck(lambda x, t: neighbour_softmax_sum(x, t, graph), [x, temperature], atol=1e-3)


def test_gradients_are_those_of_differences(edges):
    graph = neighbours(edges, NODES)
    assert gradcheck(lambda x: neighbour_sum(x, graph), [rand(NODES, 2)])
    assert gradcheck(lambda s: edge_softmax(s, graph), [rand(len(graph.source), 2)])
    inputs = [rand(NODES, 2, 2), rand(len(graph.source), 2, seed=2)]
    assert gradcheck(lambda x, w: neighbour_weighted_sum(x, w, graph), inputs)


def test_a_graph_without_edges_is_silence():
    graph, x = neighbours(torch.zeros(2, 0, dtype=torch.int64), 3), rand(3, 2)
    temperature = torch.ones((), dtype=torch.float64, requires_grad=True)
    heard = neighbour_sum(x, graph) + neighbour_softmax_sum(x, temperature, graph)
    assert not heard.any()
    heard.sum().backward()
    assert not x.grad.any()


def test_half_precision_is_summed_in_single(edges):
    graph = neighbours(edges, NODES)
    x = rand(NODES, 3).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = neighbour_sum(x, graph)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, neighbour_sum(x.float(), graph))
