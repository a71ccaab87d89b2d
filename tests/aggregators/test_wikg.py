"""WiKG against its equations on dense matrices in float64, whatever the size of the blocks."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import leaky_relu

from wsikit.aggregators.models import wikg
from wsikit.aggregators.registry import create_aggregator
from wsikit.errors import ConfigError


def dense(state, x, k):
    """One bag, with (N, N) and (N, N, E) in full; tiles that are no neighbours are taken out at the softmax."""

    def linear(name, value):
        return value @ state[f"{name}.weight"].T + state.get(f"{name}.bias", 0)

    n, k = len(x), min(k, len(x))
    h = leaky_relu(linear("project", x))
    h = (h + h.mean(0)) / 2
    head, tail = linear("head", h), linear("tail", h)
    match = head @ tail.T / head.shape[1] ** 0.5  # (N, N)
    rank = match.argsort(1, descending=True).argsort(1)
    out = torch.where(rank < k, 0.0, -torch.inf)
    p = (match + out).softmax(1)[:, :, None]  # (N, N, 1)
    edge = p * tail[None] + (1 - p) * head[:, None]  # (N, N, E)
    knowledge = torch.einsum("jc,ijc->ij", tail, torch.tanh(head[:, None] + edge))
    heard = (knowledge + out).softmax(1) @ tail
    tiles = leaky_relu(linear("sum", head + heard)) + leaky_relu(linear("product", head * heard))
    attention = linear("scores.2", leaky_relu(linear("scores.0", tiles)))[:, 0].softmax(0)
    z = attention @ tiles
    centred = (z - z.mean()) / (z.var(correction=0) + 1e-5).sqrt()
    assert n == len(attention)
    return centred * state["norm.weight"] + state["norm.bias"], attention


def bag(n=23, seed=0):
    return torch.randn(n, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("blocks", [(1 << 24, 1 << 23), (50, 40)])  # all at once; two and one tile at a time
def test_output_and_gradients_are_those_of_the_dense_equations(monkeypatch, blocks):
    monkeypatch.setattr(wikg, "SCORES", blocks[0])
    monkeypatch.setattr(wikg, "VALUES", blocks[1])
    model = create_aggregator("wikg", in_dim=5, embed_dim=8, k=4, seed=0).double().eval()
    x = torch.cat([bag(23), bag(1, 1), bag(3, 2)])
    offsets = torch.tensor([0, 23, 24, 27])
    found = model(x, offsets=offsets)
    state = dict(model.named_parameters())
    expected = [dense(state, part, 4) for part in x.split([23, 1, 3])]
    torch.testing.assert_close(found.embedding, torch.stack([e for e, _ in expected]), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found.attention, torch.cat([a for _, a in expected]), rtol=1e-10, atol=1e-12)
    found.embedding.sin().sum().backward()
    slopes = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    torch.stack([e for e, _ in expected]).sin().sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(slopes[name], parameter.grad, rtol=1e-8, atol=1e-11, msg=name)
    assert min(slopes[name].abs().max() for name in ("head.weight", "tail.weight", "project.weight")) > 1e-4


def test_the_best_tails_are_those_of_the_whole_matrix(monkeypatch):
    monkeypatch.setattr(wikg, "SCORES", 100)
    head, tail = bag(30), bag(30, 1)
    assert torch.equal(wikg.best_tails(head, tail, 7), (head @ tail.T).topk(7, dim=1).indices)
    assert wikg.best_tails(head[:3], tail[:3], 7).shape == (3, 3)


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="'wikg': k=0; expected at least 1"):
        create_aggregator("wikg", in_dim=5, k=0)
