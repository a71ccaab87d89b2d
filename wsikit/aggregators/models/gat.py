"""GATv2: attention over the neighbours, Brody et al. 2022."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from wsikit.aggregators.base import AggregatorCard, AggregatorOutput
from wsikit.aggregators.graph_network import GraphNetwork
from wsikit.aggregators.options import at_least_one, multiple_of_heads
from wsikit.aggregators.registry import register_aggregator
from wsikit.layers.message_passing import BLOCK_VALUES, Neighbours, edge_softmax, neighbour_weighted_sum

CARD = AggregatorCard(
    name="gat",
    summary="graph network: each tile attends to its neighbours (GATv2), then gated attention",
    paper="Brody, Alon, Yahav 2022, How Attentive are Graph Attention Networks?, arXiv:2105.14491",
    repository="https://github.com/tech-srl/how_attentive_are_gats",
    licence="none",
    uses_edges=True,
)


class GatConvolution(nn.Module):
    """Eq. 7 of Brody et al. for H heads, side by side.

    ``e_ij = a . leaky_relu(W_r h_i + W_l h_j)``, ``alpha_ij = softmax over the neighbours j of e_ij``,
    ``h_i <- sum of alpha_ij W_l h_j + b``. A tile is a neighbour of its own. The leak is 0.2, as in the paper.
    """

    def __init__(self, width: int, *, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.left = nn.Linear(width, width)
        self.right = nn.Linear(width, width)
        self.score = nn.Parameter(nn.init.xavier_uniform_(torch.empty(heads, width // heads)))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, h: Tensor, graph: Neighbours) -> Tensor:
        """Tiles (N, E) -> (N, E). The graph must have self loops."""
        left = self.left(h).unflatten(1, (self.heads, -1))  # (N, H, E / H)
        right = self.right(h).unflatten(1, (self.heads, -1))
        step = max(1, BLOCK_VALUES // h.shape[1])
        # Worked out again in the backward pass: (edges, E) is not kept.
        blocks = [
            checkpoint(self._scores, left, right, source, target, use_reentrant=False, preserve_rng_state=False)
            for source, target in zip(torch.split(graph.source, step), torch.split(graph.target, step), strict=True)
        ]
        weights = edge_softmax(torch.cat(blocks), graph)  # (M, H)
        return neighbour_weighted_sum(left, weights, graph).flatten(1) + self.bias

    def _scores(self, left: Tensor, right: Tensor, source: Tensor, target: Tensor) -> Tensor:
        heard = nn.functional.leaky_relu(left[source] + right[target], 0.2)  # (block, H, E / H)
        return (heard * self.score).sum(-1)


@register_aggregator(CARD)
class Gat(GraphNetwork):
    """GATv2's convolution in the frame of :class:`~wsikit.aggregators.graph_network.GraphNetwork`.

    Args:
        in_dim: D.
        embed_dim: E, shared by the heads.
        layers: Convolutions.
        heads: H of each; must divide ``embed_dim``.
        attention_dim: Width inside the attention of the pooling.
        dropout: In training; on tiles, not on the weights of edges.

    Example:
        >>> there_and_back = torch.tensor([[0, 1], [1, 0]])
        >>> Gat(16)(torch.zeros(3, 16), edges=there_and_back).embedding.shape
        torch.Size([1, 128])
    """

    card = CARD

    def __init__(
        self,
        in_dim: int,
        *,
        embed_dim: int = 128,
        layers: int = 2,
        heads: int = 4,
        attention_dim: int = 64,
        dropout: float = 0.0,
    ) -> None:
        at_least_one("gat", heads=heads)
        multiple_of_heads("gat", embed_dim, heads)
        convolution = partial(GatConvolution, embed_dim, heads=heads)
        super().__init__(
            in_dim, convolution, embed_dim=embed_dim, layers=layers, attention_dim=attention_dim, dropout=dropout
        )

    def pool(self, x: Tensor, offsets: Tensor, grid: Tensor | None, edges: Tensor | None) -> AggregatorOutput:
        """As :meth:`GraphNetwork.pool`, on the edges and one from each tile to itself."""
        assert edges is not None
        itself = torch.arange(len(x), device=x.device)
        edges = torch.cat([edges[:, edges[0] != edges[1]], torch.stack([itself, itself])], dim=1)
        return super().pool(x, offsets, grid, edges)
