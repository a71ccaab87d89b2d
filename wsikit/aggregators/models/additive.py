"""Additive MIL: the bag's logits are a sum of what each instance contributes, Javed et al. 2022."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wsikit.aggregators.base import Aggregator, AggregatorCard, AggregatorOutput
from wsikit.aggregators.options import at_least_one, below_one
from wsikit.aggregators.registry import register_aggregator
from wsikit.layers.gated_attention import AttentionScores
from wsikit.layers.packed import segment_softmax, segment_sum, segment_weighted_sum

CARD = AggregatorCard(
    name="additive",
    summary="sum of the instances' contributions to each class",
    paper=(
        "Javed et al. 2022, Additive MIL: Intrinsically Interpretable Multiple Instance Learning for Pathology, "
        "arXiv:2206.01794"
    ),
    repository="https://openreview.net/forum?id=5dHQyEcYDgA (supplement)",
    licence="none found",
)


@register_aggregator(CARD)
class Additive(Aggregator):
    """Attention MIL whose classifier acts on each weighted instance, before the sum instead of after it.

    ``h = relu(W x + b)``, ``a`` as in :class:`~wsikit.aggregators.models.abmil.Abmil` (gated), ``m_i = a_i h_i``, and
    the bag's logits are ``sum of c_i`` with the contribution ``c_i = psi(m_i)`` of an instance to each class; psi is
    a perceptron with one hidden layer. The contributions are ``instance_logits``: their sum over a bag *is*
    ``bag_logits``, and they have a sign, which attention has not.

    One difference from the paper, by default: there psi has biases, so that every instance, however little it is
    attended to, adds ``psi(0)``, and the logits grow with the number of tiles; on bags of one size nothing is lost,
    on slides of 100 to 50,000 tiles their size is learnt first. Here psi has no biases (so ``psi(a h) = a psi(h)``),
    and one bias of the bag is shared out by attention. ``instance_bias=True`` is the paper's. The attention of the
    authors' code also has batch normalisation, by which bags of a batch would see each other: left out.

    Args:
        in_dim: D.
        classes: C, outputs of the task.
        embed_dim: E, the width of h; 256 in the authors' code, as is that of psi's hidden layer.
        attention_dim: L, the width inside the attention.
        instance_bias: Biases in psi, for each instance.
        dropout: In training, on h and inside the attention.

    Example:
        >>> output = Additive(16)(torch.randn(5, 16))
        >>> torch.allclose(output.instance_logits.sum(0), output.bag_logits[0], atol=1e-6)
        True
    """

    card = CARD

    def __init__(
        self,
        in_dim: int,
        *,
        classes: int = 2,
        embed_dim: int = 256,
        attention_dim: int = 128,
        instance_bias: bool = False,
        dropout: float = 0.0,
    ) -> None:
        at_least_one("additive", classes=classes, embed_dim=embed_dim, attention_dim=attention_dim)
        below_one("additive", dropout=dropout)
        super().__init__(in_dim, embed_dim)
        self.project = nn.Sequential(nn.Linear(in_dim, embed_dim), nn.ReLU(inplace=True), nn.Dropout(dropout))
        self.scores = AttentionScores(embed_dim, attention_dim=attention_dim, dropout=dropout)
        self.contribute = nn.Sequential(
            nn.Linear(embed_dim, embed_dim, bias=instance_bias),
            nn.ReLU(inplace=True),
            nn.Linear(embed_dim, classes, bias=instance_bias),
        )
        self.bias = None if instance_bias else nn.Parameter(torch.zeros(classes))

    def pool(self, x: Tensor, offsets: Tensor, grid: Tensor | None, edges: Tensor | None) -> AggregatorOutput:
        """Attention, contributions, their sum; see :class:`Aggregator`."""
        h = self.project(x)  # (sum N, E)
        attention = segment_softmax(self.scores(h)[:, 0], offsets)  # (sum N,)
        weights = attention[:, None]
        contributions = self.contribute(weights * h).to(attention.dtype)  # (sum N, C)
        if self.bias is not None:
            contributions = contributions + weights * self.bias
        embedding = segment_weighted_sum(h, attention, offsets)  # (B, E)
        return AggregatorOutput(embedding, attention, segment_sum(contributions, offsets), contributions)
