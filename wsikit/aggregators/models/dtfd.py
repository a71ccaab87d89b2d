"""DTFD-MIL: attention over pseudo-bags, and again over what is distilled from them; Zhang et al. 2022."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wsikit.aggregators.base import Aggregator, AggregatorCard, AggregatorOutput
from wsikit.aggregators.options import at_least_one
from wsikit.aggregators.registry import register_aggregator
from wsikit.errors import ConfigError
from wsikit.layers.gated_attention import AttentionScores
from wsikit.layers.packed import bag_sizes, offsets_of, segment_mean, segment_softmax, segment_weighted_sum
from wsikit.layers.selection import segment_top_rows
from wsikit.registry import nearest

CARD = AggregatorCard(
    name="dtfd",
    summary="attention over random parts of the bag, and over what they distil",
    paper=(
        "Zhang et al. 2022, DTFD-MIL: Double-Tier Feature Distillation Multiple Instance Learning for Histopathology "
        "Whole Slide Image Classification, arXiv:2203.12081"
    ),
    repository="https://github.com/hrzhang1123/DTFD-MIL",
    licence="MIT",
)
DISTILLATIONS = ("afs", "maxs", "maxmins")


@register_aggregator(CARD)
class Dtfd(Aggregator):
    """Two tiers of gated attention: within pseudo-bags, and over them.

    ``h = relu(W x)``. A bag is split into M pseudo-bags of equal size (give or take one). Tier 1 is attention MIL on
    each of them, with the bag's label (:meth:`training_loss`). What it distils goes to tier 2, attention over all
    pseudo-bags together, whose weighted mean is the embedding: of each pseudo-bag

    - ``"afs"`` (aggregated features): its weighted mean ``sum of a h``;
    - ``"maxs"``: the h of the instances whose class activation is highest;
    - ``"maxmins"``: of the highest and the lowest.

    The class activations are ``instance_logits``: what each instance adds to the logits of its pseudo-bag, times the
    pseudo-bag's size, ``n a w_c . h``. Instances are ranked by their softmax over the classes, at the last class as
    in the authors' code; with more than two classes, where that one is no more positive than the others, at the class
    that tier 1 finds most likely for the pseudo-bag.

    As in the authors' code the tiers learn apart: the embedding's gradient ends at what was distilled. Where there is
    no class to teach tier 1 with (``classes=1``), or with ``end_to_end``, it goes through.

    In training the split is drawn from torch's generator. In evaluation the authors draw, too, so that a slide's
    prediction changes from call to call; here instances are dealt out in the order of their tier-1 attention scores:
    each pseudo-bag has its share of the high ones, and neither the order of the rows nor other bags matter. A bag of
    fewer than M instances has one pseudo-bag for each; an instance is distilled once, where the authors' highest and
    lowest of a small pseudo-bag overlap.

    Args:
        in_dim: D.
        classes: C, outputs of the task; with 1 there is no tier-1 loss, and only ``"afs"``.
        pseudo_bags: M; 4 in the authors' code.
        distillation: ``"afs"``, ``"maxs"`` or ``"maxmins"``.
        instances: Distilled from each pseudo-bag at each end, but for ``"afs"``; 1 in the authors' code.
        end_to_end: Whether the second tier teaches the first.
        embed_dim: E, the width of h; 512 in the authors' code.
        attention_dim: L, the width inside each attention.

    Example:
        >>> output = Dtfd(16)(torch.randn(9, 16))
        >>> output.embedding.shape, output.attention.shape
        (torch.Size([1, 512]), torch.Size([9]))
    """

    card = CARD

    def __init__(
        self,
        in_dim: int,
        *,
        classes: int = 2,
        pseudo_bags: int = 4,
        distillation: str = "afs",
        instances: int = 1,
        end_to_end: bool = False,
        embed_dim: int = 512,
        attention_dim: int = 128,
    ) -> None:
        at_least_one("dtfd", classes=classes, pseudo_bags=pseudo_bags, instances=instances)
        at_least_one("dtfd", embed_dim=embed_dim, attention_dim=attention_dim)
        if distillation not in DISTILLATIONS:
            raise ConfigError(
                f"aggregator 'dtfd': distillation={distillation!r}{nearest(distillation, DISTILLATIONS)} "
                f"(known: {', '.join(DISTILLATIONS)})"
            )
        if classes == 1 and distillation != "afs":
            raise ConfigError(
                f"aggregator 'dtfd': distillation={distillation!r} ranks instances by a class, but there is one "
                "output; expected 'afs'"
            )
        super().__init__(in_dim, embed_dim)
        self.pseudo_bags, self.distillation, self.instances = pseudo_bags, distillation, instances
        self.end_to_end = end_to_end or classes == 1
        self.project = nn.Sequential(nn.Linear(in_dim, embed_dim, bias=False), nn.ReLU(inplace=True))
        self.scores = AttentionScores(embed_dim, attention_dim=attention_dim)
        self.classify = nn.Linear(embed_dim, classes) if classes > 1 else None
        self.second_scores = AttentionScores(embed_dim, attention_dim=attention_dim)

    def pool(self, x: Tensor, offsets: Tensor, grid: Tensor | None, edges: Tensor | None) -> AggregatorOutput:
        """Split, tier 1, distillation, tier 2; see :class:`Aggregator`. Attention is that of both tiers together."""
        h = self.project(x)  # (sum N, E)
        scores = self.scores(h)[:, 0]  # (sum N,)
        order, pseudo, groups = self.split(scores, offsets)
        h, scores = h[order], scores[order]  # pseudo-bags one after the other, P in all
        first = segment_softmax(scores, pseudo)  # (sum N,)
        means = segment_weighted_sum(h, first, pseudo)  # (P, E)
        activations = logits = None
        if self.classify is not None:
            logits = self.classify(means)  # (P, C)
            sizes = torch.repeat_interleave(pseudo.diff(), pseudo.diff())  # (sum N,) of its pseudo-bag
            activations = (sizes * first)[:, None] * nn.functional.linear(h, self.classify.weight)  # (sum N, C)
        if activations is None or logits is None or self.distillation == "afs":
            embedding, second = self.second_tier(means, groups)  # (B, E), (P,)
            attention = first * torch.repeat_interleave(second, pseudo.diff())
        else:
            rows, chosen = self.choose(activations, logits, pseudo, groups)
            embedding, second = self.second_tier(h[rows], chosen)  # (B, E), (rows,)
            attention = torch.zeros_like(first).index_copy(0, rows, second)
        back = order.argsort()
        return AggregatorOutput(
            embedding,
            attention[back],
            instance_logits=None if activations is None else activations[back],
            extras={"pseudo_logits": logits, "groups": groups},
        )

    def split(self, scores: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The pseudo-bags of each bag: drawn in training, dealt out by score in evaluation.

        Args:
            scores: (sum N,) of tier 1.
            offsets: (B + 1,) int64.

        Returns:
            Rows in the order of the pseudo-bags (sum N,), their offsets among these (P + 1,), and the offsets of the
            bags among the P pseudo-bags (B + 1,).
        """
        rows, sizes, counts, start = [], [], [], 0
        for part in torch.split(scores.detach(), bag_sizes(offsets)):
            if self.training:
                order = torch.randperm(len(part), device=part.device)
            else:
                order = part.argsort(descending=True, stable=True)
            count = min(self.pseudo_bags, len(part))
            dealt = [start + order[first::count] for first in range(count)]
            rows += dealt
            sizes += [len(hand) for hand in dealt]
            counts.append(count)
            start += len(part)
        device = scores.device
        return torch.cat(rows), offsets_of(sizes, device=device), offsets_of(counts, device=device)

    def choose(self, activations: Tensor, logits: Tensor, pseudo: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of the instances to distil (rows,), and the offsets of the bags among them (B + 1,)."""
        sizes = bag_sizes(pseudo)
        wanted = torch.ones_like(pseudo[1:]) if logits.shape[1] == 2 else logits.argmax(dim=1)  # (P,) class
        wanted = torch.repeat_interleave(wanted, pseudo.diff())[:, None]  # (sum N, 1)
        # The order of the softmax, by its log-odds: many a probability is 1 in float32, and no two of these are equal.
        others = activations.scatter(1, wanted, -torch.inf).logsumexp(dim=1)
        ranked = activations.gather(1, wanted)[:, 0] - others  # (sum N,)
        rows = segment_top_rows(ranked, pseudo, [self.instances] * len(sizes))
        if self.distillation == "maxmins":
            left = [min(self.instances, size - len(high)) for size, high in zip(sizes, rows, strict=True)]
            lowest = segment_top_rows(-ranked, pseudo, left)
            rows = [torch.cat(ends) for ends in zip(rows, lowest, strict=True)]
        found = offsets_of([len(part) for part in rows], device=pseudo.device)  # (P + 1,)
        return torch.cat(rows), found[groups]

    def second_tier(self, distilled: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted means (B, E) of what was distilled of each bag, and the weights."""
        if not self.end_to_end:
            distilled = distilled.detach()
        attention = segment_softmax(self.second_scores(distilled)[:, 0], offsets)
        return segment_weighted_sum(distilled, attention, offsets), attention

    def training_loss(self, output: AggregatorOutput, target: Tensor) -> Tensor:
        """Tier 1: cross-entropy of the pseudo-bags with their bag's class, the mean in each bag, then over bags."""
        logits, groups = output.extras["pseudo_logits"], output.extras["groups"]
        if logits is None:
            return output.embedding.new_zeros(())
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        labels = torch.repeat_interleave(target, groups.diff())  # (P,)
        return segment_mean(nn.functional.cross_entropy(logits, labels, reduction="none"), groups).mean()
