"""R2T-MIL: Tang et al. 2024, tiles re-embedded by attention within regions and between them, then pooled."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wsikit.aggregators.base import Aggregator, AggregatorCard, AggregatorOutput
from wsikit.aggregators.options import at_least_one, below_one, multiple_of_heads
from wsikit.aggregators.registry import register_aggregator
from wsikit.errors import ConfigError
from wsikit.layers.gated_attention import AttentionScores
from wsikit.layers.grid_convolution import line_convolution
from wsikit.layers.multihead import carried_marks, packed_attention
from wsikit.layers.packed import bag_index, bag_sizes, segment_max, segment_softmax, segment_sum, segment_weighted_sum
from wsikit.layers.places import square_regions

CARD = AggregatorCard(
    name="rrt",
    summary="attention within regions of the slide and between them, then attention pooling",
    paper="Tang et al. 2024, Feature Re-Embedding: Towards Foundation Model-Level Performance in Computational "
    "Pathology, arXiv:2402.17228",
    repository="https://github.com/DearCaat/RRT-MIL",
    licence="none found",
    uses_grid=True,
    rollout=True,
)


class RegionAttention(nn.Module):
    """R-MSA: self-attention within each region, its scores convolved along the region's cells (EPEG).

    ``softmax over j of (e_ij + sum over t of w_t e_(i+t)j)`` with ``e_ij = q_i . k_j / sqrt d``, where i counts the
    cells of the region row by row, and a cell without a tile has e = 0. As e is linear in q, the queries are convolved
    in place of the scores: ``(q_i + sum of w_t q_(i+t)) . k_j``, the same numbers, and no matrix of scores is kept.

    The authors' convolution and keys also have a bias, which adds the same to all scores of a softmax.
    """

    def __init__(self, dim: int, *, heads: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.value, self.out = (nn.Linear(dim, dim) for _ in range(3))
        self.key = nn.Linear(dim, dim, bias=False)
        self.convolution = nn.Conv1d(heads, heads, kernel, groups=heads, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, line: Tensor, offsets: Tensor) -> Tensor:
        """Tiles sorted by region (N, E), their places on the line of all cells (N,), regions' offsets -> (N, E)."""
        query = self._query(h, line)
        attended = packed_attention(query, self.key(h), self.value(h), offsets, offsets, heads=self.heads)
        out: Tensor = self.dropout(self.out(attended))
        return out

    def carry(self, marks: Tensor, h: Tensor, line: Tensor, offsets: Tensor) -> Tensor:
        """Marks (N,) of the tiles -> what each hears of them, (N,)."""
        return carried_marks(self._query(h, line), self.key(h), marks, offsets, offsets, heads=self.heads)

    def _query(self, h: Tensor, line: Tensor) -> Tensor:
        query = self.query(h)
        convolved: Tensor = query + line_convolution(query, line, self.convolution.weight[:, 0])
        return convolved


class CrossRegionAttention(nn.Module):
    """CR-MSA: K representatives of each region attend to those of the other regions, and hand on what they found.

    With ``s = h Phi``, (N, K): representative k of a region is the mean of its tiles weighted by the softmax of s_k
    over them; it attends to the k-th of all regions of the bag; and tile i gets the sum over k of what came back, times
    ``minmax over the region(s_ik) softmax over k(s_ik)``. In a region whose s are all equal the minmax is 0.
    """

    def __init__(self, dim: int, *, heads: int, representatives: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        # As the authors' code: the bound is of the K representatives, not of the width, so the softmax begins sharp.
        self.phi = nn.Parameter(torch.empty(dim, representatives).uniform_(-1, 1) * representatives**-0.5)
        self.query, self.value, self.out = (nn.Linear(dim, dim) for _ in range(3))
        self.key = nn.Linear(dim, dim, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, offsets: Tensor, bag_regions: Tensor) -> Tensor:
        """Tiles sorted by region (N, E), the regions' offsets, the bags' offsets in regions -> (N, E)."""
        scores, found = self._representatives(h, offsets)
        query, key, value = (part(found).unbind(1) for part in (self.query, self.key, self.value))
        heard = [
            packed_attention(*parts, bag_regions, bag_regions, heads=self.heads)
            for parts in zip(query, key, value, strict=True)
        ]
        back = self.dropout(self.out(torch.stack(heard, dim=1)))  # (regions, K, E)
        weights = _handed_back(scores, offsets).to(back.dtype)
        return torch.cat([w @ b for w, b in zip(torch.split(weights, bag_sizes(offsets)), back, strict=True)])

    def carry(self, marks: Tensor, h: Tensor, offsets: Tensor, bag_regions: Tensor) -> tuple[Tensor, Tensor]:
        """Marks (N,) of the tiles -> what each hears of them, (N,), and with what weight in all, (N,) from 0 to 1."""
        scores, found = self._representatives(h, offsets)
        shown = segment_weighted_sum(segment_softmax(scores, offsets), marks, offsets)  # (regions, K)
        query, key = (part(found).unbind(1) for part in (self.query, self.key))
        heard = [
            carried_marks(*parts, bag_regions, bag_regions, heads=self.heads)
            for parts in zip(query, key, shown.unbind(1), strict=True)
        ]
        weights = _handed_back(scores, offsets)
        return (weights * torch.stack(heard, dim=1)[bag_index(offsets)]).sum(1), weights.sum(1)

    def _representatives(self, h: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (N, K), and the representatives of each region (regions, K, E)."""
        scores = (h @ self.phi).to(torch.promote_types(h.dtype, torch.float32))
        return scores, segment_weighted_sum(h, segment_softmax(scores, offsets), offsets)


def _handed_back(scores: Tensor, offsets: Tensor) -> Tensor:
    """How much of each representative each tile gets, (N, K)."""
    least, most = -segment_max(-scores, offsets), segment_max(scores, offsets)  # (regions, K)
    region = bag_index(offsets)
    spread = (scores - least[region]) / (most - least + 1e-8)[region]
    # Without this, a region of one tile has 1e8 minus 1e8 in its gradient.
    spread = spread.masked_fill((most == least)[region], 0)
    return spread * scores.softmax(dim=1)


@register_aggregator(CARD)
class Rrt(Aggregator):
    """Tiles hear their region, then, through representatives, the other regions; attention pools them.

    ``h = dropout(relu(W x))``; ``h = h + RMSA(norm(h))``; ``h = h + CRMSA(norm(h))``; ``z = sum of a norm(h)`` with the
    plain attention of Ilse et al. 2018 (eq. 8), as in the paper (the authors' code has a ReLU there unless told).
    See :class:`RegionAttention` and :class:`CrossRegionAttention`; widths and initial weights are of the authors' code.

    Regions are squares of the slide's grid, and hold the tiles that are there. The paper folds the list of tiles into
    a square, whatever their places, fills it up with zeros, which are attended to, and cuts it into 8 x 8
    regions: of 12 x 12 cells for some 9,000 tiles.

    Left out: the shortcut round both layers, the MLP in place of Phi and fewer heads between regions, which the authors
    switch on for some data, and what they have for ablation only.

    Args:
        in_dim: D.
        embed_dim: E, a multiple of the heads.
        heads: H of both attentions.
        region: Steps of the grid on each side. Powers of two up to 64 keep a patient's slides apart.
        kernel: Cells that EPEG reaches over, odd; the authors have 9 to 21, by data.
        representatives: K of each region; the authors have 1 to 5.
        dropout: In training, on the first h.
        region_dropout: In training, on the answer of both attentions.

    Example:
        >>> model = Rrt(16, embed_dim=32, region=2).eval()
        >>> model(torch.zeros(2, 16), grid=torch.tensor([[0, 0], [9, 9]])).attention.detach()
        tensor([0.5000, 0.5000])
    """

    card = CARD

    def __init__(
        self,
        in_dim: int,
        *,
        embed_dim: int = 512,
        heads: int = 8,
        region: int = 16,
        kernel: int = 15,
        representatives: int = 3,
        dropout: float = 0.25,
        region_dropout: float = 0.1,
    ) -> None:
        at_least_one("rrt", embed_dim=embed_dim, heads=heads, region=region, representatives=representatives)
        multiple_of_heads("rrt", embed_dim, heads)
        if kernel < 1 or kernel % 2 == 0:
            raise ConfigError(f"aggregator 'rrt': kernel={kernel}; expected an odd number, at least 1")
        below_one("rrt", dropout=dropout, region_dropout=region_dropout)
        super().__init__(in_dim, embed_dim)
        self.region, self.reach = region, kernel // 2
        self.project = nn.Sequential(nn.Linear(in_dim, embed_dim), nn.ReLU(inplace=True), nn.Dropout(dropout))
        self.within_norm, self.across_norm, self.norm = (nn.LayerNorm(embed_dim) for _ in range(3))
        self.within = RegionAttention(embed_dim, heads=heads, kernel=kernel, dropout=region_dropout)
        self.across = CrossRegionAttention(
            embed_dim, heads=heads, representatives=representatives, dropout=region_dropout
        )
        self.scores = AttentionScores(embed_dim, gated=False)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv1d)):
                nn.init.xavier_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def pool(self, x: Tensor, offsets: Tensor, grid: Tensor | None, edges: Tensor | None) -> AggregatorOutput:
        """Regions, within, across, pooling; see :class:`Aggregator`. Attention is (sum N,)."""
        order, line, region_offsets, bag_regions = self._regions(grid, offsets)
        h = self.project(x[order])  # (sum N, E)
        h = h + self.within(self.within_norm(h), line, region_offsets)
        h = self.norm(h + self.across(self.across_norm(h), region_offsets, bag_regions))
        attention = segment_softmax(self.scores(h)[:, 0], offsets)  # (sum N,)
        embedding = segment_weighted_sum(h, attention, offsets)  # (B, E)
        return AggregatorOutput(embedding, torch.zeros_like(attention).index_copy(0, order, attention))

    def carry(self, marks: Tensor, x: Tensor, offsets: Tensor, grid: Tensor | None, edges: Tensor | None) -> Tensor:
        """Within regions, across them, and by the pooling's own weights; see :class:`Aggregator`.

        What a tile hears across regions has a weight w of at most 1 in all, so it is ``(marks + A marks) / (1 + w)``
        there: the paper on rollout, too, gives the rows of A + I a sum of 1.
        """
        order, line, region_offsets, bag_regions = self._regions(grid, offsets)
        h, marks = self.project(x[order]), marks[order]
        normed = self.within_norm(h)
        marks = (marks + self.within.carry(marks, normed, line, region_offsets)) / 2
        h = h + self.within(normed, line, region_offsets)
        normed = self.across_norm(h)
        heard, weight = self.across.carry(marks, normed, region_offsets, bag_regions)
        marks = (marks + heard) / (1 + weight)
        h = self.norm(h + self.across(normed, region_offsets, bag_regions))
        return segment_sum(segment_softmax(self.scores(h)[:, 0], offsets) * marks, offsets)

    def _regions(self, grid: Tensor | None, offsets: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Tiles sorted by region: their order and places on the line (sum N,), the regions' offsets and the bags'."""
        assert grid is not None  # uses_grid
        region, bag_regions, corners = square_regions(grid, offsets, self.region)
        inside = grid - self.region * corners[region]  # (sum N, 2), x then y within the region
        cell = inside[:, 1] * self.region + inside[:, 0]
        line = region * (self.region**2 + self.reach) + cell  # regions so far apart that no kernel reaches over
        order = line.argsort(stable=True)  # regions are numbered bag by bag: bags stay where they are
        region_offsets = torch.cat([region.new_zeros(1), region.bincount().cumsum(0)])
        return order, line[order], region_offsets, bag_regions
