"""GIN: the sum of the neighbours through a small network, Xu et al. 2019."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from wsikit.aggregators.base import AggregatorCard
from wsikit.aggregators.graph_network import GraphNetwork
from wsikit.aggregators.registry import register_aggregator
from wsikit.layers.message_passing import Neighbours, neighbour_sum

CARD = AggregatorCard(
    name="gin",
    summary="graph network: sums of neighbours through a small network (GIN), then gated attention",
    paper="Xu, Hu, Leskovec, Jegelka 2019, How Powerful are Graph Neural Networks?, arXiv:1810.00826",
    repository="https://github.com/weihua916/powerful-gnns",
    licence="MIT",
    uses_edges=True,
)


class GinConvolution(nn.Module):
    """``h_i <- MLP((1 + eps) h_i + sum of h_j over the neighbours j)``: eq. 4.1, with an MLP of two layers."""

    def __init__(self, width: int, *, learn_eps: bool) -> None:
        super().__init__()
        self.eps = nn.Parameter(torch.zeros(())) if learn_eps else 0.0
        self.mlp = nn.Sequential(
            nn.Linear(width, width), nn.LayerNorm(width), nn.ReLU(inplace=True), nn.Linear(width, width)
        )

    def forward(self, h: Tensor, graph: Neighbours) -> Tensor:
        """Tiles (N, E) -> (N, E)."""
        y: Tensor = self.mlp((1 + self.eps) * h + neighbour_sum(h, graph))
        return y


@register_aggregator(CARD)
class Gin(GraphNetwork):
    """GIN's convolution in the frame of :class:`~wsikit.aggregators.graph_network.GraphNetwork`.

    The authors' code has a batch norm inside the MLP; here it is a norm over the width of each tile. The
    paper's readout (the sums of all layers side by side) is the frame's attention.

    Args:
        in_dim: D.
        embed_dim: E.
        layers: Convolutions; the authors' code has 4.
        learn_eps: Whether eps is learnt (GIN-eps); the paper found 0 (GIN-0) as good or better.
        attention_dim: Width inside the attention.
        dropout: In training.

    Example:
        >>> there_and_back = torch.tensor([[0, 1], [1, 0]])
        >>> Gin(16)(torch.zeros(3, 16), edges=there_and_back).embedding.shape
        torch.Size([1, 128])
    """

    card = CARD

    def __init__(
        self,
        in_dim: int,
        *,
        embed_dim: int = 128,
        layers: int = 4,
        learn_eps: bool = False,
        attention_dim: int = 64,
        dropout: float = 0.0,
    ) -> None:
        convolution = partial(GinConvolution, embed_dim, learn_eps=learn_eps)
        super().__init__(
            in_dim, convolution, embed_dim=embed_dim, layers=layers, attention_dim=attention_dim, dropout=dropout
        )
