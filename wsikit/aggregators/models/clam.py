"""CLAM: attention pooling, and a clustering of the most and least attended instances; Lu et al. 2021.

``clam-sb`` has one map of attention, ``clam-mb`` one for each class.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from wsikit.aggregators.base import Aggregator, AggregatorCard, AggregatorOutput
from wsikit.aggregators.options import at_least_one, below_one
from wsikit.aggregators.registry import register_aggregator
from wsikit.errors import ConfigError
from wsikit.layers.gated_attention import AttentionScores
from wsikit.layers.packed import bag_sizes, segment_softmax, segment_weighted_sum
from wsikit.layers.selection import segment_top_rows
from wsikit.losses.smooth_svm import smooth_top1_svm
from wsikit.registry import nearest

CARD = AggregatorCard(
    name="clam-sb",
    summary="gated attention; its extremes are clustered for each class",
    paper=(
        "Lu et al. 2021, Data-efficient and weakly supervised computational pathology on whole-slide images, "
        "arXiv:2004.09666"
    ),
    repository="https://github.com/mahmoodlab/CLAM",
    licence="GPL-3.0",
)
CARD_MB = replace(CARD, name="clam-mb", summary="gated attention for each class; its extremes are clustered")
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"ce": nn.functional.cross_entropy, "svm": smooth_top1_svm}


class Clam(Aggregator):
    r"""What the single- and the multi-branch CLAM share.

    ``h = relu(W x + b)``, gated attention with one branch or one for each class, ``z = sum of a h``; for each class a
    classifier of instances with two outputs, "no evidence" and "evidence" (their difference is
    ``instance_logits``). It learns from labels that attention makes, in :meth:`training_loss`: for the class of
    the bag, its B most attended instances are evidence, its B least attended are not. With ``subtyping`` (classes
    exclude each other), the B most attended are no evidence for each of the other classes, and the mean over classes
    is taken; without, the other classes have no term.

    The authors weigh the bag's loss ``c`` and the instances' ``1 - c``. The task's loss has the weight 1 here, so the
    instances' has ``(1 - c) / c``: the same gradient but for a factor.

    Two differences from the authors' code: a bag with fewer than 2 B instances has N // 2 at either end, so
    that none is called both (there it stops below B); no bias where the softmax takes it back.

    Args:
        in_dim: D.
        classes: C, outputs of the task; with 1 there are no classes to cluster for, and no instance classifiers.
        embed_dim: E, the width of h; 512 in the paper.
        attention_dim: L, the width inside the attention; 256 in the paper ("small").
        instances: B; 8 in the authors' code.
        instance_loss: ``"svm"``, the paper's smooth SVM (:func:`~wsikit.losses.smooth_svm.smooth_top1_svm`), or
            ``"ce"``, cross-entropy, the default of the authors' code.
        bag_weight: c, above 0; 0.7 in the paper, 1 without the instances' loss.
        subtyping: Whether the classes exclude each other also as instances.
        dropout: In training, on h and inside the attention; 0.25 in the paper.
    """

    def __init__(
        self,
        in_dim: int,
        *,
        classes: int = 2,
        embed_dim: int = 512,
        attention_dim: int = 256,
        instances: int = 8,
        instance_loss: str = "svm",
        bag_weight: float = 0.7,
        subtyping: bool = False,
        dropout: float = 0.25,
    ) -> None:
        name = self.card.name
        at_least_one(name, classes=classes, embed_dim=embed_dim, attention_dim=attention_dim, instances=instances)
        below_one(name, dropout=dropout)
        if not 0 < bag_weight <= 1:
            raise ConfigError(f"aggregator {name!r}: bag_weight={bag_weight}; expected above 0 and at most 1")
        if instance_loss not in LOSSES:
            raise ConfigError(
                f"aggregator {name!r}: instance_loss={instance_loss!r}{nearest(instance_loss, LOSSES)} "
                f"(known: {', '.join(LOSSES)})"
            )
        branches = self.branches(classes)
        super().__init__(in_dim, embed_dim, classes=branches)
        self.outputs, self.instances, self.subtyping = classes, instances, subtyping
        self.instance_loss, self.weight = instance_loss, (1 - bag_weight) / bag_weight
        self.project = nn.Sequential(nn.Linear(in_dim, embed_dim), nn.ReLU(inplace=True), nn.Dropout(dropout))
        self.scores = AttentionScores(embed_dim, attention_dim=attention_dim, heads=branches or 1, dropout=dropout)
        self.cluster = nn.Linear(embed_dim, 2 * classes) if classes > 1 else None

    def branches(self, classes: int) -> int | None:
        """Maps of attention; None for a single one that all classes share."""
        raise NotImplementedError

    def pool(self, x: Tensor, offsets: Tensor, grid: Tensor | None, edges: Tensor | None) -> AggregatorOutput:
        """Attention, weighted means, instance classifiers; see :class:`Aggregator`."""
        h = self.project(x)  # (sum N, E)
        attention = segment_softmax(self.scores(h), offsets)  # (sum N, branches)
        embedding = segment_weighted_sum(h, attention, offsets)  # (B, branches, E)
        if self.classes is None:
            embedding, attention = embedding.squeeze(1), attention.squeeze(1)
        if self.cluster is None:
            return AggregatorOutput(embedding, attention)
        evidence = self.cluster(h).unflatten(1, (self.outputs, 2))  # (sum N, C, 2)
        return AggregatorOutput(
            embedding,
            attention,
            instance_logits=evidence[..., 1] - evidence[..., 0],  # (sum N, C)
            extras={"attention": attention.detach(), "evidence": evidence, "offsets": offsets},
        )

    def training_loss(self, output: AggregatorOutput, target: Tensor) -> Tensor:
        """The instances' loss, the mean over the bags, times its weight; see :class:`Aggregator`."""
        if self.cluster is None:
            return output.embedding.new_zeros(())
        evidence: Tensor = output.extras["evidence"]  # (sum N, C, 2)
        evidence = evidence.to(torch.promote_types(evidence.dtype, torch.float32))
        attention, offsets = output.extras["attention"], output.extras["offsets"]
        attention = attention[:, None].expand(-1, self.outputs) if attention.ndim == 1 else attention  # (sum N, C)
        sizes = bag_sizes(offsets)
        highest = segment_top_rows(attention, offsets, [self.instances] * len(sizes))
        # No more than half, so that no instance is at both ends; one instance alone is at neither.
        lowest = segment_top_rows(-attention, offsets, [min(self.instances, size // 2) for size in sizes])
        loss = evidence.new_zeros(())
        for label, high, low in zip(target.tolist(), highest, lowest, strict=True):  # (B', C) rows of a bag
            for c in range(self.outputs):
                if c == label:
                    rows, ends = torch.cat([high[: len(low), c], low[:, c]]), len(low)
                else:
                    rows, ends = high[:, c] if self.subtyping else high[:0, c], 0
                if len(rows):
                    is_evidence = torch.arange(len(rows), device=rows.device) < ends
                    loss = loss + LOSSES[self.instance_loss](evidence[rows, c], is_evidence.long())
        return self.weight * loss / len(sizes) / (self.outputs if self.subtyping else 1)


@register_aggregator(CARD)
class ClamSb(Clam):
    """CLAM with a single branch of attention that all classes share: an embedding (B, E).

    See :class:`Clam` for the equations, the options and the differences from the authors' code.

    Example:
        >>> ClamSb(16)(torch.randn(5, 16)).instance_logits.shape
        torch.Size([5, 2])
    """

    card = CARD

    def branches(self, classes: int) -> int | None:
        """One for all classes."""
        return None


@register_aggregator(CARD_MB)
class ClamMb(Clam):
    """CLAM with a branch of attention for each class: embeddings (B, C, E), attention (sum N, C).

    The authors' C classifiers of one output each are the task's head: row c is for the embedding of class c.
    See :class:`Clam` for the equations, the options and the differences from the authors' code.

    Example:
        >>> ClamMb(16, classes=3)(torch.randn(5, 16)).attention.shape
        torch.Size([5, 3])
    """

    card = CARD_MB

    def branches(self, classes: int) -> int | None:
        """One for each class."""
        return classes
