"""WiKG: every tile hears the tiles that its head finds most alike among all tails, Li et al. 2024."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu
from torch.utils.checkpoint import checkpoint

from wsikit.aggregators.base import Aggregator, AggregatorCard, AggregatorOutput
from wsikit.aggregators.options import at_least_one, below_one
from wsikit.aggregators.registry import register_aggregator
from wsikit.layers.packed import bag_sizes, segment_softmax, segment_weighted_sum

CARD = AggregatorCard(
    name="wikg",
    summary="a graph that is learnt with the weights: head and tail of each tile, the k best matches, attention",
    paper=(
        "Li et al. 2024, Dynamic Graph Representation with Knowledge-aware Attention for Histopathology Whole Slide "
        "Image Analysis, arXiv:2403.07719"
    ),
    repository="https://github.com/WonderLandxD/WiKG",
    licence="none",
)

SCORES = 1 << 24
"""Matches of heads with tails held at once: 64 MiB of float32."""
VALUES = 1 << 23
"""Values of neighbours held at once, and worked out again in the backward pass: 32 MiB of float32 for each step."""


@register_aggregator(CARD)
class WiKG(Aggregator):
    """Heads look for tails; what they find is weighed, mixed in, and pooled.

    1. ``x <- leaky_relu(W x)``, then half of it and half of the bag's mean; head ``h = W_h x``, tail ``t = W_t x``.
    2. The neighbours of i are the k tiles j with the largest ``s_ij = h_i . t_j / sqrt(E)``, i among them or not.
    3. Edge ``r_ij = p_ij t_j + (1 - p_ij) h_i``, p the softmax of s over the k neighbours.
    4. ``u_ij = t_j . tanh(h_i + r_ij)``, and ``n_i = sum of softmax(u_i)_j t_j``.
    5. ``e_i = leaky_relu(W_1 (h_i + n_i)) + leaky_relu(W_2 (h_i * n_i))``, dropout, attention pooling, layer norm.

    The dense equations, without their memory: matches are looked through in blocks that keep the k best, and
    steps 3 to 5 are worked out again in the backward pass. Time still grows with the square of the tiles.

    As in the authors' code: all but step 4, where it multiplies the sum of the tail with the sum of the tanh; here
    they meet in an inner product, that of the attention which the paper takes up (KGAT, arXiv:1905.07854,
    eq. 4). Layers of the code that nothing calls are left out.

    Args:
        in_dim: D.
        embed_dim: E.
        k: Neighbours of a tile; all tiles where there are fewer.
        dropout: In training, on the tiles before they are pooled.

    Example:
        >>> WiKG(16)(torch.zeros(3, 16)).embedding.shape
        torch.Size([1, 512])
    """

    card = CARD

    def __init__(self, in_dim: int, *, embed_dim: int = 512, k: int = 6, dropout: float = 0.3) -> None:
        at_least_one("wikg", embed_dim=embed_dim, k=k)
        below_one("wikg", dropout=dropout)
        super().__init__(in_dim, embed_dim)
        self.k = k
        self.project = nn.Linear(in_dim, embed_dim)
        self.head = nn.Linear(embed_dim, embed_dim)
        self.tail = nn.Linear(embed_dim, embed_dim)
        self.sum = nn.Linear(embed_dim, embed_dim)
        self.product = nn.Linear(embed_dim, embed_dim)
        self.dropout = nn.Dropout(dropout)
        half = max(1, embed_dim // 2)
        self.scores = nn.Sequential(nn.Linear(embed_dim, half), nn.LeakyReLU(), nn.Linear(half, 1, bias=False))
        self.norm = nn.LayerNorm(embed_dim)

    def pool(self, x: Tensor, offsets: Tensor, grid: Tensor | None, edges: Tensor | None) -> AggregatorOutput:
        """Bag by bag to the neighbours, then attention pooling; see :class:`Aggregator`."""
        found = []
        for bag in torch.split(x, bag_sizes(offsets)):
            h = leaky_relu(self.project(bag))
            h = (h + h.mean(dim=0, keepdim=True)) / 2  # (N, E)
            found += self._listen(self.head(h), self.tail(h))
        tiles = self.dropout(torch.cat(found))  # (sum N, E)
        attention = segment_softmax(self.scores(tiles)[:, 0], offsets)  # (sum N,)
        return AggregatorOutput(self.norm(segment_weighted_sum(tiles, attention, offsets)), attention)

    def _listen(self, head: Tensor, tail: Tensor) -> list[Tensor]:
        """Steps 2 to 5 of one bag: heads and tails (N, E) -> its tiles, in blocks of (n, E)."""
        best = best_tails(head, tail, self.k)  # (N, k)
        step = max(1, VALUES // (best.shape[1] * head.shape[1]))
        blocks = zip(torch.split(head, step), torch.split(best, step), strict=True)
        return [
            checkpoint(self._mix, mine, tail, index, use_reentrant=False, preserve_rng_state=False)
            for mine, index in blocks
        ]

    def _mix(self, head: Tensor, tail: Tensor, index: Tensor) -> Tensor:
        """Step 5 for some heads (n, E), given all tails (N, E) and who hears whom (n, k)."""
        heard = _hear(head, tail, index)
        tiles: Tensor = leaky_relu(self.sum(head + heard)) + leaky_relu(self.product(head * heard))
        return tiles


@torch.no_grad()
def best_tails(head: Tensor, tail: Tensor, k: int) -> Tensor:
    """For each head (N, E) the k tails (N, E) with the largest inner product, best first: (N, min(k, N)) int64."""
    found = []
    rows = min(1024, max(1, SCORES // len(tail)))
    with torch.autocast(head.device.type, enabled=False):
        wide = torch.promote_types(head.dtype, torch.float32)
        columns = tail.to(wide).T
        for block in torch.split(head.to(wide), rows):
            found.append((block @ columns).topk(min(k, len(tail)), dim=1).indices)
    return torch.cat(found)


def _hear(head: Tensor, tail: Tensor, index: Tensor) -> Tensor:
    """Steps 3 and 4 for some heads (n, E), given all tails (N, E) and who hears whom (n, k)."""
    tails = tail[index]  # (n, k, E)
    own = head[:, None]  # (n, 1, E)
    near = (own * tails).sum(-1) * head.shape[1] ** -0.5  # (n, k)
    p = near.softmax(dim=1)[:, :, None]
    edge = p * tails + (1 - p) * own
    weight = (tails * (own + edge).tanh()).sum(-1).softmax(dim=1)  # (n, k)
    heard: Tensor = (weight[:, :, None] * tails).sum(1)
    return heard
