"""TransMIL: Shao et al. 2021, two Nystrom transformer layers with a positional convolution between them."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsikit.aggregators.base import Aggregator, AggregatorCard, AggregatorOutput
from wsikit.aggregators.options import at_least_one, below_one, multiple_of_heads
from wsikit.aggregators.registry import register_aggregator
from wsikit.errors import ConfigError
from wsikit.layers.grid_convolution import grid_convolution
from wsikit.layers.nystrom import NystromAttention
from wsikit.layers.packed import bag_sizes
from wsikit.layers.places import reading_order

CARD = AggregatorCard(
    name="transmil",
    summary="Nystrom transformer with a positional convolution on the tiles' grid",
    paper="Shao et al. 2021, TransMIL: Transformer based Correlated Multiple Instance Learning for Whole Slide Image "
    "Classification, arXiv:2106.00908",
    repository="https://github.com/szc19990412/TransMIL",
    licence="none given",
    uses_grid=True,
    rollout=True,
    attention=False,  # the Nystrom approximation of the class token's attention has negative entries
)


class PyramidEncoding(nn.Module):
    """PPEG: ``h + conv7(h) + conv5(h) + conv3(h)``, depthwise, of the tiles at their places (algorithm 3).

    The three kernels are added up first: one convolution, the same sum.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv7, self.conv5, self.conv3 = (nn.Conv2d(dim, dim, size, groups=dim) for size in (7, 5, 3))

    def forward(self, h: Tensor, grid: Tensor) -> Tensor:
        """(N, E) and (N, 2) -> (N, E)."""
        weight = self.conv7.weight + F.pad(self.conv5.weight, [1] * 4) + F.pad(self.conv3.weight, [2] * 4)
        biases = [conv.bias for conv in (self.conv7, self.conv5, self.conv3) if conv.bias is not None]
        return h + grid_convolution(h, grid, weight, torch.stack(biases).sum(0))


@register_aggregator(CARD)
class TransMil(Aggregator):
    """A class token that attends, in two Nystrom transformer layers, to all instances and their places.

    ``h = relu(W x + b)``; ``H = [class; h_1 .. h_N]``; ``H = H + attention(norm(H))``; the instances
    through :class:`PyramidEncoding`; ``H = H + attention(norm(H))``; ``z = norm(H)[class]``.

    From the paper: algorithms 2 and 3, :class:`~wsikit.layers.nystrom.NystromAttention`; from the authors'
    code: the widths, the dropout, and that a layer has no feed-forward part. Of the last layer only what
    the class token needs is computed: the same numbers.

    Instances are taken in the reading order of their grid. The paper folds the list of instances into a square, filled
    up with the first ones once more, as if it had no places; here each is convolved where it is.
    ``places="square"`` is the paper's way, and then attention is padded with zeros, too, as the authors' code pads it.

    There is no attention map: the approximated row of the class token holds negative numbers. Attention rollout there
    is, of the approximated matrices, and with such numbers; both convolutions count as rows passed on as they are.

    Args:
        in_dim: D.
        embed_dim: E, a multiple of the heads.
        heads: H.
        landmarks: Of the attention; None: half of E, as the authors' code.
        iterations: Of the pseudo-inverse.
        dropout: In training, after each attention.
        places: "grid" or "square".

    Example:
        >>> model = TransMil(16, embed_dim=32)
        >>> model(torch.zeros(5, 16), grid=torch.tensor([[0, 0], [1, 0], [2, 0], [0, 1], [9, 9]])).embedding.shape
        torch.Size([1, 32])
    """

    card = CARD

    def __init__(
        self,
        in_dim: int,
        *,
        embed_dim: int = 512,
        heads: int = 8,
        landmarks: int | None = None,
        iterations: int = 6,
        dropout: float = 0.1,
        places: str = "grid",
    ) -> None:
        landmarks = max(1, embed_dim // 2) if landmarks is None else landmarks
        at_least_one("transmil", embed_dim=embed_dim, heads=heads, landmarks=landmarks, iterations=iterations)
        multiple_of_heads("transmil", embed_dim, heads)
        below_one("transmil", dropout=dropout)
        if places not in ("grid", "square"):
            raise ConfigError(f"aggregator 'transmil': places={places!r}; expected 'grid' or 'square'")
        super().__init__(in_dim, embed_dim)
        self.square = places == "square"
        self.project = nn.Sequential(nn.Linear(in_dim, embed_dim), nn.ReLU(inplace=True))
        self.class_token = nn.Parameter(torch.randn(1, embed_dim))
        self.norm1, self.norm2, self.norm = (nn.LayerNorm(embed_dim) for _ in range(3))
        self.attention1, self.attention2 = (
            NystromAttention(
                embed_dim,
                heads=heads,
                landmarks=landmarks,
                iterations=iterations,
                dropout=dropout,
                zero_padding=self.square,
            )
            for _ in range(2)
        )
        self.encoding = PyramidEncoding(embed_dim)

    def pool(self, x: Tensor, offsets: Tensor, grid: Tensor | None, edges: Tensor | None) -> AggregatorOutput:
        """Bag by bag; see :class:`Aggregator`."""
        assert grid is not None  # uses_grid
        order = reading_order(grid, offsets)
        if not torch.equal(order, torch.arange(len(order), device=order.device)):
            x, grid = x[order], grid[order]
        sizes = bag_sizes(offsets)
        bags = zip(torch.split(self.project(x), sizes), torch.split(grid, sizes), strict=True)
        return AggregatorOutput(torch.cat([self._class_of(h, places) for h, places in bags]))

    def carry(self, marks: Tensor, x: Tensor, offsets: Tensor, grid: Tensor | None, edges: Tensor | None) -> Tensor:
        """Through both layers, bag by bag; see :class:`Aggregator`."""
        assert grid is not None
        order, sizes = reading_order(grid, offsets), bag_sizes(offsets)
        parts = (torch.split(part[order], sizes) for part in (marks, x, grid))
        return torch.cat(
            [self._carried(mine, self.project(bag), places) for mine, bag, places in zip(*parts, strict=True)]
        )

    def _class_of(self, h: Tensor, grid: Tensor) -> Tensor:
        """The class token of one bag: (N, E) and (N, 2) -> (1, E)."""
        h = torch.cat([self.class_token, self._filled(h)])  # (1 + N, E)
        h = self._first_layer(h, grid)
        token = self.norm(h[:1] + self.attention2(self.norm2(h), first=1))
        wide: Tensor = token.to(torch.promote_types(token.dtype, torch.float32))  # (1, E)
        return wide

    def _carried(self, marks: Tensor, h: Tensor, grid: Tensor) -> Tensor:
        """What the class token of one bag is given of its marks: (N,), (N, E) and (N, 2) -> (1,)."""
        h = torch.cat([self.class_token, self._filled(h)])  # (1 + N, E)
        marks = torch.cat([marks.new_zeros(1), self._filled(marks)])  # (1 + N,)
        marks = (marks + self.attention1.carry(marks, self.norm1(h))) / 2
        h = self._first_layer(h, grid)
        return (marks[:1] + self.attention2.carry(marks, self.norm2(h), first=1)) / 2

    def _filled(self, rows: Tensor) -> Tensor:
        """With ``places="square"``: filled up to a square with the first rows."""
        if not self.square:
            return rows
        return torch.cat([rows, rows[: (math.isqrt(len(rows) - 1) + 1) ** 2 - len(rows)]])  # (side^2, ...)

    def _first_layer(self, h: Tensor, grid: Tensor) -> Tensor:
        """Attention, and the positional encoding of the tiles: (1 + N, E) -> (1 + N, E)."""
        h = h + self.attention1(self.norm1(h))
        token, tiles = torch.split(h, [1, len(h) - 1])
        if self.square:
            index, side = torch.arange(len(tiles), device=h.device), math.isqrt(len(tiles))
            grid = torch.stack([index % side, index // side], dim=1)
        return torch.cat([token, self.encoding(tiles, grid)])
