"""Max pooling: the other baseline, for a sign that a single tile can show."""

from __future__ import annotations

from torch import Tensor

from wsikit.aggregators.base import Aggregator, AggregatorCard, AggregatorOutput
from wsikit.aggregators.registry import register_aggregator
from wsikit.layers.packed import segment_max

CARD = AggregatorCard(
    name="max",
    summary="largest value of each feature over the instances",
    paper="none",
    repository="none",
    licence="none",
    attention=False,
)


@register_aggregator(CARD)
class Max(Aggregator):
    """``z_d = max over the instances of x_d``; each feature may come from another instance, so no attention.

    Args:
        in_dim: D, and E.
    """

    card = CARD

    def __init__(self, in_dim: int) -> None:
        super().__init__(in_dim, in_dim)

    def pool(self, x: Tensor, offsets: Tensor, grid: Tensor | None, edges: Tensor | None) -> AggregatorOutput:
        """Largest value of each feature in each bag; see :class:`Aggregator`."""
        return AggregatorOutput(segment_max(x, offsets))  # (B, D)
