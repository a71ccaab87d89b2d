"""Perceiver: Jaegle et al. 2021, a few learned latents that query the bag again and again."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wsikit.aggregators.base import Aggregator, AggregatorCard, AggregatorOutput
from wsikit.aggregators.options import at_least_one, multiple_of_heads
from wsikit.aggregators.registry import register_aggregator
from wsikit.layers.multihead import attention_maps, carried_marks, packed_attention, repeat_rows
from wsikit.layers.packed import segment_mean

CARD = AggregatorCard(
    name="perceiver",
    summary="learned latents that query the instances, with a transformer among themselves",
    paper="Jaegle et al. 2021, Perceiver: General Perception with Iterative Attention, arXiv:2103.03206",
    repository="https://github.com/google-deepmind/deepmind-research/tree/master/perceiver",
    licence="Apache-2.0",
    rollout=True,
)


class LatentAttention(nn.Module):
    """``Z = Z + W multihead(norm Z, norm Y, norm Y)``, then ``Z = Z + mlp(norm Z)`` (a GELU between two layers)."""

    def __init__(self, dim: int, key_dim: int, *, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.key_norm, self.mlp_norm = nn.LayerNorm(dim), nn.LayerNorm(key_dim), nn.LayerNorm(dim)
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(key_dim, dim, bias=False)  # the softmax would take a bias back
        self.value = nn.Linear(key_dim, dim)
        self.out = nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim))

    def forward(self, z: Tensor, z_offsets: Tensor, y: Tensor, y_offsets: Tensor) -> Tensor:
        """Packed Z (sum M, E) and Y (sum N, key_dim) -> (sum M, E)."""
        y = self.key_norm(y)
        query, key, value = self.query(self.norm(z)), self.key(y), self.value(y)
        z = z + self.out(packed_attention(query, key, value, z_offsets, y_offsets, heads=self.heads))
        out: Tensor = z + self.mlp(self.mlp_norm(z))
        return out

    def carry(
        self, marks: Tensor, z: Tensor, z_offsets: Tensor, y_marks: Tensor, y: Tensor, y_offsets: Tensor
    ) -> Tensor:
        """Marks of Z and Y, (sum M,) and (sum N,) -> those of the answer, (sum M,)."""
        query, key = self.query(self.norm(z)), self.key(self.key_norm(y))
        return (marks + carried_marks(query, key, y_marks, z_offsets, y_offsets, heads=self.heads)) / 2

    def maps(self, z: Tensor, z_offsets: Tensor, y: Tensor, y_offsets: Tensor) -> Tensor:
        """What each of the M latents looks at, mean over the heads: (sum N, M)."""
        query, key = self.query(self.norm(z)), self.key(self.key_norm(y))
        return attention_maps(query, key, z_offsets, y_offsets, heads=self.heads)


@register_aggregator(CARD)
class Perceiver(Aggregator):
    """In each round the latents query the instances, and then exchange what they found; z is their mean.

    ``Z = cross(Z, X)``, then ``Z = self(Z, Z)`` a few times, in ``rounds`` rounds; ``z = mean of Z``.

    From the paper (section 3.1): the blocks, and the sharing of weights between the rounds, except for the first
    cross-attention. From the authors' code: one head in the cross-attention, an MLP no wider than E. The sizes are
    ours, far below the paper's, which are for images by their pixels. There is no Fourier encoding of places: the
    bag is a set.

    Attention is that of the last cross-attention, mean over the latents.

    Args:
        in_dim: D.
        embed_dim: E, a multiple of the heads.
        latents: M, how many.
        rounds: How often the latents query the instances.
        layers: Blocks of self-attention in each round.
        heads: Of the self-attention.

    Example:
        >>> Perceiver(16)(torch.zeros(4, 16)).attention
        tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """

    card = CARD

    def __init__(
        self,
        in_dim: int,
        *,
        embed_dim: int = 256,
        latents: int = 32,
        rounds: int = 2,
        layers: int = 2,
        heads: int = 8,
    ) -> None:
        at_least_one("perceiver", embed_dim=embed_dim, latents=latents, rounds=rounds, layers=layers, heads=heads)
        multiple_of_heads("perceiver", embed_dim, heads)
        super().__init__(in_dim, embed_dim)
        self.rounds = rounds
        # As the authors' code: a narrow normal distribution, cut at two standard deviations.
        self.latents = nn.Parameter(nn.init.trunc_normal_(torch.empty(latents, embed_dim), std=0.02, a=-0.04, b=0.04))
        self.first_cross = LatentAttention(embed_dim, in_dim, heads=1)
        self.cross = LatentAttention(embed_dim, in_dim, heads=1) if rounds > 1 else None
        self.layers = nn.ModuleList(LatentAttention(embed_dim, embed_dim, heads=heads) for _ in range(layers))

    def pool(self, x: Tensor, offsets: Tensor, grid: Tensor | None, edges: Tensor | None) -> AggregatorOutput:
        """Rounds, mean; see :class:`Aggregator`. Attention is (sum N,)."""
        z, z_offsets = repeat_rows(self.latents, len(offsets) - 1)  # (B M, E)
        for turn in range(self.rounds):
            cross = self._cross(turn)
            if turn == self.rounds - 1:
                attention = cross.maps(z, z_offsets, x, offsets).mean(1)
            z = cross(z, z_offsets, x, offsets)
            for layer in self.layers:
                z = layer(z, z_offsets, z, z_offsets)
        return AggregatorOutput(segment_mean(z, z_offsets), attention)

    def carry(self, marks: Tensor, x: Tensor, offsets: Tensor, grid: Tensor | None, edges: Tensor | None) -> Tensor:
        """Through all rounds to the latents; see :class:`Aggregator`."""
        z, z_offsets = repeat_rows(self.latents, len(offsets) - 1)
        found = marks.new_zeros(len(z))  # (B M,)
        for turn in range(self.rounds):
            cross = self._cross(turn)
            found = cross.carry(found, z, z_offsets, marks, x, offsets)
            z = cross(z, z_offsets, x, offsets)
            for layer in self.layers:
                assert isinstance(layer, LatentAttention)
                found = layer.carry(found, z, z_offsets, found, z, z_offsets)
                z = layer(z, z_offsets, z, z_offsets)
        return segment_mean(found, z_offsets)

    def _cross(self, turn: int) -> LatentAttention:
        return self.first_cross if turn == 0 or self.cross is None else self.cross
