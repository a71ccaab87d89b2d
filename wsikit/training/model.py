"""The model that is trained: features to one scale, an aggregator, a linear head."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from wsikit.aggregators.base import Aggregator, AggregatorOutput
from wsikit.cohort.graphs import GraphSettings
from wsikit.errors import ConfigError


@dataclass(frozen=True)
class SlideModelOutput:
    """What the model says of B bags.

    Attributes:
        outputs: (B, K), the task's logits, log risks or values.
        aggregated: Embedding and attention.
    """

    outputs: Tensor
    aggregated: AggregatorOutput


class SlideModel(nn.Module):
    """Standardise, aggregate, predict.

    Args:
        aggregator: Bag -> embedding.
        outputs: Width K of the head.
        mean: (D,) of the features, subtracted.
        scale: (D,) factors or (D, D) matrix that the rest is multiplied by.
        graph: Which tiles are joined by the edges that it is given; None where it is given none.
        free: How many numbers are learnt that depend on no bag; they follow the outputs of each.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        aggregator: Aggregator,
        outputs: int,
        mean: npt.NDArray[np.float32] | None = None,
        scale: npt.NDArray[np.float32] | None = None,
        graph: GraphSettings | None = None,
        *,
        free: int = 0,
    ) -> None:
        super().__init__()
        if aggregator.classes not in (None, outputs):
            raise ConfigError(
                f"aggregator {aggregator.card.name!r} has {aggregator.classes} embeddings, one for each class; "
                f"the task has {outputs} outputs"
            )
        self.aggregator, self.graph = aggregator, graph
        dim = aggregator.in_dim
        self.register_buffer("mean", torch.zeros(dim) if mean is None else torch.as_tensor(mean))
        self.register_buffer("scale", torch.ones(dim) if scale is None else torch.as_tensor(scale))
        self.head = nn.Linear(aggregator.out_dim, outputs)  # of one embedding per class, row c is for that of class c
        # All patients start equal: a random head ranks them at random, and where training is stopped
        # early (few patients, noisy validation) that noise would be reported as a prediction.
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.free = nn.Parameter(torch.zeros(free)) if free else None

    def scaled(self, x: Tensor) -> Tensor:
        """Features (sum N, D) as the aggregator is given them."""
        x = x.to(self.mean.dtype) - self.mean
        return x @ self.scale if self.scale.ndim == 2 else x * self.scale

    def forward(self, x: Tensor, offsets: Tensor, grid: Tensor, edges: Tensor | None = None) -> SlideModelOutput:
        """Packed bags x (sum N, D) float16 -> outputs (B, K), or (B, K + F) with F free numbers."""
        found: AggregatorOutput = self.aggregator(self.scaled(x), offsets=offsets, grid=grid, edges=edges)
        outputs = self._outputs(found)
        if self.free is not None:
            outputs = torch.cat([outputs, self.free.to(outputs.dtype).expand(len(outputs), -1)], 1)  # (B, K + F)
        return SlideModelOutput(outputs, found)

    def _outputs(self, found: AggregatorOutput) -> Tensor:
        if found.bag_logits is not None:
            return found.bag_logits
        if self.aggregator.classes is None:
            outputs: Tensor = self.head(found.embedding)  # (B, K)
            return outputs
        return (found.embedding * self.head.weight).sum(-1) + self.head.bias  # (B, C, E) -> (B, C)
