"""Dilated attention against LongNet's equations, row by row: one softmax over all that the branches let a row see."""

import numpy as np
import pytest
import torch
from torch import Tensor

import wsikit.layers.dilated_attention
from wsikit.layers.dilated_attention import dilated_attention

BRANCHES = {
    "one": ([100], [1]),
    "shorter than the bag": ([4], [1]),
    "as in the paper": ([4, 8, 16], [1, 2, 4]),
    "segments that the dilation does not divide": ([5, 11, 40], [1, 3, 4]),
    "no branch sees all": ([8], [2]),
    "more dilation than heads": ([6, 14], [1, 7]),
}


def random_rows(rows: int, heads: int = 4, width: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows)
    query, key, value = torch.randn(3, rows, heads, width, generator=generator, dtype=torch.float64)
    return query, key, value


def seen(row: int, head: int, rows: int, heads: int, segment: int, dilation: int) -> list[int]:
    """The rows that a branch lets this row see in this head: those of its segment that the head keeps, if it is one."""
    shift = head // -(-heads // dilation)
    begin = row - row % segment
    kept = list(range(begin + shift, min(begin + segment, rows), dilation))
    return kept if row in kept else []


def by_equations(query: Tensor, key: Tensor, value: Tensor, segments: list[int], dilations: list[int]) -> np.ndarray:
    rows, heads, width = query.shape
    out = np.zeros((rows, heads, width))
    for row in range(rows):
        for head in range(heads):
            branches = zip(segments, dilations, strict=True)
            kept = [j for w, r in branches for j in seen(row, head, rows, heads, w, r)]
            if kept:
                weights = np.exp(key[kept, head].numpy() @ query[row, head].numpy() / np.sqrt(width))
                out[row, head] = weights @ value[kept, head].numpy() / weights.sum()
    return out


@pytest.mark.parametrize("block", [1, 40, 1 << 20])
@pytest.mark.parametrize("rows", [1, 3, 16, 37])
@pytest.mark.parametrize("branches", BRANCHES)
def test_each_row_is_that_of_the_equations(
    branches: str, rows: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wsikit.layers.dilated_attention, "BLOCK_SCORES", block)
    segments, dilations = BRANCHES[branches]
    bag = random_rows(rows)
    found = dilated_attention(*bag, segments=segments, dilations=dilations)
    np.testing.assert_allclose(found.numpy(), by_equations(*bag, segments, dilations), rtol=0, atol=1e-12)


@pytest.mark.parametrize("branches", ["as in the paper", "segments that the dilation does not divide"])
def test_the_gradient_is_that_of_one_softmax_over_all_that_is_seen(branches: str) -> None:
    segments, dilations = BRANCHES[branches]
    bag = [part.requires_grad_() for part in random_rows(13, heads=2)]
    rows, heads, width = bag[0].shape
    counts = torch.zeros(heads, rows, rows, dtype=torch.float64)  # how often each row is seen
    for head in range(heads):
        for row in range(rows):
            for w, r in zip(segments, dilations, strict=True):
                counts[head, row, seen(row, head, rows, heads, w, r)] += 1
    q, k, v = (part.transpose(0, 1) for part in bag)
    dense = ((q @ k.mT / width**0.5 + counts.log()).softmax(-1) @ v).transpose(0, 1)
    weights = torch.randn(dense.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    expected = torch.autograd.grad((dense * weights).sum(), bag)
    found = torch.autograd.grad((dilated_attention(*bag, segments=segments, dilations=dilations) * weights).sum(), bag)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


def test_large_scores_do_not_overflow() -> None:
    query, key, value = (part.float() for part in random_rows(20))
    query = 100 * query  # scores of some 300: their exponentials are beyond float32, and within float64
    out = dilated_attention(query, key, value, segments=[4, 8], dilations=[1, 2])
    expected = by_equations(query.double(), key.double(), value.double(), [4, 8], [1, 2])
    np.testing.assert_allclose(out.numpy(), expected, rtol=0, atol=1e-3)
