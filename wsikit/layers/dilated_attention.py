"""Self-attention of a long sequence in segments, the longer the sparser: LongNet, Ding et al. 2023."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

BLOCK_SCORES = 1 << 20
"""Scores held at once, small enough for a processor's cache: 4 MiB of float32."""

UNSEEN = -1e30
"""Logarithm of the denominator of a row that a branch leaves out: its share of the whole is exactly 0."""


def dilated_attention(
    query: Tensor, key: Tensor, value: Tensor, *, segments: Sequence[int], dilations: Sequence[int]
) -> Tensor:
    """Attention in which each row sees the rows near it all, and those far from it thinned out.

    A branch (w, r) cuts the sequence into segments of w rows (the last one may be shorter), keeps every r-th row of
    each, and attends among those (eq. 2 to 7). Head h begins at row ``h // ceil(H / r)`` of each segment, so that
    together the heads keep all rows: r groups of neighbouring heads, as the authors' code has them; the paper's eq. 11
    shares the rows out as ``h mod r``. The branches are weighted by the denominators of their softmaxes (eq. 9 and 10):
    the same as one softmax over all that they see, where a row seen by two branches counts twice.

    The authors' code fills short segments up with zeros, which are attended to, and gives the denominators no gradient;
    here there is no filling, and the gradient is that of the equations.

    Scores are worked out again in the backward pass, block by block: memory is that of the rows.

    Args:
        query: (N, H, d).
        key: (N, H, d).
        value: (N, H, d).
        segments: w of each branch.
        dilations: r of each branch. A row that no branch keeps has the answer 0; with an r of 1 there is none.

    Returns:
        (N, H, d), float32 or float64.

    Example:
        >>> same = torch.zeros(4, 1, 1)
        >>> value = torch.tensor([1.0, 2.0, 3.0, 8.0]).view(4, 1, 1)
        >>> dilated_attention(same, same, value, segments=[2, 4], dilations=[1, 2]).flatten()
        tensor([1.7500, 1.5000, 3.7500, 5.5000])

    Reference:
        Ding et al. 2023, LongNet: Scaling Transformers to 1,000,000,000 Tokens, arXiv:2307.02486; compared with
        https://github.com/microsoft/torchscale (MIT).
    """
    outs, denominators = [], []
    for segment, dilation in zip(segments, dilations, strict=True):
        segment = min(segment, len(query))
        whole = len(query) - len(query) % segment
        parts = [
            _branch(query[rows], key[rows], value[rows], segment=size, dilation=dilation)
            for rows, size in ((slice(whole), segment), (slice(whole, None), len(query) - whole))
            if size
        ]
        out, denominator = (torch.cat(part) for part in zip(*parts, strict=True))
        outs.append(out)
        denominators.append(denominator)
    shares = torch.stack(denominators).softmax(dim=0)  # (branches, N, H)
    total = torch.zeros_like(outs[0])
    for out, share in zip(outs, shares, strict=True):
        total = total + out * share[:, :, None]
    return total


def _branch(query: Tensor, key: Tensor, value: Tensor, *, segment: int, dilation: int) -> tuple[Tensor, Tensor]:
    """One branch over whole segments: (N, H, d) each -> what was attended to (N, H, d), log denominators (N, H)."""
    heads = query.shape[1]
    filled = -segment % dilation  # rows that make each head's share of a segment equally long; never attended to
    head = torch.arange(heads, device=query.device)
    shift = head // -(-heads // dilation)
    sparse = [_thin(part, segment, filled, dilation, shift, head) for part in (query, key, value)]  # (n, H, L, d)
    unfilled = None
    if filled:
        place = torch.arange(sparse[0].shape[2], device=query.device) * dilation + shift[:, None]
        unfilled = place < segment  # (H, L)
    step = max(1, BLOCK_SCORES // (heads * sparse[0].shape[2] ** 2))
    parts = zip(*(torch.split(part, step) for part in sparse), strict=True)
    blocks = [_attend(q, k, v, unfilled) for q, k, v in parts]
    out, denominator = (torch.cat(block) for block in zip(*blocks, strict=True))  # (n, H, L, d) and (n, H, L)
    if dilation == 1:
        return out.transpose(1, 2).flatten(0, 1), denominator.transpose(1, 2).flatten(0, 1)
    shape = (len(out), out.shape[2], dilation, heads)
    dense = out.new_zeros(*shape, out.shape[3])
    dense[:, :, shift, head] = out.transpose(1, 2)
    weight = denominator.new_full(shape, UNSEEN)
    weight[:, :, shift, head] = denominator.transpose(1, 2)
    return dense.flatten(1, 2)[:, :segment].flatten(0, 1), weight.flatten(1, 2)[:, :segment].flatten(0, 1)


def _thin(x: Tensor, segment: int, filled: int, dilation: int, shift: Tensor, head: Tensor) -> Tensor:
    """The rows that each head keeps: (N, H, d) -> (segments n, H, rows of each L, d)."""
    x = F.pad(torch.unflatten(x, 0, (-1, segment)), (0, 0, 0, 0, 0, filled))  # (n, L r, H, d)
    kept: Tensor = torch.unflatten(x, 1, (-1, dilation))[:, :, shift, head]  # (n, L, H, d)
    return kept.transpose(1, 2)


def _attend(query: Tensor, key: Tensor, value: Tensor, unfilled: Tensor | None) -> tuple[Tensor, Tensor]:
    """Attention and its log denominators of a few segments, or of one, some of its queries at a time."""
    step = max(1, BLOCK_SCORES // (len(key) * key.shape[1] * key.shape[2]))
    blocks = [
        checkpoint(_softmax_sum, part, key, value, unfilled, use_reentrant=False, preserve_rng_state=False)
        for part in torch.split(query, step, dim=2)
    ]
    out, denominator = zip(*blocks, strict=True)
    return torch.cat(out, dim=2), torch.cat(denominator, dim=2)


def _softmax_sum(query: Tensor, key: Tensor, value: Tensor, unfilled: Tensor | None) -> tuple[Tensor, Tensor]:
    wide = torch.promote_types(query.dtype, torch.float32)
    scores = ((query * query.shape[-1] ** -0.5) @ key.mT).to(wide)  # (n, H, rows, L)
    if unfilled is not None:
        scores = scores.masked_fill(~unfilled[:, None], UNSEEN)
    denominator = scores.logsumexp(dim=-1)
    return ((scores - denominator[..., None]).exp() @ value.to(wide)).to(wide), denominator
