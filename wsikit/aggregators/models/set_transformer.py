"""Set Transformer: Lee et al. 2019, induced self-attention and pooling by learned seeds."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wsikit.aggregators.base import Aggregator, AggregatorCard, AggregatorOutput
from wsikit.aggregators.options import at_least_one, multiple_of_heads
from wsikit.aggregators.registry import register_aggregator
from wsikit.layers.multihead import attention_maps, carried_marks, packed_attention, repeat_rows
from wsikit.layers.packed import segment_mean

CARD = AggregatorCard(
    name="set-transformer",
    summary="self-attention through inducing points, pooled by learned seeds",
    paper="Lee et al. 2019, Set Transformer: A Framework for Attention-based Permutation-Invariant Neural Networks, "
    "arXiv:1810.00825",
    repository="https://github.com/juho-lee/set_transformer",
    licence="MIT",
    rollout=True,
)


class AttentionBlock(nn.Module):
    """MAB (eq. 6 and 7): ``H = norm(X + multihead(X, Y, Y))``, ``norm(H + relu(W H + b))``.

    As in the authors' code, X is projected before it is added, the heads are joined without a further
    matrix, and scores are divided by the root of the whole width E (the paper's d), not of a head's. Keys have no
    bias: it would shift all scores of a query alike, which the softmax takes back.
    """

    def __init__(self, query_dim: int, key_dim: int, dim: int, *, heads: int, layer_norm: bool) -> None:
        super().__init__()
        self.heads, self.scale = heads, dim**-0.5
        self.query = nn.Linear(query_dim, dim)
        self.key = nn.Linear(key_dim, dim, bias=False)
        self.value = nn.Linear(key_dim, dim)
        self.feed_forward = nn.Linear(dim, dim)
        self.norm1, self.norm2 = (nn.LayerNorm(dim) if layer_norm else nn.Identity() for _ in range(2))

    def forward(self, x: Tensor, x_offsets: Tensor, y: Tensor, y_offsets: Tensor) -> Tensor:
        """Packed X (sum M, query_dim) and Y (sum N, key_dim) -> (sum M, E)."""
        query, key, value = self.query(x), self.key(y), self.value(y)
        attended = packed_attention(query, key, value, x_offsets, y_offsets, heads=self.heads, scale=self.scale)
        h = self.norm1(query + attended)
        out: Tensor = self.norm2(h + self.feed_forward(h).relu())
        return out

    def carry(
        self, marks: Tensor, x: Tensor, x_offsets: Tensor, y_marks: Tensor, y: Tensor, y_offsets: Tensor
    ) -> Tensor:
        """Marks of X and Y, (sum M,) and (sum N,) -> those of the answer, (sum M,)."""
        query, key = self.query(x), self.key(y)
        heard = carried_marks(query, key, y_marks, x_offsets, y_offsets, heads=self.heads, scale=self.scale)
        return (marks + heard) / 2

    def maps(self, x: Tensor, x_offsets: Tensor, y: Tensor, y_offsets: Tensor) -> Tensor:
        """What each of the M queries looks at, mean over the heads: (sum N, M)."""
        return attention_maps(self.query(x), self.key(y), x_offsets, y_offsets, heads=self.heads, scale=self.scale)


class InducedAttention(nn.Module):
    """ISAB (eq. 9 and 10): ``MAB(X, MAB(I, X))`` with learned inducing points I (M, E)."""

    def __init__(self, in_dim: int, dim: int, *, points: int, heads: int, layer_norm: bool) -> None:
        super().__init__()
        self.points = nn.Parameter(nn.init.xavier_uniform_(torch.empty(points, dim)))
        self.gather = AttentionBlock(dim, in_dim, dim, heads=heads, layer_norm=layer_norm)
        self.scatter = AttentionBlock(in_dim, dim, dim, heads=heads, layer_norm=layer_norm)

    def forward(self, x: Tensor, offsets: Tensor) -> Tensor:
        """(sum N, in_dim) -> (sum N, E)."""
        points, point_offsets = repeat_rows(self.points, len(offsets) - 1)
        h = self.gather(points, point_offsets, x, offsets)  # (B M, E)
        out: Tensor = self.scatter(x, offsets, h, point_offsets)
        return out

    def carry(self, marks: Tensor, x: Tensor, offsets: Tensor) -> Tensor:
        """Marks (sum N,) of X -> those of the answer, (sum N,)."""
        points, point_offsets = repeat_rows(self.points, len(offsets) - 1)
        gathered = self.gather.carry(marks.new_zeros(len(points)), points, point_offsets, marks, x, offsets)  # (B M,)
        h = self.gather(points, point_offsets, x, offsets)
        return self.scatter.carry(marks, x, offsets, gathered, h, point_offsets)


@register_aggregator(CARD)
class SetTransformer(Aggregator):
    """Instances exchange what they know through inducing points; learned seeds then pool them.

    ``X = ISAB(ISAB(x))`` (eq. 9 and 10), ``z = PMA(X) = MAB(S, X)`` (eq. 11, without its feed-forward part, as in the
    authors' code), and with more than one seed ``z = SAB(z)`` (eq. 8 and 12).

    Args:
        in_dim: D.
        embed_dim: Width of a seed, a multiple of the heads; E = seeds embed_dim.
        heads: H.
        points: Inducing points of each ISAB.
        layers: How many ISABs.
        seeds: K; attention is a map for each of them.
        layer_norm: As in eq. 6 and 7; the authors' code leaves it out unless told.

    Example:
        >>> SetTransformer(16)(torch.zeros(4, 16)).attention
        tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """

    card = CARD

    def __init__(
        self,
        in_dim: int,
        *,
        embed_dim: int = 128,
        heads: int = 4,
        points: int = 32,
        layers: int = 2,
        seeds: int = 1,
        layer_norm: bool = True,
    ) -> None:
        at_least_one("set-transformer", embed_dim=embed_dim, heads=heads, points=points, layers=layers, seeds=seeds)
        multiple_of_heads("set-transformer", embed_dim, heads)
        super().__init__(in_dim, seeds * embed_dim)
        self.encoder = nn.ModuleList(
            InducedAttention(
                embed_dim if layer else in_dim, embed_dim, points=points, heads=heads, layer_norm=layer_norm
            )
            for layer in range(layers)
        )
        self.seeds = nn.Parameter(nn.init.xavier_uniform_(torch.empty(seeds, embed_dim)))
        self.pooling = AttentionBlock(embed_dim, embed_dim, embed_dim, heads=heads, layer_norm=layer_norm)
        self.between_seeds = (
            AttentionBlock(embed_dim, embed_dim, embed_dim, heads=heads, layer_norm=layer_norm) if seeds > 1 else None
        )

    def pool(self, x: Tensor, offsets: Tensor, grid: Tensor | None, edges: Tensor | None) -> AggregatorOutput:
        """Encoder, pooling; see :class:`Aggregator`. Attention is (sum N,), or (sum N, K)."""
        for layer in self.encoder:
            x = layer(x, offsets)  # (sum N, embed_dim)
        seeds, seed_offsets = repeat_rows(self.seeds, len(offsets) - 1)
        z = self.pooling(seeds, seed_offsets, x, offsets)  # (B K, embed_dim)
        if self.between_seeds is not None:
            z = self.between_seeds(z, seed_offsets, z, seed_offsets)
        attention = self.pooling.maps(seeds, seed_offsets, x, offsets)  # (sum N, K)
        embedding = z.to(torch.promote_types(z.dtype, torch.float32)).reshape(len(offsets) - 1, -1)  # (B, E)
        return AggregatorOutput(embedding, attention.squeeze(1))

    def carry(self, marks: Tensor, x: Tensor, offsets: Tensor, grid: Tensor | None, edges: Tensor | None) -> Tensor:
        """Through the encoder to the seeds; see :class:`Aggregator`."""
        for layer in self.encoder:
            assert isinstance(layer, InducedAttention)
            marks, x = layer.carry(marks, x, offsets), layer(x, offsets)
        seeds, seed_offsets = repeat_rows(self.seeds, len(offsets) - 1)
        found = self.pooling.carry(marks.new_zeros(len(seeds)), seeds, seed_offsets, marks, x, offsets)  # (B K,)
        if self.between_seeds is not None:
            z = self.pooling(seeds, seed_offsets, x, offsets)
            found = self.between_seeds.carry(found, z, seed_offsets, found, z, seed_offsets)
        return segment_mean(found, seed_offsets)
