"""GTP: a graph convolution, min-cut pooling to a hundred nodes, and a transformer over these, Zheng et al. 2022."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from wsikit.aggregators.base import Aggregator, AggregatorCard, AggregatorOutput
from wsikit.aggregators.options import at_least_one, below_one, multiple_of_heads
from wsikit.aggregators.registry import register_aggregator
from wsikit.layers.message_passing import Neighbours, neighbour_sum, neighbours
from wsikit.layers.packed import bag_index, segment_sum, segment_weighted_sum

CARD = AggregatorCard(
    name="gtp",
    summary="graph convolution over touching tiles, min-cut pooling to K nodes, transformer over the nodes",
    paper="Zheng et al. 2022, A Graph-Transformer for Whole Slide Image Classification, arXiv:2205.09671",
    repository="https://github.com/vkola-lab/tmi2022",
    licence="MIT",
    uses_edges=True,
    rollout=True,
    graph={"kind": "grid", "k": 8},
)


class Block(nn.Module):
    """A layer of a vision transformer: norm before attention and before the MLP, no bias in q, k and v."""

    def __init__(self, width: int, *, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)
        self.widen, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, T, E) -> tokens, and the attention of each to each (B, H, T, T)."""
        qkv = self.qkv(self.norm1(tokens)).unflatten(2, (3, self.heads, -1))  # (B, T, 3, H, E / H)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, H, T, E / H) each
        attention = (q @ k.transpose(2, 3) * q.shape[3] ** -0.5).softmax(dim=3)
        mixed = (attention.to(v.dtype) @ v).transpose(1, 2).flatten(2)  # (B, T, E)
        tokens = tokens + self.dropout(self.proj(mixed))
        tokens = tokens + self.dropout(self.narrow(self.dropout(gelu(self.widen(self.norm2(tokens))))))
        return tokens, attention


@register_aggregator(CARD)
class Gtp(Aggregator):
    """Tiles hear their neighbours once, share K nodes among them, and a transformer reads the nodes.

    1. ``H = relu(A^ X W + b)``, ``A^ = D^-1/2 (A + I) D^-1/2`` with D the degrees of A + I.
    2. ``S = softmax(H W_s)``, (N, K), and nodes ``S' H``, (K, E): min-cut pooling (Bianchi et al. 2020,
       arXiv:1907.00481), whose two losses are the ``penalty``: ``- trace(S' A S) / trace(S' D S)`` (0 without
       edges) and ``|S'S / |S'S| - I / sqrt(K)|`` in Frobenius norms.
    3. A class token and the nodes, without places, through a transformer; the embedding is the class token.

    Widths and layers are those of the authors' code. In step 1 that has ``(A + I) X W + b``, divided by its length,
    and a batch norm in place of the ReLU; a batch norm over all tiles of a batch makes a patient's answer depend on
    the others, so step 1 is as in the paper.

    The attention of a tile is that which the class token pays in the last layer to the nodes, mean of
    the heads, divided among the tiles of each node. The paper's GraphCAM is another, by class.

    Args:
        in_dim: D.
        embed_dim: E; a multiple of ``heads``.
        nodes: K.
        layers: Of the transformer.
        heads: H of each.
        dropout: In training, in the transformer.

    Example:
        >>> there_and_back = torch.tensor([[0, 1], [1, 0]])
        >>> Gtp(16)(torch.zeros(3, 16), edges=there_and_back).embedding.shape
        torch.Size([1, 64])
    """

    card = CARD

    def __init__(
        self,
        in_dim: int,
        *,
        embed_dim: int = 64,
        nodes: int = 100,
        layers: int = 3,
        heads: int = 8,
        dropout: float = 0.0,
    ) -> None:
        at_least_one("gtp", embed_dim=embed_dim, nodes=nodes, layers=layers, heads=heads)
        below_one("gtp", dropout=dropout)
        multiple_of_heads("gtp", embed_dim, heads)
        super().__init__(in_dim, embed_dim)
        self.weight = nn.Linear(in_dim, embed_dim, bias=False)
        self.bias = nn.Parameter(torch.zeros(embed_dim))
        self.assign = nn.Linear(embed_dim, nodes)
        self.token = nn.Parameter(torch.zeros(embed_dim))
        self.blocks = nn.ModuleList(Block(embed_dim, heads=heads, dropout=dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(embed_dim)

    def pool(self, x: Tensor, offsets: Tensor, grid: Tensor | None, edges: Tensor | None) -> AggregatorOutput:
        """Convolution, min-cut pooling, transformer; see :class:`Aggregator`. The penalty is (B,)."""
        assert edges is not None
        graph = neighbours(edges[:, edges[0] != edges[1]], len(x))
        tokens, shares = self._nodes(x, offsets, graph)
        attention = tokens.new_zeros(())
        for block in self.blocks:
            tokens, attention = block(tokens)
        looked_at = attention[:, :, 0, 1:].mean(1)  # (B, K), what the class token looks at
        return AggregatorOutput(
            self.norm(tokens[:, 0]),
            _among_tiles(looked_at, shares, offsets),
            penalty=mincut_losses(shares, graph, offsets).sum(1),
        )

    def carry(self, marks: Tensor, x: Tensor, offsets: Tensor, grid: Tensor | None, edges: Tensor | None) -> Tensor:
        """From tiles to nodes by the shares, and through the transformer; see :class:`Aggregator`.

        A node's mark is the mean of its tiles', weighted by their shares in it. The graph convolution passes tiles on.
        """
        assert edges is not None
        tokens, shares = self._nodes(x, offsets, neighbours(edges[:, edges[0] != edges[1]], len(x)))
        shares = shares.to(torch.promote_types(shares.dtype, torch.float32))
        whole = segment_sum(shares, offsets).clamp(min=torch.finfo(shares.dtype).tiny)  # (B, K)
        found = segment_weighted_sum(shares, marks, offsets) / whole
        found = torch.cat([found.new_zeros(len(found), 1), found], dim=1)  # (B, 1 + K)
        for block in self.blocks:
            tokens, attention = block(tokens)
            found = (found + (attention.mean(1).to(found.dtype) @ found[:, :, None])[:, :, 0]) / 2
        return found[:, 0]

    def _nodes(self, x: Tensor, offsets: Tensor, graph: Neighbours) -> tuple[Tensor, Tensor]:
        """The class token and the nodes (B, 1 + K, E), and the share of each tile in each node (sum N, K)."""
        h = self._convolve(x, graph)  # (sum N, E)
        shares = self.assign(h).softmax(dim=1)
        tokens = segment_weighted_sum(h, shares, offsets)  # (B, K, E)
        return torch.cat([self.token.expand(len(tokens), 1, -1), tokens], dim=1), shares

    def _convolve(self, x: Tensor, graph: Neighbours) -> Tensor:
        h = self.weight(x)
        scale = (graph.degree + 1).to(h.dtype).rsqrt()[:, None]
        heard: Tensor = scale * (neighbour_sum(scale * h, graph) + scale * h)
        return (heard + self.bias).relu()


def mincut_losses(shares: Tensor, graph: Neighbours, offsets: Tensor) -> Tensor:
    """The cut loss (Bianchi et al., eq. 9, first term) and the orthogonality loss (second) of each bag, (B, 2).

    Args:
        shares: S, (sum N, K): what share of each tile is in which node.
        graph: Without self loops.
        offsets: (B + 1,).
    """
    shares = shares.to(torch.promote_types(shares.dtype, torch.float32))
    inside = segment_sum((shares * neighbour_sum(shares, graph)).sum(1), offsets)  # (B,) trace(S' A S)
    total = segment_sum(graph.degree * shares.square().sum(1), offsets)  # (B,) trace(S' D S)
    cut = -inside / total.masked_fill(total == 0, 1)
    overlap = segment_weighted_sum(shares, shares, offsets)  # (B, K, K) S' S
    overlap = overlap / overlap.norm(dim=(1, 2), keepdim=True)
    k = shares.shape[1]
    apart = (overlap - torch.eye(k, device=shares.device, dtype=overlap.dtype) / k**0.5).norm(dim=(1, 2))
    return torch.stack([cut, apart], dim=1)


def _among_tiles(looked_at: Tensor, shares: Tensor, offsets: Tensor) -> Tensor:
    """Attention of nodes (B, K), divided among the tiles by their shares of each: (sum N,), sums to 1 over a bag."""
    shares, bag = shares.to(torch.promote_types(shares.dtype, torch.float32)), bag_index(offsets)
    tiny = torch.finfo(shares.dtype).tiny
    each = looked_at.to(shares.dtype) / segment_sum(shares, offsets).clamp(min=tiny)  # (B, K)
    attention = (shares * each[bag]).sum(1)
    return attention / segment_sum(attention, offsets)[bag].clamp(min=tiny)
