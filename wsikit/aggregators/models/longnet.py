"""LongNet as a slide encoder: dilated attention over all tiles, as in GigaPath (Xu et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from wsikit.aggregators.base import Aggregator, AggregatorCard, AggregatorOutput
from wsikit.aggregators.options import at_least_one, below_one, multiple_of_heads
from wsikit.aggregators.registry import register_aggregator
from wsikit.errors import ConfigError
from wsikit.layers.dilated_attention import dilated_attention
from wsikit.layers.packed import bag_sizes
from wsikit.layers.places import reading_order, sinusoidal_places

CARD = AggregatorCard(
    name="longnet",
    summary="transformer with dilated attention, the slide encoder of GigaPath",
    paper="Ding et al. 2023, LongNet: Scaling Transformers to 1,000,000,000 Tokens, arXiv:2307.02486; as a slide "
    "encoder: Xu et al. 2024, A whole-slide foundation model for digital pathology from real-world data, "
    "doi:10.1038/s41586-024-07441-w",
    repository="https://github.com/microsoft/torchscale; https://github.com/prov-gigapath/prov-gigapath",
    licence="MIT; Prov-GigaPath license terms (research only)",
    uses_grid=True,
    rollout=True,
    attention=False,
)


class LongNetLayer(nn.Module):
    """``h + out(norm(dilated(norm(h))))``, then ``h + W_2 norm(gelu(W_1 norm(h)))``: norms within both parts."""

    def __init__(
        self,
        dim: int,
        *,
        heads: int,
        hidden: int,
        segments: Sequence[int],
        dilations: Sequence[int],
        dropout: float,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.heads, self.segments, self.dilations = heads, tuple(segments), tuple(dilations)
        self.attention_norm, self.inner_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query, self.value, self.out = (nn.Linear(dim, dim) for _ in range(3))
        self.key = nn.Linear(dim, dim, bias=False)  # the softmax would take a bias back
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.GELU(), nn.LayerNorm(hidden), nn.Linear(hidden, dim)
        )
        self.dropout, self.drop_path = nn.Dropout(dropout), nn.Dropout(drop_path)

    def forward(self, h: Tensor) -> Tensor:
        """One sequence (N, E) -> (N, E)."""
        normed = self.attention_norm(h)
        attended = self._attend(normed, torch.unflatten(self.value(normed), 1, (self.heads, -1))).flatten(1)
        h = h + self._kept(self.dropout(self.out(self.inner_norm(attended))))
        return h + self._kept(self.dropout(self.feed_forward(h)))

    def carry(self, marks: Tensor, h: Tensor) -> Tensor:
        """Marks (N,) of a sequence (N, E) -> those of the answer, (N,)."""
        values = marks[:, None, None].expand(-1, self.heads, 1)  # (N, H, 1)
        return (marks + self._attend(self.attention_norm(h), values).mean(1)[:, 0]) / 2

    def _kept(self, part: Tensor) -> Tensor:
        """A part's whole sum, or in training with probability ``drop_path`` nothing: one draw for the sequence."""
        return part * self.drop_path(part.new_ones(())) if self.drop_path.p else part

    def _attend(self, normed: Tensor, value: Tensor) -> Tensor:
        """(N, E) and (N, H, d) -> (N, H, d)."""
        query, key = (torch.unflatten(part(normed), 1, (self.heads, -1)) for part in (self.query, self.key))
        return dilated_attention(query, key, value, segments=self.segments, dilations=self.dilations)


@register_aggregator(CARD)
class LongNet(Aggregator):
    """Tiles in reading order, with their places, through layers of dilated attention; the mean or a class token.

    ``h = W x + b + waves(place)``; layers of :class:`LongNetLayer`, with the attention of
    :func:`~wsikit.layers.dilated_attention.dilated_attention`; ``z = norm(mean of norm(h))``.

    From GigaPath's code: the waves (:func:`~wsikit.layers.places.sinusoidal_places`), the norms inside the layers,
    the two norms at the end, the initial weights. It counts places from the slide's corner, here they count from the
    bag's first row and column; it takes tiles in the order of the files, here it is that of reading.

    Sizes are those of SlideChat (Chen et al. 2024, arXiv:2410.11761), which is 512 wide and passes all tiles on;
    GigaPath's own are ``embed_dim=768, layers=12, heads=16, hidden_dim=3072, dropout=0.25, pooling="class",
    dilations=(1, 2, 4, 8, 16), segments=(1024, 5792, 32768, 185363, 1048576), drop_path=0.1``.

    No tile hears one beyond its longest segment, so that a class token, which is first, asks for a segment
    longer than the bag. There is no attention map, but attention rollout.

    Args:
        in_dim: D.
        embed_dim: E, a multiple of the heads and of 4.
        layers: How many.
        heads: H.
        hidden_dim: Width inside the feed-forward part; None: 2 E.
        segments: Rows of the segments of each branch.
        dilations: Of each branch: each keeps one row of so many.
        dropout: In training, on the first h and on each part's sum.
        drop_path: In training, the probability that the last layer leaves out its attention for a bag, and, by another
            draw, its feed-forward part; it rises evenly from 0 in the first layer, as in the authors' code. What is
            left is scaled up. Off unless asked for; with one layer nothing is left out.
        pooling: "mean", or "class" for a class token (with "mean" there is none).

    Example:
        >>> LongNet(16)(torch.zeros(3, 16), grid=torch.tensor([[0, 0], [1, 0], [0, 9]])).embedding.shape
        torch.Size([1, 256])
    """

    card = CARD

    def __init__(
        self,
        in_dim: int,
        *,
        embed_dim: int = 256,
        layers: int = 2,
        heads: int = 8,
        hidden_dim: int | None = None,
        segments: Sequence[int] = (512, 1024, 2048),
        dilations: Sequence[int] = (1, 2, 4),
        dropout: float = 0.1,
        drop_path: float = 0.0,
        pooling: str = "mean",
    ) -> None:
        hidden_dim = 2 * embed_dim if hidden_dim is None else hidden_dim
        at_least_one("longnet", embed_dim=embed_dim, layers=layers, heads=heads, hidden_dim=hidden_dim)
        multiple_of_heads("longnet", embed_dim, heads)
        if embed_dim % 4:
            raise ConfigError(f"aggregator 'longnet': embed_dim={embed_dim}; expected a multiple of 4")
        below_one("longnet", dropout=dropout, drop_path=drop_path)
        if not segments or len(segments) != len(dilations) or min(*segments, *dilations) < 1:
            raise ConfigError(
                f"aggregator 'longnet': segments={tuple(segments)}, dilations={tuple(dilations)}; expected equally "
                "many, each at least 1"
            )
        if 1 not in dilations:
            raise ConfigError(
                f"aggregator 'longnet': dilations={tuple(dilations)}; expected a 1 among them, so that every head "
                "sees every tile"
            )
        if pooling not in ("mean", "class"):
            raise ConfigError(f"aggregator 'longnet': pooling={pooling!r}; expected 'mean' or 'class'")
        super().__init__(in_dim, embed_dim)
        self.longest = max(segments)
        self.project = nn.Linear(in_dim, embed_dim)
        self.class_token = nn.Parameter(torch.randn(1, embed_dim) * 0.02) if pooling == "class" else None
        self.layers = nn.ModuleList(
            LongNetLayer(
                embed_dim,
                heads=heads,
                hidden=hidden_dim,
                segments=segments,
                dilations=dilations,
                dropout=dropout,
                drop_path=drop_path * depth / max(1, layers - 1),
            )
            for depth in range(layers)
        )
        self.dropout = nn.Dropout(dropout)
        self.layers_norm, self.norm = nn.LayerNorm(embed_dim), nn.LayerNorm(embed_dim, eps=1e-6)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def pool(self, x: Tensor, offsets: Tensor, grid: Tensor | None, edges: Tensor | None) -> AggregatorOutput:
        """Bag by bag; see :class:`Aggregator`.

        Raises:
            ConfigError: A bag too long for the class token to hear all of it.
        """
        bags = zip(*self._bags(x, offsets, grid), strict=True)
        return AggregatorOutput(torch.stack([self._encode(bag, places) for bag, places in bags]))

    def carry(self, marks: Tensor, x: Tensor, offsets: Tensor, grid: Tensor | None, edges: Tensor | None) -> Tensor:
        """Through the layers, bag by bag; see :class:`Aggregator`."""
        bags = zip(*self._bags(x, offsets, grid, marks), strict=True)
        return torch.stack([self._carried(mine, bag, places) for bag, places, mine in bags])

    def _bags(self, x: Tensor, offsets: Tensor, grid: Tensor | None, *more: Tensor) -> tuple[tuple[Tensor, ...], ...]:
        """Everything in reading order, and each bag for itself."""
        assert grid is not None  # uses_grid
        sizes = bag_sizes(offsets)
        if self.class_token is not None and max(sizes) >= self.longest:
            raise ConfigError(
                f"aggregator 'longnet': a bag of {max(sizes)} tiles, but a class token hears the first "
                f"{self.longest - 1} alone; expected a longer segment in segments=, or pooling='mean'"
            )
        order = reading_order(grid, offsets)
        return tuple(torch.split(part[order], sizes) for part in (x, grid, *more))

    def _encode(self, x: Tensor, grid: Tensor) -> Tensor:
        """One bag: (N, D) and (N, 2) -> (E,)."""
        h = self._begin(x, grid)
        for layer in self.layers:
            h = layer(h)
        h = self.layers_norm(h)
        wide = torch.promote_types(h.dtype, torch.float32)
        z: Tensor = self.norm(h.mean(0, dtype=wide) if self.class_token is None else h[0].to(wide))
        return z.to(wide)

    def _carried(self, marks: Tensor, x: Tensor, grid: Tensor) -> Tensor:
        """What the output of one bag is given of its marks: (N,), (N, D) and (N, 2) -> ()."""
        h = self._begin(x, grid)
        if self.class_token is not None:
            marks = torch.cat([marks.new_zeros(1), marks])  # (1 + N,)
        for layer in self.layers:
            assert isinstance(layer, LongNetLayer)
            marks, h = layer.carry(marks, h), layer(h)
        return marks.mean() if self.class_token is None else marks[0]

    def _begin(self, x: Tensor, grid: Tensor) -> Tensor:
        """The rows that the first layer is given: (N, D) and (N, 2) -> (N, E), or (1 + N, E) with a class token."""
        places = sinusoidal_places(grid - grid.amin(0), self.out_dim)
        h = self.project(x)
        h = h + places.to(h.dtype)  # (N, E)
        if self.class_token is not None:
            h = torch.cat([self.class_token.to(h.dtype), h])  # (1 + N, E); the token's place is no wave at all
        begun: Tensor = self.dropout(h)
        return begun
