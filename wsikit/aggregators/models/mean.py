"""Mean pooling: the aggregator that every other one has to beat."""

from __future__ import annotations

from torch import Tensor, nn

from wsikit.aggregators.base import Aggregator, AggregatorCard, AggregatorOutput
from wsikit.aggregators.registry import register_aggregator
from wsikit.errors import ConfigError
from wsikit.layers.packed import segment_mean

CARD = AggregatorCard(
    name="mean",
    summary="mean of the instances; the baseline to beat",
    paper="none",
    repository="none",
    licence="none",
    attention=False,
)


@register_aggregator(CARD)
class Mean(Aggregator):
    """``z = mean of x``, or ``z = relu(W mean(x) + b)``.

    Every instance weighs the same, so there is no attention.

    Args:
        in_dim: D.
        embed_dim: E, the width of the projection; None: none, and E = D.
    """

    card = CARD

    def __init__(self, in_dim: int, *, embed_dim: int | None = None) -> None:
        if embed_dim is not None and embed_dim < 1:
            raise ConfigError(f"aggregator 'mean': embed_dim={embed_dim}; expected a width of at least 1, or None")
        super().__init__(in_dim, in_dim if embed_dim is None else embed_dim)
        self.project = None if embed_dim is None else nn.Sequential(nn.Linear(in_dim, embed_dim), nn.ReLU())

    def pool(self, x: Tensor, offsets: Tensor, grid: Tensor | None, edges: Tensor | None) -> AggregatorOutput:
        """Mean of each bag, then the projection; see :class:`Aggregator`."""
        mean = segment_mean(x, offsets)  # (B, D)
        return AggregatorOutput(mean if self.project is None else self.project(mean))
