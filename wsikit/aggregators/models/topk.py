"""Top-k pooling: the mean logit of the k most suspicious instances."""

from __future__ import annotations

import math

from torch import Tensor, nn

from wsikit.aggregators.base import Aggregator, AggregatorCard, AggregatorOutput
from wsikit.aggregators.options import at_least_one, below_one
from wsikit.aggregators.registry import register_aggregator
from wsikit.layers.packed import bag_sizes, segment_sum, segment_weighted_sum
from wsikit.layers.selection import segment_top_weights

CARD = AggregatorCard(
    name="topk",
    summary="mean logit of the k highest-scored instances of each class",
    paper=(
        "Campanella et al. 2019, Clinical-grade computational pathology using weakly supervised deep learning on "
        "whole slide images, doi:10.1038/s41591-019-0508-1 (k = 1)"
    ),
    repository="https://github.com/MSKCC-Computational-Pathology/MIL-nature-medicine-2019",
    licence="none found",
)


@register_aggregator(CARD)
class TopK(Aggregator):
    """An instance classifier, and the mean of its k largest logits.

    ``h = relu(W x + b)``, ``s_c = w_c . h + b_c``, and the bag's logit of class c is the mean of the ``s_c`` of the k
    instances in which it is largest. Only these get a gradient. k is ``max(k, share N)``, or N in a smaller bag.

    At k = 1 it is the training of Campanella et al. (there the tile encoder learns too), which follows single tiles;
    a larger k is steadier. ``attention`` is 1 / k at the instances that were chosen for a class, and ``embedding``
    their mean h, so that the bag's logit is ``w_c . embedding_c + b_c``.

    Args:
        in_dim: D.
        classes: C, outputs of the task.
        k: Instances that are averaged.
        share: Of the instances of the bag, where that is more.
        embed_dim: E, the width of h.

    Example:
        >>> import torch
        >>> TopK(16, k=2)(torch.randn(5, 16)).bag_logits.shape
        torch.Size([1, 2])
    """

    card = CARD

    def __init__(self, in_dim: int, *, classes: int = 2, k: int = 8, share: float = 0.0, embed_dim: int = 256) -> None:
        at_least_one("topk", classes=classes, k=k, embed_dim=embed_dim)
        below_one("topk", share=share)
        super().__init__(in_dim, embed_dim, classes=classes)
        self.k, self.share = k, share
        self.project = nn.Sequential(nn.Linear(in_dim, embed_dim), nn.ReLU(inplace=True))
        self.classify = nn.Linear(embed_dim, classes)

    def pool(self, x: Tensor, offsets: Tensor, grid: Tensor | None, edges: Tensor | None) -> AggregatorOutput:
        """Instance logits, the choice, the means; see :class:`Aggregator`. Attention is (sum N, C)."""
        h = self.project(x)  # (sum N, E)
        logits = self.classify(h)  # (sum N, C)
        counts = [max(self.k, math.ceil(self.share * size)) for size in bag_sizes(offsets)]
        attention = segment_top_weights(logits, offsets, counts)  # (sum N, C)
        embedding = segment_weighted_sum(h, attention, offsets)  # (B, C, E)
        return AggregatorOutput(embedding, attention, segment_sum(attention * logits, offsets), logits)
