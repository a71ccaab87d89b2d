"""What the general graph networks share: a projection, residual layers of one convolution, attention pooling."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from wsikit.aggregators.base import Aggregator, AggregatorOutput
from wsikit.aggregators.options import at_least_one, below_one
from wsikit.layers.gated_attention import AttentionScores
from wsikit.layers.message_passing import neighbours
from wsikit.layers.packed import segment_softmax, segment_weighted_sum


class GraphNetwork(Aggregator):
    """Tiles hear their neighbours a few times over, then gated attention pools them.

    ``h = dropout(relu(W x))``, then in each layer ``h <- h + dropout(relu(norm(conv(h, neighbours))))``, then
    ``z = sum of a h`` with the gated attention of Ilse et al. 2018 (eq. 7 and 9).

    Only the convolution is from the paper that a subclass names. The rest is ours and the same for all of
    them, so that they can be compared: residual layers, and a norm over the width of each tile. A norm over
    the tiles of a batch, which some papers have, would make a patient's answer depend on who else is in it.

    Args:
        in_dim: D.
        convolution: Makes a layer's convolution: called as ``conv(h, neighbours)``, (N, E) -> (N, E).
        embed_dim: E, the width of the tiles and of the embedding.
        layers: Convolutions one after the other: how many steps away a tile is heard.
        attention_dim: Width inside the attention.
        dropout: In training, after the projection and each layer, and inside the attention.
    """

    def __init__(
        self,
        in_dim: int,
        convolution: Callable[[], nn.Module],
        *,
        embed_dim: int,
        layers: int,
        attention_dim: int,
        dropout: float,
    ) -> None:
        at_least_one(self.card.name, embed_dim=embed_dim, layers=layers, attention_dim=attention_dim)
        below_one(self.card.name, dropout=dropout)
        super().__init__(in_dim, embed_dim)
        self.project = nn.Sequential(nn.Linear(in_dim, embed_dim), nn.ReLU(inplace=True), nn.Dropout(dropout))
        self.convolutions = nn.ModuleList(convolution() for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(embed_dim) for _ in range(layers))
        self.dropout = nn.Dropout(dropout)
        self.scores = AttentionScores(embed_dim, attention_dim=attention_dim, dropout=dropout)

    def pool(self, x: Tensor, offsets: Tensor, grid: Tensor | None, edges: Tensor | None) -> AggregatorOutput:
        """Projection, layers, attention pooling; see :class:`Aggregator`."""
        assert edges is not None
        graph = neighbours(edges, len(x))
        h = self.project(x)  # (sum N, E)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            h = h + self.dropout(norm(convolution(h, graph)).relu())  # (sum N, E)
        attention = segment_softmax(self.scores(h)[:, 0], offsets)  # (sum N,)
        return AggregatorOutput(segment_weighted_sum(h, attention, offsets), attention)
