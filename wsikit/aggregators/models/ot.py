"""Optimal-transport kernel embedding: Mialon et al. 2021, the bag transported to learned references."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsikit.aggregators.base import Aggregator, AggregatorCard, AggregatorOutput
from wsikit.aggregators.options import above_zero, at_least_one
from wsikit.aggregators.registry import register_aggregator
from wsikit.layers.packed import bag_sizes
from wsikit.layers.sinkhorn import log_transport

CARD = AggregatorCard(
    name="ot",
    summary="optimal transport of the instances to learned references",
    paper="Mialon et al. 2021, A Trainable Optimal Transport Embedding for Feature Aggregation and its Relationship to "
    "Attention, arXiv:2006.12065",
    repository="https://github.com/claying/OTK",
    licence="none given",
)


@register_aggregator(CARD)
class OptimalTransport(Aggregator):
    """Each reference gathers the instances that are transported to it, and every instance goes somewhere.

    ``r = relu(W x + b)``, ``h = r / |r|``, references ``z / |z|``, kernel ``k = h . z``, plan ``P`` from
    :func:`~wsikit.layers.sinkhorn.log_transport`, embedding ``sqrt(p) [sum_i P_i1 h_i, .., sum_i P_ip h_i]``.

    From the paper: the plan and the embedding (section 3), for the linear kernel of vectors of length 1. From the
    authors' code: the layer before it, epsilon, the iterations; that code scales the embedding by sqrt(p) more.
    Left out: the Gaussian kernel in place of the linear one, and the weight for positions.

    Unlike a softmax, the plan cannot leave out instances: all have the same weight, and so have all references.
    Attention is a map for each reference, ``p P``.

    Args:
        in_dim: D.
        embed_dim: Width of h.
        references: p; E = p embed_dim.
        epsilon: Weight of the entropy; smaller is sharper.
        iterations: Of Sinkhorn.

    Example:
        >>> OptimalTransport(16, references=2)(torch.ones(4, 16)).attention[0].detach()
        tensor([0.2500, 0.2500])
    """

    card = CARD

    def __init__(
        self,
        in_dim: int,
        *,
        embed_dim: int = 64,
        references: int = 16,
        epsilon: float = 0.1,
        iterations: int = 10,
    ) -> None:
        at_least_one("ot", embed_dim=embed_dim, references=references, iterations=iterations)
        above_zero("ot", epsilon=epsilon)
        super().__init__(in_dim, references * embed_dim)
        self.epsilon, self.iterations = epsilon, iterations
        self.project = nn.Linear(in_dim, embed_dim)
        self.references = nn.Parameter(nn.init.xavier_uniform_(torch.empty(references, embed_dim)))

    def pool(self, x: Tensor, offsets: Tensor, grid: Tensor | None, edges: Tensor | None) -> AggregatorOutput:
        """Bag by bag; see :class:`Aggregator`. Attention is (sum N, p)."""
        wide = torch.promote_types(x.dtype, torch.float32)
        h = F.normalize(self.project(x).relu().to(wide), dim=1)  # (sum N, embed_dim)
        references = F.normalize(self.references.to(wide), dim=1)  # (p, embed_dim)
        embeddings, plans = [], []
        with torch.autocast(x.device.type, enabled=False):
            for bag in torch.split(h, bag_sizes(offsets)):
                plan = log_transport(
                    bag @ references.t(), epsilon=self.epsilon, iterations=self.iterations
                ).exp()  # (N, p)
                embeddings.append(len(references) ** 0.5 * (plan.t() @ bag).flatten())
                plans.append(len(references) * plan)
        return AggregatorOutput(torch.stack(embeddings), torch.cat(plans))
