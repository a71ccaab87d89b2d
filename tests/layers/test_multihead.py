"""Packed attention and its maps agree with each other, for every way to divide the rows into bags."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wsikit.layers.multihead import attention_maps, packed_attention, repeat_rows
from wsikit.layers.packed import offsets_of


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(1, 6), min_size=1, max_size=4), heads=st.sampled_from([1, 2, 4]))
def test_attention_is_the_maps_times_the_values(sizes: list[int], heads: int) -> None:
    """With one value that is the same in all heads, the mean over the heads of the output is maps times values."""
    generator = torch.Generator().manual_seed(sum(sizes))
    rows, queries = sum(sizes), 3
    offsets = offsets_of(sizes)
    query, query_offsets = repeat_rows(torch.randn(queries, 8, dtype=torch.float64, generator=generator), len(sizes))
    key = torch.randn(rows, 8, dtype=torch.float64, generator=generator)
    value = torch.randn(rows, 8 // heads, dtype=torch.float64, generator=generator)
    attended = packed_attention(query, key, value.repeat(1, heads), query_offsets, offsets, heads=heads)
    mean = attended.reshape(-1, heads, 8 // heads).mean(1)
    maps = attention_maps(query, key, query_offsets, offsets, heads=heads)
    expected = [part.T @ v for part, v in zip(maps.split(sizes), value.split(sizes), strict=True)]
    torch.testing.assert_close(mean, torch.cat(expected))


def test_maps_ask_for_no_gradient() -> None:
    query, query_offsets = repeat_rows(torch.randn(2, 4).requires_grad_(), 1)
    maps = attention_maps(query, torch.randn(5, 4), query_offsets, torch.tensor([0, 5]), heads=2)
    assert not maps.requires_grad
    assert maps.sum(0).tolist() == pytest.approx([1.0, 1.0])
