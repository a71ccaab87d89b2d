"""Attention rollout against the product of dense attention matrices, in float64 and head by head."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from wsikit.aggregators.base import Aggregator, AggregatorCard, AggregatorOutput
from wsikit.aggregators.registry import create_aggregator, list_aggregators
from wsikit.aggregators.rollout import attention_rollout, rollout_aggregators
from wsikit.errors import ConfigError
from wsikit.layers.packed import pad, segment_mean
from wsikit.testing.random_bags import Bags, make_bags

N = 11
SMALL: dict[str, dict[str, object]] = {
    "gtp": {"embed_dim": 8, "heads": 2, "nodes": 5},
    "ilra": {"embed_dim": 8, "heads": 2, "rank": 3},
    "longnet": {"embed_dim": 8, "heads": 4, "segments": (4, 8), "dilations": (1, 3)},
    "longnet, class": {"embed_dim": 8, "heads": 2, "segments": (5, 16), "dilations": (1, 2), "pooling": "class"},
    "perceiver": {"embed_dim": 8, "heads": 2, "latents": 3, "rounds": 3},
    "rrt": {"embed_dim": 8, "heads": 2, "region": 2, "kernel": 3},
    "set-transformer": {"embed_dim": 8, "heads": 2, "points": 4},
    "set-transformer, seeds": {"embed_dim": 8, "heads": 2, "points": 4, "seeds": 3, "layer_norm": False},
    "transmil": {"embed_dim": 8, "heads": 2, "landmarks": 4},
    "transmil, exact": {"embed_dim": 8, "heads": 2, "landmarks": 64, "iterations": 30},
    "transmil, square": {"embed_dim": 8, "heads": 2, "landmarks": 5, "places": "square"},
}


def build(case: str) -> Aggregator:
    """In float64, with weights so large that attention is far from even."""
    name = case.split(",")[0]
    model = create_aggregator(name, in_dim=6, seed=0, **SMALL[case]).double().eval()
    with torch.no_grad():
        for part, weight in model.named_parameters():
            if any(word in part for word in ("query", "key", "qkv", "assign", "score", "phi")):
                weight *= 3
    return model


def rollout_of(model: Aggregator, bags: Bags) -> Tensor:
    return attention_rollout(model, bags.x.double(), offsets=bags.offsets, grid=bags.grid, edges=bags.edges)


class Seen:
    """What modules were called with, in the order of the calls."""

    def __init__(self, model: Aggregator, bags: Bags, *modules: torch.nn.Module) -> None:
        self.calls: list[tuple[torch.nn.Module, tuple[Tensor, ...]]] = []
        handles = [
            m.register_forward_pre_hook(lambda module, given: self.calls.append((module, given))) for m in modules
        ]
        with torch.no_grad():
            model(bags.x.double(), offsets=bags.offsets, grid=bags.grid, edges=bags.edges)
        for handle in handles:
            handle.remove()


def tiles(n: int) -> Tensor:
    """Rows that are the tiles themselves: (n, n + 1), the last column for what is learned."""
    return torch.eye(n, n + 1, dtype=torch.float64)


def learned(rows: int, n: int) -> Tensor:
    return torch.eye(n + 1, dtype=torch.float64)[n].repeat(rows, 1)


def dense(query: Tensor, key: Tensor, heads: int, scale: float | None = None) -> Tensor:
    """Attention of every row to every row, mean over heads: (rows, keys)."""
    d = query.shape[1] // heads
    scale = d**-0.5 if scale is None else scale
    parts = [slice(h * d, (h + 1) * d) for h in range(heads)]
    return torch.stack([(scale * query[:, p] @ key[:, p].T).softmax(1) for p in parts]).mean(0)


def set_transformer(model, bags):
    layers = [part for isab in model.encoder for part in (isab.gather, isab.scatter)]
    rest = [model.pooling, *([model.between_seeds] if model.between_seeds is not None else [])]
    seen, n = Seen(model, bags, *layers, *rest), len(bags.x)
    matrices = [dense(m.query(x), m.key(y), m.heads, m.scale) for m, (x, _, y, _) in seen.calls]
    rows = tiles(n)
    for isab in range(len(model.encoder)):
        gather, scatter = matrices[2 * isab : 2 * isab + 2]
        points = (learned(len(gather), n) + gather @ rows) / 2
        rows = (rows + scatter @ points) / 2
    pooled = matrices[2 * len(model.encoder)]
    found = (learned(len(pooled), n) + pooled @ rows) / 2
    if model.between_seeds is not None:
        found = (found + matrices[-1] @ found) / 2
    return found.mean(0)


def perceiver(model, bags):
    seen, n = Seen(model, bags, model.first_cross, model.cross, *model.layers), len(bags.x)
    found = learned(len(model.latents), n)
    for module, (z, _, y, _) in seen.calls:
        attention = dense(module.query(module.norm(z)), module.key(module.key_norm(y)), module.heads)
        found = (found + attention @ (found if z is y else tiles(n))) / 2
    return found.mean(0)


def ilra(model, bags):
    modules = [part for block in model.blocks for part in (block.down, block.up)]
    seen, n = Seen(model, bags, *modules, model.pooling), len(bags.x)
    down1, up1, down2, up2, pooled = (dense(m.query(m.project(x)), m.key(y), m.heads) for m, (x, _, y, _) in seen.calls)
    rows = tiles(n)
    for down, up in ((down1, up1), (down2, up2)):
        rows = (rows + up @ (learned(len(down), n) + down @ rows) / 2) / 2
    return ((learned(1, n) + pooled @ rows) / 2)[0]


def gtp(model, bags):
    seen, n = Seen(model, bags, model.assign, *model.blocks), len(bags.x)
    (_, (h,)), *blocks = seen.calls
    shares = model.assign(h).softmax(1)
    rows = torch.cat([learned(1, n), (shares / shares.sum(0)).T @ tiles(n)])
    for block, (tokens,) in blocks:
        query, key, _ = block.qkv(block.norm1(tokens))[0].chunk(3, dim=1)
        rows = (rows + dense(query, key, block.heads) @ rows) / 2
    return rows[0]


def longnet(model, bags):
    seen, n = Seen(model, bags, *(layer.attention_norm for layer in model.layers)), len(bags.x)
    order = sorted(range(n), key=lambda i: (int(bags.grid[i, 1]), int(bags.grid[i, 0])))
    rows = tiles(n)[order]
    if model.class_token is not None:
        rows = torch.cat([learned(1, n), rows])
    for layer, (_, (h,)) in zip(model.layers, seen.calls, strict=True):
        normed = layer.attention_norm(h)
        query, key, d = layer.query(normed), layer.key(normed), h.shape[1] // layer.heads
        mean = torch.zeros(len(h), len(h), dtype=torch.float64)
        for head in range(layer.heads):
            part = slice(head * d, (head + 1) * d)
            weights = (query[:, part] @ key[:, part].T / math.sqrt(d)).exp()
            counted = torch.zeros_like(weights)
            for w, r in zip(layer.segments, layer.dilations, strict=True):
                shift = head // math.ceil(layer.heads / r)
                for i in range(len(h)):
                    for j in range(len(h)):
                        kept = i % w % r == shift and j % w % r == shift
                        counted[i, j] += float(i // w == j // w and kept)
            weights = weights * counted
            mean += weights / weights.sum(1, keepdim=True) / layer.heads
        rows = (rows + mean @ rows) / 2
    return rows.mean(0) if model.class_token is None else rows[0]


def transmil(model, bags):
    seen, n = Seen(model, bags, model.attention1, model.attention2), len(bags.x)
    order = sorted(range(n), key=lambda i: (int(bags.grid[i, 1]), int(bags.grid[i, 0])))
    rows = tiles(n)[order]
    if model.square:
        rows = torch.cat([rows, rows[: math.ceil(math.sqrt(n)) ** 2 - n]])
    rows = torch.cat([learned(1, n), rows])
    for layer, (h, *_) in seen.calls:
        before = -len(h) % layer.landmarks if layer.zero_padding else 0
        h = torch.cat([h.new_zeros(before, h.shape[1]), h])
        m = min(layer.landmarks, len(h))
        query, key = layer.query(h), layer.key_value(h)[:, : h.shape[1]]
        segments = torch.tensor_split(torch.arange(len(h)), m)
        middles, outer, d = [], [], h.shape[1] // layer.heads
        for head in range(layer.heads):
            q, k = (part[:, head * d : (head + 1) * d] for part in (query, key))
            q_means, k_means = (torch.stack([part[s].mean(0) for s in segments]) for part in (q, k))
            middles.append((q_means @ k_means.T / math.sqrt(d)).softmax(1))
            outer.append(((q @ k_means.T / math.sqrt(d)).softmax(1), (q_means @ k.T / math.sqrt(d)).softmax(1)))
        norms = [(a.sum(0).max(), a.sum(1).max()) for a in middles]
        total = torch.zeros(len(h), len(h), dtype=torch.float64)
        for a, (left, right), (column, row) in zip(middles, outer, norms, strict=True):
            z = a.T / (max(c for c, _ in norms) * max(r for _, r in norms) if layer.zero_padding else column * row)
            eye = torch.eye(m, dtype=torch.float64)
            for _ in range(layer.iterations):
                z = 0.25 * z @ (13 * eye - a @ z @ (15 * eye - a @ z @ (7 * eye - a @ z)))
            total += left @ z @ right / layer.heads
        if layer.iterations == 30:  # a landmark for every row, and converged: the exact softmax
            torch.testing.assert_close(total, dense(query, key, layer.heads), atol=1e-4, rtol=0)
        padded = torch.cat([learned(before, n), rows])
        rows = ((padded + total @ padded) / 2)[before:]
    return rows[0]


def rrt(model, bags):
    seen, n = Seen(model, bags, model.within, model.across, model.scores), len(bags.x)
    order = model._regions(bags.grid, bags.offsets)[0]
    rows = tiles(n)[order]
    (_, (h, line, offsets)), (_, (g, _, bag_regions)), (_, (pooled,)) = seen.calls
    region = torch.repeat_interleave(offsets.diff())
    assert bag_regions.tolist() == [0, len(offsets) - 1]
    query, key, d = model.within._query(h, line), model.within.key(h), h.shape[1] // model.within.heads
    same = region[:, None] == region
    mean = torch.zeros(n, n, dtype=torch.float64)
    for head in range(model.within.heads):
        part = slice(head * d, (head + 1) * d)
        scores = query[:, part] @ key[:, part].T / math.sqrt(d)
        mean += scores.masked_fill(~same, -math.inf).softmax(1) / model.within.heads
    rows = (rows + mean @ rows) / 2
    s, across = g @ model.across.phi, model.across
    heard, weight = torch.zeros_like(rows), torch.zeros(n, 1, dtype=torch.float64)
    for k in range(s.shape[1]):
        to = torch.stack([s[:, k].masked_fill(region != r, -math.inf).softmax(0) for r in range(len(offsets) - 1)])
        found = to @ g
        back = dense(across.query(found), across.key(found), across.heads) @ to  # (regions, N)
        for i in range(n):
            mine = s[region == region[i], k]
            spread = float((s[i, k] - mine.min()) / (mine.max() - mine.min() + 1e-8)) if len(mine) > 1 else 0.0
            w = spread * float(s[i].softmax(0)[k])
            heard[i] += w * (back[region[i]] @ rows)
            weight[i] += w
    assert n == 1 or 0.05 < float(weight.max()) <= 1
    rows = (rows + heard) / (1 + weight)
    return model.scores(pooled)[:, 0].softmax(0) @ rows


DENSE = {
    "gtp": gtp, "ilra": ilra, "longnet": longnet, "perceiver": perceiver, "rrt": rrt,
    "set-transformer": set_transformer, "transmil": transmil,
}  # fmt: skip


def test_every_model_that_has_rollout_is_compared():
    assert sorted(DENSE) == rollout_aggregators() == sorted({case.split(",")[0] for case in SMALL})


@pytest.mark.parametrize("case", SMALL)
def test_it_is_the_product_of_the_dense_matrices(case):
    model = build(case)
    bags = make_bags(model, (N,))
    with torch.no_grad():
        expected = DENSE[case.split(",")[0]](model, bags)  # (N + 1,)
    # With what stays with learned rows it is a distribution; the inverse of TransMIL is not exact.
    assert float(expected.sum()) == pytest.approx(1, abs=1e-2 if model.card.name == "transmil" else 1e-12)
    found = rollout_of(model, bags)
    torch.testing.assert_close(found, expected[:N], atol=1e-10, rtol=0)
    spread = float(expected[:N].std() / expected[:N].mean())
    assert spread > 0.02, f"nearly even ({spread:.3f}): the comparison could not fail"
    if model.card.name != "transmil":
        assert float(found.min()) >= 0


@pytest.mark.parametrize("case", SMALL)
def test_of_one_tile_it_is_what_does_not_stay_with_learned_rows(case):
    model = build(case)
    bags = make_bags(model, (1,))
    found = rollout_of(model, bags)
    with torch.no_grad():
        expected = DENSE[case.split(",")[0]](model, bags)
    torch.testing.assert_close(found, expected[:1], atol=1e-10, rtol=0)
    assert float(found) > 0.05


def test_padded_bags_have_it_in_their_own_layout():
    model = build("set-transformer")
    bags = make_bags(model, (4, 7))
    x, mask = pad(bags.x.double(), bags.offsets)
    found = attention_rollout(model, x, mask=mask)
    assert found.shape == (2, 7)
    torch.testing.assert_close(found[mask], rollout_of(model, bags))
    assert not found[~mask].any()


def test_the_model_is_left_as_it_was():
    model = create_aggregator("transmil", in_dim=6, seed=0, embed_dim=8, heads=2, landmarks=4, dropout=0.5)
    model.norm.weight.requires_grad_(False)
    wanted = {name: weight.requires_grad for name, weight in model.named_parameters()}
    bags = make_bags(model, (N,))
    with torch.no_grad():
        first = attention_rollout(model, bags.x, grid=bags.grid)
    assert torch.equal(first, attention_rollout(model, bags.x, grid=bags.grid)), "dropout is left out"
    assert model.training
    assert model.attention1.training
    assert {name: weight.requires_grad for name, weight in model.named_parameters()} == wanted
    assert all(weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize("name", sorted(set(list_aggregators()) - set(DENSE)))
def test_models_without_it_are_refused_by_name(name):
    model = create_aggregator(name, in_dim=8, classes=2, seed=0)
    bags = make_bags(model, (5,))
    with pytest.raises(
        ConfigError, match=f"aggregator '{name}' has no attention rollout; those that have: gtp, ilra, "
    ):
        attention_rollout(model, bags.x, grid=bags.grid, edges=bags.edges)


class OneLayer(Aggregator):
    """Somebody else's: one attention of a query to all, with a residual path."""

    card = AggregatorCard("one-layer", "", "", "", "", attention=False, rollout=True)

    def __init__(self) -> None:
        super().__init__(3, 3)

    def pool(self, x, offsets, grid, edges):
        return AggregatorOutput(segment_mean(x, offsets))

    def carry(self, marks, x, offsets, grid, edges):
        return segment_mean(marks[:, None], offsets)[:, 0] / 2


def test_a_model_of_ones_own_needs_carry_alone():
    found = attention_rollout(OneLayer(), torch.zeros(5, 3), offsets=torch.tensor([0, 1, 5]))
    torch.testing.assert_close(found, torch.tensor([0.5, *[0.125] * 4]))
