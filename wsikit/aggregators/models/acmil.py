"""ACMIL: several branches of attention that are kept apart, and kept off their favourites; Zhang et al. 2024."""

from __future__ import annotations

import math
from itertools import combinations

import torch
from torch import Tensor, nn

from wsikit.aggregators.base import Aggregator, AggregatorCard, AggregatorOutput
from wsikit.aggregators.options import at_least_one, at_least_zero, below_one
from wsikit.aggregators.registry import register_aggregator
from wsikit.layers.gated_attention import AttentionScores
from wsikit.layers.packed import bag_sizes, segment_softmax, segment_weighted_sum
from wsikit.layers.selection import segment_top_rows

CARD = AggregatorCard(
    name="acmil",
    summary="several branches of attention, kept diverse, with top instances masked in training",
    paper=(
        "Zhang et al. 2024, Attention-Challenging Multiple Instance Learning for Whole Slide Image Classification, "
        "arXiv:2311.07125"
    ),
    repository="https://github.com/dazhangyu123/ACMIL",
    licence="MIT",
)


@register_aggregator(CARD)
class Acmil(Aggregator):
    """Gated attention with K branches; the embedding is the weighted mean under the mean of their maps.

    ``h = relu(W x)``, ``a_k = softmax over the bag of s_k(h)`` (the branches share all but the last layer of the
    attention), ``z_k = sum of a_k h``, ``z = mean of z_k``. What keeps the attention from a few instances:

    - In training, of the ``top`` instances that a branch scores highest, a random share ``drop`` is taken out of its
      softmax (stochastic top-k instance masking). Others have to serve.
    - :meth:`training_loss`: each branch has a classifier of its own, taught with the bag's class (semantic loss, the
      mean over the branches), and the cosine between the maps of two branches is kept small (diversity loss, the mean
      over the pairs). Both have the weight 1 beside the task's loss. Training adds them for classes only, so for a
      risk or a number the branches are free to agree.

    The smaller of the authors' two variants, "GA"; 8-headed attention ("MHA") is not here.

    Args:
        in_dim: D.
        classes: C, outputs of the task; with 1 there are no classifiers of branches.
        branches: K; 5 in the paper.
        top: Highest-scored instances that may be masked; 10 in the paper.
        drop: Share of them that is masked in training; 0.6 in the paper.
        embed_dim: E, the width of h; 128 to 384 in the authors' code, by the width of the features.
        attention_dim: L, the width inside the attention.
        diversity_weight: Of the diversity loss; 1 in the paper.

    Example:
        >>> output = Acmil(16)(torch.randn(5, 16))
        >>> output.attention.shape, output.extras["maps"].shape
        (torch.Size([5]), torch.Size([5, 5]))
    """

    card = CARD

    def __init__(
        self,
        in_dim: int,
        *,
        classes: int = 2,
        branches: int = 5,
        top: int = 10,
        drop: float = 0.6,
        embed_dim: int = 256,
        attention_dim: int = 128,
        diversity_weight: float = 1.0,
    ) -> None:
        at_least_one("acmil", classes=classes, branches=branches, top=top)
        at_least_one("acmil", embed_dim=embed_dim, attention_dim=attention_dim)
        at_least_zero("acmil", diversity_weight=diversity_weight)
        below_one("acmil", drop=drop)
        super().__init__(in_dim, embed_dim)
        self.top, self.drop, self.diversity_weight = top, drop, diversity_weight
        self.project = nn.Sequential(nn.Linear(in_dim, embed_dim, bias=False), nn.ReLU(inplace=True))
        self.scores = AttentionScores(embed_dim, attention_dim=attention_dim, heads=branches)
        # One branch is the bag's own attention, which the task teaches.
        taught = branches if classes > 1 and branches > 1 else 0
        self.classify = nn.ModuleList(nn.Linear(embed_dim, classes) for _ in range(taught))

    def pool(self, x: Tensor, offsets: Tensor, grid: Tensor | None, edges: Tensor | None) -> AggregatorOutput:
        """Scores, masking in training, maps, weighted means; see :class:`Aggregator`. Attention is (sum N,)."""
        h = self.project(x)  # (sum N, E)
        scores = self.scores(h)  # (sum N, K)
        if self.training:
            scores = scores.masked_fill(self.draw_mask(scores, offsets), -math.inf)
        maps = segment_softmax(scores, offsets)  # (sum N, K)
        means = segment_weighted_sum(h, maps, offsets)  # (B, K, E)
        logits = [classify(means[:, k]) for k, classify in enumerate(self.classify)]  # K of (B, C)
        return AggregatorOutput(
            means.mean(dim=1), maps.mean(dim=1), extras={"branch_logits": logits, "maps": maps, "offsets": offsets}
        )

    def draw_mask(self, scores: Tensor, offsets: Tensor) -> Tensor:
        """Which instances each branch does without, (sum N, K) bool: ``int(drop min(top, N))`` of its highest."""
        mask = torch.zeros_like(scores, dtype=torch.bool)
        for rows in segment_top_rows(scores, offsets, [self.top] * (len(offsets) - 1)):  # (min(top, N), K)
            drawn = torch.rand(rows.shape, device=rows.device).argsort(dim=0)[: int(self.drop * len(rows))]
            mask.scatter_(0, rows.gather(0, drawn), True)
        return mask

    def training_loss(self, output: AggregatorOutput, target: Tensor) -> Tensor:
        """Semantic and diversity loss; 0 for a single branch."""
        loss = output.embedding.new_zeros(())
        for logits in output.extras["branch_logits"]:
            wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
            loss = loss + nn.functional.cross_entropy(wide, target) / len(self.classify)
        maps = output.extras["maps"]  # (sum N, K)
        pairs = list(combinations(range(maps.shape[1]), 2))
        for bag in torch.split(maps, bag_sizes(output.extras["offsets"])):
            unit = nn.functional.normalize(bag, dim=0)
            for i, j in pairs:
                cosine = (unit[:, i] * unit[:, j]).sum()
                loss = loss + self.diversity_weight * cosine / len(pairs) / len(output.embedding)
        return loss
