"""GraphSAGE: the mean of the neighbours beside the tile itself, Hamilton et al. 2017."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from wsikit.aggregators.base import AggregatorCard
from wsikit.aggregators.graph_network import GraphNetwork
from wsikit.aggregators.registry import register_aggregator
from wsikit.layers.message_passing import Neighbours, neighbour_mean

CARD = AggregatorCard(
    name="graphsage",
    summary="graph network: a tile beside the mean of its neighbours, then gated attention",
    paper="Hamilton, Ying, Leskovec 2017, Inductive Representation Learning on Large Graphs, arXiv:1706.02216",
    repository="https://github.com/williamleif/GraphSAGE",
    licence="MIT",
    uses_edges=True,
)


class SageConvolution(nn.Module):
    """``h_i <- W [h_i, mean of h_j over the neighbours j] + b``: algorithm 1, line 5, with the mean aggregator."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.own = nn.Linear(width, width)
        self.heard = nn.Linear(width, width, bias=False)

    def forward(self, h: Tensor, graph: Neighbours) -> Tensor:
        """Tiles (N, E) -> (N, E)."""
        y: Tensor = self.own(h) + self.heard(neighbour_mean(h, graph))
        return y


@register_aggregator(CARD)
class GraphSage(GraphNetwork):
    """The mean aggregator of GraphSAGE in the frame of :class:`~wsikit.aggregators.graph_network.GraphNetwork`.

    All neighbours are heard: the paper samples some, for graphs with hubs of thousands, which tiles do not
    have. The frame's norm stands in place of the paper's division by the length (line 7).

    Args:
        in_dim: D.
        embed_dim: E.
        layers: K of the paper, 2 there.
        attention_dim: Width inside the attention.
        dropout: In training.

    Example:
        >>> import torch
        >>> there_and_back = torch.tensor([[0, 1], [1, 0]])
        >>> GraphSage(16)(torch.zeros(3, 16), edges=there_and_back).embedding.shape
        torch.Size([1, 128])
    """

    card = CARD

    def __init__(
        self, in_dim: int, *, embed_dim: int = 128, layers: int = 2, attention_dim: int = 64, dropout: float = 0.0
    ) -> None:
        convolution = partial(SageConvolution, embed_dim)
        super().__init__(
            in_dim, convolution, embed_dim=embed_dim, layers=layers, attention_dim=attention_dim, dropout=dropout
        )
