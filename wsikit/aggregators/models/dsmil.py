"""DSMIL: the highest-scored instance, and the instances that are like it; Li et al. 2021."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wsikit.aggregators.base import Aggregator, AggregatorCard, AggregatorOutput
from wsikit.aggregators.options import at_least_one, at_least_zero, below_one
from wsikit.aggregators.registry import register_aggregator
from wsikit.layers.packed import bag_sizes, segment_softmax, segment_weighted_sum
from wsikit.layers.selection import segment_top_rows

CARD = AggregatorCard(
    name="dsmil",
    summary="critical instance of each class, and attention by similarity to it",
    paper=(
        "Li, Li, Eliceiri 2021, Dual-stream Multiple Instance Learning Network for Whole Slide Image Classification "
        "with Self-supervised Contrastive Learning, arXiv:2011.08939"
    ),
    repository="https://github.com/binli123/dsmil-wsi",
    licence="MIT",
)


@register_aggregator(CARD)
class Dsmil(Aggregator):
    """Two streams, whose logits are averaged.

    The first scores instances, ``s_c = w_c . x + b_c`` (``instance_logits``); for each class the instance m with the
    largest is critical, and ``s_c(m)`` is the stream's logit. The second attends to what is like the critical
    instance, ``a_i = softmax of q(x_i) . q(x_m) / sqrt(Q)`` over the bag, ``z_c = sum of a v(x)``, and its logits are
    a linear map of all ``z`` together, (C, E) -> (C) (the authors' convolution over the whole width). ``bag_logits``
    is the mean of both.

    As in the authors' code, q is ``tanh(W' relu(W x))`` and v is x itself; the paper has linear ones, which
    ``nonlinear=False`` and ``passing_value=True`` come close to (the code's v has a ReLU). The paper takes the dot
    product without the ``1 / sqrt(Q)`` of the code.

    The authors train each stream by its own cross-entropy (of sigmoids), half and half. Here the task's loss is of the
    mean, and :meth:`training_loss` adds the first stream's cross-entropy, without which the choice of the
    critical instance is not learnt directly.

    Args:
        in_dim: D, and E.
        classes: C, outputs of the task.
        query_dim: Q; 128 in the authors' code.
        nonlinear: Whether q has a hidden layer.
        passing_value: Whether v is a layer with a ReLU, D -> D, rather than x itself.
        instance_weight: Of the first stream's loss beside the task's; equal in the paper.
        dropout: In training, on what goes into v.

    Example:
        >>> output = Dsmil(16)(torch.randn(5, 16))
        >>> output.bag_logits.shape, output.attention.shape
        (torch.Size([1, 2]), torch.Size([5, 2]))
    """

    card = CARD

    def __init__(
        self,
        in_dim: int,
        *,
        classes: int = 2,
        query_dim: int = 128,
        nonlinear: bool = True,
        passing_value: bool = False,
        instance_weight: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        at_least_one("dsmil", classes=classes, query_dim=query_dim)
        at_least_zero("dsmil", instance_weight=instance_weight)
        below_one("dsmil", dropout=dropout)
        super().__init__(in_dim, in_dim, classes=classes)
        self.outputs, self.instance_weight = classes, instance_weight
        self.score = nn.Linear(in_dim, classes)
        self.query: nn.Module = nn.Linear(in_dim, query_dim)
        if nonlinear:
            self.query = nn.Sequential(self.query, nn.ReLU(inplace=True), nn.Linear(query_dim, query_dim), nn.Tanh())
        self.value: nn.Module = nn.Dropout(dropout)
        if passing_value:
            self.value = nn.Sequential(self.value, nn.Linear(in_dim, in_dim), nn.ReLU(inplace=True))
        self.classify = nn.Linear(classes * in_dim, classes)

    def pool(self, x: Tensor, offsets: Tensor, grid: Tensor | None, edges: Tensor | None) -> AggregatorOutput:
        """Critical instances, attention to what is like them, both streams; see :class:`Aggregator`."""
        logits = self.score(x)  # (sum N, C)
        sizes = bag_sizes(offsets)
        critical = torch.cat(segment_top_rows(logits, offsets, [1] * len(sizes)))  # (B, C) rows
        of_instances = logits.gather(0, critical)  # (B, C)
        query = self.query(x)  # (sum N, Q)
        # Each bag is compared with its own critical instances alone: (N, Q) x (Q, C).
        likeness = [part @ query[rows].t() for part, rows in zip(torch.split(query, sizes), critical, strict=True)]
        attention = segment_softmax(torch.cat(likeness) / query.shape[1] ** 0.5, offsets)  # (sum N, C)
        embedding = segment_weighted_sum(self.value(x), attention, offsets)  # (B, C, E)
        of_bags = self.classify(embedding.flatten(1))  # (B, C)
        return AggregatorOutput(
            embedding,
            attention,
            bag_logits=(of_instances + of_bags) / 2,
            instance_logits=logits,
            extras={"of_instances": of_instances, "of_bags": of_bags},
        )

    def training_loss(self, output: AggregatorOutput, target: Tensor) -> Tensor:
        """Cross-entropy of the critical instances' logits; 0 where there are no classes."""
        logits = output.extras["of_instances"]
        if self.outputs == 1:
            return torch.zeros_like(logits[0, 0])
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return self.instance_weight * nn.functional.cross_entropy(logits, target)
