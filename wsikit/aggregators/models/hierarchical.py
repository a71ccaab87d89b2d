"""Hierarchical attention: tiles to regions of the slide, regions to the slide (HIPT, Chen et al. 2022)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wsikit.aggregators.base import Aggregator, AggregatorCard, AggregatorOutput
from wsikit.aggregators.options import at_least_one, below_one
from wsikit.aggregators.registry import register_aggregator
from wsikit.layers.gated_attention import AttentionScores
from wsikit.layers.groups import group_softmax, group_weighted_sum
from wsikit.layers.packed import segment_softmax, segment_weighted_sum
from wsikit.layers.places import square_regions

CARD = AggregatorCard(
    name="hierarchical",
    summary="attention pooling of tiles to regions, and of regions to the slide",
    paper="Chen et al. 2022, Scaling Vision Transformers to Gigapixel Images via Hierarchical Self-Supervised "
    "Learning, arXiv:2206.02647",
    repository="https://github.com/mahmoodlab/HIPT",
    licence="Apache-2.0 with Commons Clause",
    uses_grid=True,
)


@register_aggregator(CARD)
class Hierarchical(Aggregator):
    """Gated attention twice: over the tiles of each region, then over the regions.

    ``h = relu(W x + b)``, ``r = sum over a region of a h``, ``g = relu(V r + c)``, ``s = sum over the regions of A g``,
    ``z = relu(U s + d)``; attention is ``a A``, and sums to 1 over the bag.

    It is what the authors' code calls HIPT without transformers: in full, vision transformers pretrained on regions
    stand in the place of the first level. Regions are squares on the slide's grid; the authors' have 16 tiles of 256 px
    on a side, all filled, while these are smaller, and hold whatever tissue tiles are there.

    Args:
        in_dim: D.
        embed_dim: E, the width of h, g and z.
        attention_dim: Width inside both attentions; None: E, as the authors' code.
        region: Steps of the grid on each side. Powers of two up to 64 keep a patient's slides apart.
        dropout: In training, on h, g, z and inside the attentions.

    Example:
        >>> model = Hierarchical(16, region=2).eval()
        >>> model(torch.zeros(3, 16), grid=torch.tensor([[0, 0], [1, 1], [8, 8]])).attention.detach()
        tensor([0.2500, 0.2500, 0.5000])
    """

    card = CARD

    def __init__(
        self,
        in_dim: int,
        *,
        embed_dim: int = 256,
        attention_dim: int | None = None,
        region: int = 4,
        dropout: float = 0.25,
    ) -> None:
        attention_dim = embed_dim if attention_dim is None else attention_dim
        at_least_one("hierarchical", embed_dim=embed_dim, attention_dim=attention_dim, region=region)
        below_one("hierarchical", dropout=dropout)
        super().__init__(in_dim, embed_dim)
        self.region = region
        self.tile, self.of_region, self.of_slide = (
            nn.Sequential(nn.Linear(width, embed_dim), nn.ReLU(inplace=True), nn.Dropout(dropout))
            for width in (in_dim, embed_dim, embed_dim)
        )
        self.tile_scores, self.region_scores = (
            AttentionScores(embed_dim, attention_dim=attention_dim, dropout=dropout) for _ in range(2)
        )

    def pool(self, x: Tensor, offsets: Tensor, grid: Tensor | None, edges: Tensor | None) -> AggregatorOutput:
        """Tiles, regions, slide; see :class:`Aggregator`. Attention is (sum N,)."""
        assert grid is not None  # uses_grid
        region, region_offsets, places = square_regions(grid, offsets, self.region)
        h = self.tile(x)  # (sum N, E)
        within = group_softmax(self.tile_scores(h)[:, 0], region, len(places))  # (sum N,)
        g = self.of_region(group_weighted_sum(h, within, region, len(places)))  # (regions, E)
        between = segment_softmax(self.region_scores(g)[:, 0], region_offsets)  # (regions,)
        z = self.of_slide(segment_weighted_sum(g, between, region_offsets))  # (B, E)
        return AggregatorOutput(z.to(torch.promote_types(z.dtype, torch.float32)), within * between[region])
