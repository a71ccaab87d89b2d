"""ABMIL: attention-based pooling, Ilse et al. 2018."""

from __future__ import annotations

from torch import Tensor, nn

from wsikit.aggregators.base import Aggregator, AggregatorCard, AggregatorOutput
from wsikit.aggregators.options import at_least_one, below_one
from wsikit.aggregators.registry import register_aggregator
from wsikit.layers.gated_attention import AttentionScores
from wsikit.layers.packed import segment_softmax, segment_weighted_sum

CARD = AggregatorCard(
    name="abmil",
    summary="attention-weighted mean, gated",
    paper="Ilse, Tomczak, Welling 2018, Attention-based Deep Multiple Instance Learning, arXiv:1802.04712",
    repository="https://github.com/AMLab-Amsterdam/AttentionDeepMIL",
    licence="MIT",
)


@register_aggregator(CARD)
class Abmil(Aggregator):
    """Attention-weighted mean of projected instances.

    ``h = relu(W x + b)``, ``a = softmax over the bag of w . (tanh(V h) * sigmoid(U h))``, ``z = sum of a h``.

    From the paper: the pooling (eq. 7), the plain (eq. 8) and gated (eq. 9) attention, in
    :class:`~wsikit.layers.gated_attention.AttentionScores`. Common practice since CLAM (Lu et al. 2021,
    arXiv:2004.09666), not in the paper: features come from a frozen encoder and go through one linear
    layer with a ReLU, and dropout. From the authors' code: several attention heads, whose
    weighted means are concatenated.

    Args:
        in_dim: D.
        embed_dim: Width of the projected instances h.
        attention_dim: L, the width inside the attention.
        heads: H maps of attention; E = H embed_dim.
        gated: Eq. 9 rather than eq. 8.
        dropout: In training, on h and inside the attention.

    Example:
        >>> import torch
        >>> Abmil(16)(torch.zeros(5, 16)).attention
        tensor([0.2000, 0.2000, 0.2000, 0.2000, 0.2000], grad_fn=<...>)
    """

    card = CARD

    def __init__(
        self,
        in_dim: int,
        *,
        embed_dim: int = 256,
        attention_dim: int = 128,
        heads: int = 1,
        gated: bool = True,
        dropout: float = 0.0,
    ) -> None:
        at_least_one("abmil", embed_dim=embed_dim, attention_dim=attention_dim, heads=heads)
        below_one("abmil", dropout=dropout)
        super().__init__(in_dim, heads * embed_dim)
        self.project = nn.Sequential(nn.Linear(in_dim, embed_dim), nn.ReLU(inplace=True), nn.Dropout(dropout))
        self.scores = AttentionScores(embed_dim, attention_dim=attention_dim, heads=heads, gated=gated, dropout=dropout)

    def pool(self, x: Tensor, offsets: Tensor, grid: Tensor | None, edges: Tensor | None) -> AggregatorOutput:
        """Projection, attention, weighted mean; see :class:`Aggregator`. Attention is (sum N,), or (sum N, H)."""
        h = self.project(x)  # (sum N, embed_dim)
        attention = segment_softmax(self.scores(h), offsets)  # (sum N, H)
        embedding = segment_weighted_sum(h, attention, offsets).flatten(1)  # (B, H, embed_dim) -> (B, E)
        return AggregatorOutput(embedding, attention.squeeze(1))  # one head: (sum N,)
