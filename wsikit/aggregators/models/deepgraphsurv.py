"""DeepGraphSurv: spectral convolutions and attention over a graph of similar tiles, Li et al. 2018."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wsikit.aggregators.base import Aggregator, AggregatorCard, AggregatorOutput
from wsikit.aggregators.options import at_least_one, below_one
from wsikit.aggregators.registry import register_aggregator
from wsikit.layers.message_passing import Neighbours, neighbour_sum, neighbours
from wsikit.layers.packed import segment_softmax, segment_weighted_sum

CARD = AggregatorCard(
    name="deepgraphsurv",
    summary="spectral (Chebyshev) convolutions over tiles that look alike; attention from a branch of its own",
    paper=(
        "Li, Yao, Zhu, Li, Huang 2018, Graph CNN for Survival Analysis on Whole Slide Pathological Images, MICCAI, "
        "doi:10.1007/978-3-030-00934-2_20"
    ),
    repository="https://github.com/uta-smile/DeepGraphSurv",
    licence="none",
    uses_edges=True,
    graph={"kind": "features", "k": 8, "metric": "euclidean"},
)


class ChebyshevConvolution(nn.Module):
    """``y = sum of T_k(L) x W_k over k < K, + b``, with L the scaled Laplacian and T_k Chebyshev's polynomials.

    ``L = 2 / l (I - D^-1/2 A D^-1/2) - I`` with 2 for its largest eigenvalue l, the bound for any graph:
    ``L = -D^-1/2 A D^-1/2``. The sum is Clenshaw's: W_k comes first, so that what travels along the edges is as
    wide as the output, not as the input. A tile without neighbours has L x = 0.

    Reference:
        Defferrard, Bresson, Vandergheynst 2016, arXiv:1606.09375, eq. 4.
    """

    def __init__(self, in_dim: int, out_dim: int, *, order: int) -> None:
        super().__init__()
        self.weights = nn.ModuleList(nn.Linear(in_dim, out_dim, bias=k == 0) for k in range(order))

    def forward(self, x: Tensor, graph: Neighbours) -> Tensor:
        """Tiles (N, D) -> (N, E)."""
        scale = graph.degree.clamp(min=1).to(x.dtype).rsqrt()[:, None]

        def laplacian(h: Tensor) -> Tensor:
            return -scale * neighbour_sum(scale * h, graph)

        terms: list[Tensor] = [weight(x) for weight in self.weights]  # (N, E) each
        here, after = terms[-1], torch.zeros_like(terms[0])
        for term in terms[-2:0:-1]:
            here, after = term + 2 * laplacian(here) - after, here
        return here if len(terms) == 1 else terms[0] + laplacian(here) - after


@register_aggregator(CARD)
class DeepGraphSurv(Aggregator):
    """Two branches over the same graph: one makes the tiles' features, the other the attention that pools them.

    ``h <- dropout(relu(conv(h)))`` in each branch, ``a = softmax over the bag of w . h_attention``, ``z = sum of
    a h``. The authors' repository holds the training script, without the layers. It chooses between a graph that is
    learnt with the weights (``agcn``), for which all pairs of tiles are compared, and a given one (``chebyshev``):
    this is the latter, with attention, on the graph of the nearest features. Widths and order are ours.

    Args:
        in_dim: D.
        hidden_dim: E, width of the tiles.
        attention_dim: Width of the attention's branch.
        layers: Convolutions of the first branch; the attention's has one.
        order: K, the number of terms: a layer hears tiles up to K - 1 steps away.
        dropout: In training.

    Example:
        >>> there_and_back = torch.tensor([[0, 1], [1, 0]])
        >>> DeepGraphSurv(16)(torch.zeros(3, 16), edges=there_and_back).embedding.shape
        torch.Size([1, 128])
    """

    card = CARD

    def __init__(
        self,
        in_dim: int,
        *,
        hidden_dim: int = 128,
        attention_dim: int = 64,
        layers: int = 2,
        order: int = 3,
        dropout: float = 0.0,
    ) -> None:
        at_least_one("deepgraphsurv", hidden_dim=hidden_dim, attention_dim=attention_dim, layers=layers, order=order)
        below_one("deepgraphsurv", dropout=dropout)
        super().__init__(in_dim, hidden_dim)
        widths = [in_dim, *[hidden_dim] * layers]
        self.representation = nn.ModuleList(
            ChebyshevConvolution(width, hidden_dim, order=order) for width in widths[:-1]
        )
        self.attention = ChebyshevConvolution(in_dim, attention_dim, order=order)
        self.score = nn.Linear(attention_dim, 1, bias=False)  # a bias would shift all scores of a bag alike
        self.dropout = nn.Dropout(dropout)

    def pool(self, x: Tensor, offsets: Tensor, grid: Tensor | None, edges: Tensor | None) -> AggregatorOutput:
        """Both branches and the pooling; see :class:`Aggregator`."""
        assert edges is not None
        graph = neighbours(edges, len(x))
        h = x
        for convolution in self.representation:
            h = self.dropout(convolution(h, graph).relu())  # (sum N, E)
        scores = self.score(self.dropout(self.attention(x, graph).relu()))[:, 0]
        attention = segment_softmax(scores, offsets)  # (sum N,)
        return AggregatorOutput(segment_weighted_sum(h, attention, offsets), attention)
