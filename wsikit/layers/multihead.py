"""Multi-head attention between packed sets: the rows of a bag attend to rows of the same bag, and to no others."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from wsikit.layers.packed import bag_sizes


def repeat_rows(rows: Tensor, bags: int) -> tuple[Tensor, Tensor]:
    """The same learned rows for each bag, packed: (M, E) -> (B M, E) and their offsets (B + 1,).

    Example:
        >>> repeat_rows(torch.tensor([[1.0], [2.0]]), 2)
        (tensor([[1.],
                [2.],
                [1.],
                [2.]]), tensor([0, 2, 4]))
    """
    return rows.repeat(bags, 1), len(rows) * torch.arange(bags + 1, device=rows.device)


def packed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_offsets: Tensor,
    offsets: Tensor,
    *,
    heads: int,
    scale: float | None = None,
) -> Tensor:
    """``softmax(scale q . k) v`` in each bag and each head, the heads side by side.

    Bag by bag through torch's fused attention, which never holds the (M, N) weights.

    Args:
        query: (sum M, E).
        key: (sum N, E).
        value: (sum N, E).
        query_offsets: (B + 1,) int64, those of the queries.
        offsets: (B + 1,) int64, those of keys and values.
        heads: H, a divisor of E; head h has the columns h E/H to (h + 1) E/H.
        scale: None: 1 / sqrt(E / H).

    Returns:
        (sum M, E).
    """
    asking, asked = bag_sizes(query_offsets, len(query)), bag_sizes(offsets, len(key))
    bags = zip(torch.split(query, asking), torch.split(key, asked), torch.split(value, asked), strict=True)
    attended = []
    for bag in bags:
        q, k, v = (_heads(part, heads)[None] for part in bag)  # (1, H, rows, E / H)
        attended.append(F.scaled_dot_product_attention(q, k, v, scale=scale)[0])
    return torch.cat([part.transpose(0, 1).flatten(1) for part in attended])


@torch.no_grad()
def attention_maps(
    query: Tensor, key: Tensor, query_offsets: Tensor, offsets: Tensor, *, heads: int, scale: float | None = None
) -> Tensor:
    """The weights of :func:`packed_attention`, mean over the heads, for looking at: no gradient.

    Args:
        query: (B M, E), M queries in every bag.
        key: (sum N, E).
        query_offsets: (B + 1,) int64, in steps of M.
        offsets: (B + 1,) int64.
        heads: As there.
        scale: As there.

    Returns:
        (sum N, M) float32 or float64; each column sums to 1 over each bag.
    """
    scale = (query.shape[1] // heads) ** -0.5 if scale is None else scale
    wide = torch.promote_types(query.dtype, torch.float32)
    bags = zip(torch.split(query, bag_sizes(query_offsets)), torch.split(key, bag_sizes(offsets)), strict=True)
    maps = []
    for asking, asked in bags:
        scores = scale * (_heads(asking, heads) @ _heads(asked, heads).mT)  # (H, M, N)
        maps.append(scores.softmax(dim=-1, dtype=wide).mean(0).t())
    return torch.cat(maps)


def carried_marks(
    query: Tensor,
    key: Tensor,
    marks: Tensor,
    query_offsets: Tensor,
    offsets: Tensor,
    *,
    heads: int,
    scale: float | None = None,
) -> Tensor:
    """What :func:`packed_attention` makes of one number per row in the place of its values, mean over the heads.

    The derivative with respect to ``marks`` is a row of the attention matrix, which is never held: that is how
    :func:`wsikit.aggregators.rollout.attention_rollout` gets it.

    Args:
        query: (sum M, E).
        key: (sum N, E).
        marks: (sum N,).
        query_offsets: (B + 1,) int64.
        offsets: (B + 1,) int64.
        heads: As there.
        scale: As there.

    Returns:
        (sum M,).

    Example:
        >>> one, both = torch.tensor([0, 1]), torch.tensor([0, 2])
        >>> carried_marks(torch.zeros(1, 4), torch.zeros(2, 4), torch.tensor([1.0, 3.0]), one, both, heads=2)
        tensor([2.])
    """
    wide = marks[:, None, None].expand(-1, heads, 1)  # (sum N, H, 1)
    # As wide as a query: torch's fused attention, which never holds the weights, asks for that.
    value = F.pad(wide, (0, query.shape[1] // heads - 1)).flatten(1).to(query.dtype)  # (sum N, E)
    attended = packed_attention(query, key, value, query_offsets, offsets, heads=heads, scale=scale)
    return torch.unflatten(attended, 1, (heads, -1))[:, :, 0].mean(1)


def _heads(x: Tensor, heads: int) -> Tensor:
    return torch.unflatten(x, 1, (heads, -1)).transpose(0, 1)  # (rows, E) -> (H, rows, E / H)
