"""ILRA-MIL: Xiang et al. 2023, iterated low-rank attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wsikit.aggregators.base import Aggregator, AggregatorCard, AggregatorOutput
from wsikit.aggregators.options import at_least_one, multiple_of_heads
from wsikit.aggregators.registry import register_aggregator
from wsikit.layers.multihead import attention_maps, carried_marks, packed_attention, repeat_rows

CARD = AggregatorCard(
    name="ilra",
    summary="gated attention through a learned low-rank matrix, iterated",
    paper="Xiang et al. 2023, Exploring Low-Rank Property in Multiple Instance Learning for Whole Slide Image "
    "Classification, ICLR 2023, https://openreview.net/forum?id=01KmhBsEPFO",
    repository="https://github.com/jinxixiang/low_rank_wsi",
    licence="none given",
    rollout=True,
)


class GatedAttention(nn.Module):
    """``Q = W x``, ``H = norm(Q + multihead(Q, y, y))``, ``norm(H + relu(U H + b))``, times ``silu(G x + g)`` if gated.

    The authors' code has two linear maps one after the other for keys and for values, which are
    one here: the same functions. Keys have no bias, which the softmax would take back.
    """

    def __init__(self, query_dim: int, key_dim: int, dim: int, *, heads: int, layer_norm: bool, gated: bool) -> None:
        super().__init__()
        self.heads = heads
        self.project = nn.Linear(query_dim, dim)  # W
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(key_dim, dim, bias=False)
        self.value = nn.Linear(key_dim, dim)
        self.out = nn.Linear(dim, dim)
        self.feed_forward = nn.Linear(dim, dim)  # U
        self.gate = nn.Linear(query_dim, dim) if gated else None  # G
        self.norm1, self.norm2 = (nn.LayerNorm(dim) if layer_norm else nn.Identity() for _ in range(2))

    def forward(self, x: Tensor, x_offsets: Tensor, y: Tensor, y_offsets: Tensor) -> Tensor:
        """Packed x (sum M, query_dim) and y (sum N, key_dim) -> (sum M, E)."""
        projected = self.project(x)
        query, key, value = self.query(projected), self.key(y), self.value(y)
        attended = self.out(packed_attention(query, key, value, x_offsets, y_offsets, heads=self.heads))
        h = self.norm1(projected + attended)
        h = self.norm2(h + self.feed_forward(h).relu())
        gated: Tensor = h if self.gate is None else h * nn.functional.silu(self.gate(x))
        return gated

    def carry(
        self, marks: Tensor, x: Tensor, x_offsets: Tensor, y_marks: Tensor, y: Tensor, y_offsets: Tensor
    ) -> Tensor:
        """Marks of x and y, (sum M,) and (sum N,) -> those of the answer, (sum M,)."""
        query, key = self.query(self.project(x)), self.key(y)
        return (marks + carried_marks(query, key, y_marks, x_offsets, y_offsets, heads=self.heads)) / 2

    def maps(self, x: Tensor, x_offsets: Tensor, y: Tensor, y_offsets: Tensor) -> Tensor:
        """What each of the M queries looks at, mean over the heads: (sum N, M)."""
        return attention_maps(self.query(self.project(x)), self.key(y), x_offsets, y_offsets, heads=self.heads)


class LowRankAttention(nn.Module):
    """GAB (eq. 16): instances to r latent rows L and back, ``GatedAttention(X, GatedAttention(L, X))``."""

    def __init__(self, in_dim: int, dim: int, *, rank: int, heads: int, layer_norm: bool) -> None:
        super().__init__()
        self.latent = nn.Parameter(nn.init.xavier_uniform_(torch.empty(rank, dim)))
        self.down = GatedAttention(dim, in_dim, dim, heads=heads, layer_norm=layer_norm, gated=True)
        self.up = GatedAttention(in_dim, dim, dim, heads=heads, layer_norm=layer_norm, gated=True)

    def forward(self, x: Tensor, offsets: Tensor) -> Tensor:
        """(sum N, in_dim) -> (sum N, E)."""
        latent, latent_offsets = repeat_rows(self.latent, len(offsets) - 1)
        h = self.down(latent, latent_offsets, x, offsets)  # (B r, E)
        out: Tensor = self.up(x, offsets, h, latent_offsets)
        return out

    def carry(self, marks: Tensor, x: Tensor, offsets: Tensor) -> Tensor:
        """Marks (sum N,) of x -> those of the answer, (sum N,)."""
        latent, latent_offsets = repeat_rows(self.latent, len(offsets) - 1)
        gathered = self.down.carry(marks.new_zeros(len(latent)), latent, latent_offsets, marks, x, offsets)  # (B r,)
        h = self.down(latent, latent_offsets, x, offsets)
        return self.up.carry(marks, x, offsets, gathered, h, latent_offsets)


@register_aggregator(CARD)
class Ilra(Aggregator):
    """Low-rank attention blocks (eq. 16), then non-local pooling by one learned query.

    Widths, heads, layers and layer norms are those of the authors' code and its configuration. Its rank is 1 there:
    then all instances attend to a single row, and the attention on the way back is constant; the paper's point is a
    low rank rather than none, so the default here is 16 (our choice).

    Args:
        in_dim: D.
        embed_dim: E, a multiple of the heads.
        heads: H.
        rank: r, the latent rows of each block.
        layers: How many blocks.
        layer_norm: Whether the blocks normalise.

    Example:
        >>> Ilra(16)(torch.zeros(4, 16)).attention
        tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """

    card = CARD

    def __init__(
        self,
        in_dim: int,
        *,
        embed_dim: int = 256,
        heads: int = 8,
        rank: int = 16,
        layers: int = 2,
        layer_norm: bool = True,
    ) -> None:
        at_least_one("ilra", embed_dim=embed_dim, heads=heads, rank=rank, layers=layers)
        multiple_of_heads("ilra", embed_dim, heads)
        super().__init__(in_dim, embed_dim)
        self.blocks = nn.ModuleList(
            LowRankAttention(embed_dim if layer else in_dim, embed_dim, rank=rank, heads=heads, layer_norm=layer_norm)
            for layer in range(layers)
        )
        self.global_query = nn.Parameter(nn.init.xavier_uniform_(torch.empty(1, embed_dim)))
        self.pooling = GatedAttention(embed_dim, embed_dim, embed_dim, heads=heads, layer_norm=layer_norm, gated=False)
        for module in self.modules():
            if isinstance(module, nn.Linear):  # as the authors' code
                nn.init.xavier_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def pool(self, x: Tensor, offsets: Tensor, grid: Tensor | None, edges: Tensor | None) -> AggregatorOutput:
        """Blocks, pooling; see :class:`Aggregator`. Attention is that of the pooling, (sum N,)."""
        for block in self.blocks:
            x = block(x, offsets)  # (sum N, E)
        query, query_offsets = repeat_rows(self.global_query, len(offsets) - 1)  # (B, E)
        z = self.pooling(query, query_offsets, x, offsets)
        attention = self.pooling.maps(query, query_offsets, x, offsets)[:, 0]
        return AggregatorOutput(z.to(torch.promote_types(z.dtype, torch.float32)), attention)

    def carry(self, marks: Tensor, x: Tensor, offsets: Tensor, grid: Tensor | None, edges: Tensor | None) -> Tensor:
        """Through the blocks to the query; see :class:`Aggregator`."""
        for block in self.blocks:
            assert isinstance(block, LowRankAttention)
            marks, x = block.carry(marks, x, offsets), block(x, offsets)
        query, query_offsets = repeat_rows(self.global_query, len(offsets) - 1)
        return self.pooling.carry(marks.new_zeros(len(query)), query, query_offsets, marks, x, offsets)
