"""GTP against dense matrices in float64: the convolution, min-cut pooling with its losses, the transformer."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import gelu, layer_norm

from wsikit.aggregators.models.gtp import mincut_losses
from wsikit.aggregators.registry import create_aggregator
from wsikit.errors import ConfigError
from wsikit.layers.message_passing import neighbours


def path(n, start=0):
    here = torch.arange(start, start + n - 1)
    return torch.stack([torch.cat([here, here + 1]), torch.cat([here + 1, here])])


def dense(edges, n):
    adjacency = torch.zeros(n, n, dtype=torch.float64)
    adjacency[edges[1], edges[0]] = 1
    return adjacency


def transformer(model, tokens):
    """Block after block, head after head."""
    for block in model.blocks:
        width = tokens.shape[1]
        q, k, v = (layer_norm(tokens, (width,), block.norm1.weight, block.norm1.bias, 1e-6) @ block.qkv.weight.T).chunk(
            3, dim=1
        )
        size, heads, looked = width // block.heads, [], []
        for h in range(block.heads):
            part = slice(h * size, (h + 1) * size)
            weight = (q[:, part] @ k[:, part].T / size**0.5).softmax(1)
            heads.append(weight @ v[:, part])
            looked.append(weight[0, 1:])
        tokens = tokens + torch.cat(heads, 1) @ block.proj.weight.T + block.proj.bias
        inner = gelu(block.widen(layer_norm(tokens, (width,), block.norm2.weight, block.norm2.bias, 1e-6)))
        tokens = tokens + block.narrow(inner)
    return model.norm(tokens)[0], torch.stack(looked).mean(0)


def test_output_and_losses_are_those_of_dense_matrices(geometric):
    model = create_aggregator("gtp", in_dim=6, embed_dim=8, nodes=5, layers=2, heads=2, seed=0).double().eval()
    torch.nn.init.normal_(model.token, generator=torch.Generator().manual_seed(5))
    sizes, offsets = [9, 14], torch.tensor([0, 9, 23])
    x = torch.randn(23, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    edges = torch.cat([path(9), torch.tensor([[0, 4], [4, 0]]), path(14, 9)], dim=1)
    found = model(x, offsets=offsets, edges=edges)
    for b, (start, n) in enumerate(zip(offsets.tolist(), sizes, strict=False)):
        mine = edges[:, (edges[0] >= start) & (edges[0] < start + n)] - start
        adjacency, own = dense(mine, n), x[start : start + n]
        looped = adjacency + torch.eye(n, dtype=torch.float64)
        scale = looped.sum(1).rsqrt()
        h = (scale[:, None] * looped * scale @ own @ model.weight.weight.T + model.bias).clamp(min=0)
        logits = model.assign(h)
        nodes, _, cut, apart = geometric.dense_mincut_pool(h, adjacency, logits)
        embedding, looked = transformer(model, torch.cat([model.token[None], nodes[0]]))
        torch.testing.assert_close(found.embedding[b], embedding, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(found.penalty[b], cut + apart, rtol=1e-10, atol=1e-12)
        shares = logits.softmax(1)
        attention = (shares / shares.sum(0)) @ (looked / looked.sum())
        torch.testing.assert_close(found.attention[start : start + n], attention, rtol=1e-10, atol=1e-12)


def test_the_cut_of_two_islands_is_perfect_and_of_one_node_is_not():
    edges = torch.cat([path(4), path(4, 4)], dim=1)
    graph, offsets = neighbours(edges, 8), torch.tensor([0, 8])
    islands = torch.eye(2).repeat_interleave(4, dim=0)
    torch.testing.assert_close(mincut_losses(islands, graph, offsets), torch.tensor([[-1.0, 0.0]]))
    across = torch.eye(2).repeat(4, 1)  # each edge is cut
    torch.testing.assert_close(mincut_losses(across, graph, offsets), torch.tensor([[0.0, 0.0]]))
    lumped = torch.eye(2)[[0] * 8]
    assert mincut_losses(lumped, graph, offsets)[0, 1] > 0.7


def test_bags_without_edges_have_no_cut_and_finite_gradients():
    model = create_aggregator("gtp", in_dim=6, embed_dim=8, nodes=5, heads=2, seed=0)
    found = model(torch.randn(3, 6), edges=torch.zeros(2, 0, dtype=torch.int64))
    found.penalty.sum().backward()
    assert found.penalty.isfinite().all()
    assert model.assign.weight.grad.isfinite().all()


def test_self_loops_that_are_given_change_nothing():
    model = create_aggregator("gtp", in_dim=6, embed_dim=8, nodes=5, heads=2, seed=0).eval()
    x, here = torch.randn(7, 6), torch.arange(7)
    plain = model(x, edges=path(7))
    looped = model(x, edges=torch.cat([path(7), torch.stack([here, here])], dim=1))
    assert torch.equal(plain.embedding, looped.embedding)
    assert torch.equal(plain.penalty, looped.penalty)


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="'gtp': embed_dim=10; expected a multiple of heads=8"):
        create_aggregator("gtp", in_dim=6, embed_dim=10)
