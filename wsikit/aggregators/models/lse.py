"""Log-sum-exp pooling: a smooth maximum of the instances' logits, Pinheiro and Collobert 2015."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wsikit.aggregators.base import Aggregator, AggregatorCard, AggregatorOutput
from wsikit.aggregators.options import above_zero, at_least_one
from wsikit.aggregators.registry import register_aggregator
from wsikit.layers.packed import bag_sizes, segment_softmax, segment_weighted_sum

CARD = AggregatorCard(
    name="lse",
    summary="log-sum-exp of the instances' logits, between mean and maximum",
    paper=(
        "Pinheiro, Collobert 2015, From Image-level to Pixel-level Labeling with Convolutional Networks, "
        "arXiv:1411.6228"
    ),
    repository="none",
    licence="none",
)


@register_aggregator(CARD)
class Lse(Aggregator):
    """An instance classifier, and the log-sum-exp of its logits over the bag.

    ``h = relu(W x + b)``, ``s_c = w_c . h + b_c``, and the bag's logit of class c is
    ``(1 / r) log((1 / N) sum of exp(r s_c))``. r -> 0 is the mean, r -> infinity the maximum. The 1 / N makes it
    independent of the size of a bag; it also means that one instance of N weighs against ``log N / r``: the longer the
    bag, the larger r has to be for one instance to decide.

    ``attention`` is the derivative of the bag's logit with respect to the instance's, ``softmax of r s_c`` over the
    bag; ``embedding`` is the mean of h under it. The bag's logit is not linear in the embedding.

    Args:
        in_dim: D.
        classes: C, outputs of the task.
        r: Sharpness; 5 in the paper.
        embed_dim: E, the width of h.

    Example:
        >>> Lse(16, r=1.0)(torch.randn(5, 16)).bag_logits.shape
        torch.Size([1, 2])
    """

    card = CARD

    def __init__(self, in_dim: int, *, classes: int = 2, r: float = 5.0, embed_dim: int = 256) -> None:
        at_least_one("lse", classes=classes, embed_dim=embed_dim)
        above_zero("lse", r=r)
        super().__init__(in_dim, embed_dim, classes=classes)
        self.r = r
        self.project = nn.Sequential(nn.Linear(in_dim, embed_dim), nn.ReLU(inplace=True))
        self.classify = nn.Linear(embed_dim, classes)

    def pool(self, x: Tensor, offsets: Tensor, grid: Tensor | None, edges: Tensor | None) -> AggregatorOutput:
        """Instance logits and their log-sum-exp; see :class:`Aggregator`. Attention is (sum N, C)."""
        h = self.project(x)  # (sum N, E)
        logits = self.classify(h)  # (sum N, C)
        sizes = bag_sizes(offsets)
        scaled = self.r * logits.to(torch.promote_types(logits.dtype, torch.float32))
        sums = torch.stack([part.logsumexp(dim=0) for part in torch.split(scaled, sizes)])  # (B, C)
        bag_logits = (sums - offsets.diff().to(sums.dtype).log()[:, None]) / self.r
        attention = segment_softmax(scaled, offsets)  # (sum N, C)
        return AggregatorOutput(segment_weighted_sum(h, attention, offsets), attention, bag_logits, logits)
