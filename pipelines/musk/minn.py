"""The network that MUSK1's numbers in print are of: three learnt layers before the pooling.

Importing this file registers ``minn``; it is no part of wsikit, whose aggregators take the features of an encoder.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from wsikit.aggregators.base import Aggregator, AggregatorCard, AggregatorOutput
from wsikit.aggregators.registry import register_aggregator
from wsikit.layers.gated_attention import AttentionScores
from wsikit.layers.packed import segment_max, segment_softmax, segment_weighted_sum

WIDTHS = (256, 128, 64)
CARD = AggregatorCard(
    name="minn",
    summary="three layers, then the maximum or attention",
    paper="Wang, Yan, Tang, Bai, Liu 2018, Revisiting Multiple Instance Neural Networks, arXiv:1610.02501; attention: "
    "Ilse, Tomczak, Welling 2018, arXiv:1802.04712",
    repository="https://github.com/yanyongluan/MINNs",
    licence="none",
    attention=False,
)


@register_aggregator(CARD)
class Minn(Aggregator):
    """``h = dropout(relu(W3 relu(W2 relu(W1 x))))``, then its maximum over the bag, or its attention-weighted mean.

    Layers, their widths, where the dropout is and the maximum are those of ``MI_Net.py`` in the repository; weights
    begin as Keras draws them there (Glorot, uniform; no bias), which is wider than torch's own.

    Args:
        in_dim: D.
        pooling: ``max`` (MI-Net), ``attention`` or ``gated``.
        dropout: In training, on h.
    """

    card = CARD

    def __init__(
        self, in_dim: int, *, pooling: Literal["max", "attention", "gated"] = "max", dropout: float = 0.5
    ) -> None:
        super().__init__(in_dim, WIDTHS[-1])
        layers: list[nn.Module] = []
        for before, after in zip((in_dim, *WIDTHS), WIDTHS, strict=False):
            layer = nn.Linear(before, after)
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
            layers += [layer, nn.ReLU()]
        self.project = nn.Sequential(*layers, nn.Dropout(dropout))
        gated = pooling == "gated"
        self.scores = None if pooling == "max" else AttentionScores(WIDTHS[-1], attention_dim=64, gated=gated)

    def pool(self, x: Tensor, offsets: Tensor, grid: Tensor | None, edges: Tensor | None) -> AggregatorOutput:
        """Layers, then one pooling; see :class:`Aggregator`."""
        h = self.project(x)  # (sum N, 64)
        if self.scores is None:
            return AggregatorOutput(segment_max(h, offsets))
        weights = segment_softmax(self.scores(h), offsets)  # (sum N, 1)
        return AggregatorOutput(segment_weighted_sum(h, weights, offsets).flatten(1))  # (B, 1, 64) -> (B, 64)
