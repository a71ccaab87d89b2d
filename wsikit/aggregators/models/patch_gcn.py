"""Patch-GCN: residual graph convolutions over the tiles' places, then attention pooling, Chen et al. 2021."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wsikit.aggregators.base import Aggregator, AggregatorCard, AggregatorOutput
from wsikit.aggregators.options import at_least_one, below_one
from wsikit.aggregators.registry import register_aggregator
from wsikit.layers.gated_attention import AttentionScores
from wsikit.layers.message_passing import Neighbours, neighbour_softmax_sum, neighbours
from wsikit.layers.packed import segment_softmax, segment_weighted_sum

CARD = AggregatorCard(
    name="patch-gcn",
    summary="residual graph convolutions over neighbouring tiles, all depths side by side, then gated attention",
    paper=(
        "Chen et al. 2021, Whole Slide Images are 2D Point Clouds: Context-Aware Survival Prediction using "
        "Patch-based Graph Convolutional Networks, arXiv:2107.13048"
    ),
    repository="https://github.com/mahmoodlab/Patch-GCN",
    licence="GPL-3.0",
    uses_edges=True,
    graph={"kind": "knn", "k": 8, "symmetric": False},
)


class GenConvolution(nn.Module):
    """``h_i <- MLP(h_i + sum of a_ij m_j over the neighbours j)`` of DeeperGCN.

    ``m_j = relu(h_j) + 1e-7``; ``a_ij`` is the softmax over the neighbours of ``t m_j``, channel by channel,
    and t is learnt from 1. The MLP widens by 2, with a norm over the width of each tile.

    Reference:
        Li, Xiong, Thabet, Ghanem 2020, DeeperGCN: All You Need to Train Deeper GCNs, arXiv:2006.07739, eq. 3 and 4.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(()))
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.LayerNorm(2 * width), nn.ReLU(inplace=True), nn.Linear(2 * width, width)
        )

    def forward(self, h: Tensor, graph: Neighbours) -> Tensor:
        """Tiles (N, E) -> (N, E)."""
        y: Tensor = self.mlp(h + neighbour_softmax_sum(h.relu() + 1e-7, self.temperature, graph))
        return y


@register_aggregator(CARD)
class PatchGcn(Aggregator):
    """Tiles hear their surroundings over several convolutions; attention pools what they were at each depth.

    ``h0 = dropout(relu(W x))``, ``h1 = conv(h0)``, then ``h <- dropout(h + relu(norm(conv(h))))``; tiles are
    ``phi([h0, h1, h2, ...])``, pooled by gated attention (Ilse et al. 2018, eq. 9), and rho of that is the
    embedding; phi and rho are a linear layer with ReLU and dropout. All of it as in the authors' code; the
    paper's text gives the convolution (sec. 2.2) and the pooling.

    The convolution is that of PyTorch Geometric 1.6.3, with which the authors worked: a norm over the width of
    each tile and biases in its MLP. In version 2 the same call norms over all tiles of all bags at once. The
    paper's graph joins each tile to the 8 nearest by place, one way.

    Args:
        in_dim: D.
        hidden_dim: Width of a tile at each depth; E = (convolutions + 1) hidden_dim.
        convolutions: How many; the authors' ``num_layers`` is one more.
        dropout: In training, of W, phi, the attention and rho.
        residual_dropout: In training, after each residual layer.

    Example:
        >>> there_and_back = torch.tensor([[0, 1], [1, 0]])
        >>> PatchGcn(16)(torch.zeros(3, 16), edges=there_and_back).embedding.shape
        torch.Size([1, 512])
    """

    card = CARD

    def __init__(
        self,
        in_dim: int,
        *,
        hidden_dim: int = 128,
        convolutions: int = 3,
        dropout: float = 0.25,
        residual_dropout: float = 0.1,
    ) -> None:
        at_least_one("patch-gcn", hidden_dim=hidden_dim, convolutions=convolutions)
        below_one("patch-gcn", dropout=dropout, residual_dropout=residual_dropout)
        width = (convolutions + 1) * hidden_dim
        super().__init__(in_dim, width)
        self.project = _dense(in_dim, hidden_dim, dropout)
        self.convolutions = nn.ModuleList(GenConvolution(hidden_dim) for _ in range(convolutions))
        self.norms = nn.ModuleList(nn.LayerNorm(hidden_dim) for _ in range(convolutions - 1))  # not of the first
        self.residual_dropout = nn.Dropout(residual_dropout)
        self.phi = _dense(width, width, dropout)
        self.scores = AttentionScores(width, attention_dim=width, dropout=dropout)
        self.rho = _dense(width, width, dropout)

    def pool(self, x: Tensor, offsets: Tensor, grid: Tensor | None, edges: Tensor | None) -> AggregatorOutput:
        """Convolutions, attention pooling; see :class:`Aggregator`."""
        assert edges is not None
        graph = neighbours(edges, len(x))
        h = self.project(x)  # (sum N, hidden_dim)
        depths = [h]
        h = self.convolutions[0](h, graph)
        depths.append(h)
        for convolution, norm in zip(self.convolutions[1:], self.norms, strict=True):
            h = self.residual_dropout(h + norm(convolution(h, graph)).relu())
            depths.append(h)
        tiles = self.phi(torch.cat(depths, dim=1))  # (sum N, E)
        attention = segment_softmax(self.scores(tiles)[:, 0], offsets)  # (sum N,)
        return AggregatorOutput(self.rho(segment_weighted_sum(tiles, attention, offsets)), attention)


def _dense(in_dim: int, out_dim: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(in_dim, out_dim), nn.ReLU(inplace=True), nn.Dropout(dropout))
