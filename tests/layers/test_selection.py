from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wsikit.errors import ConfigError
from wsikit.layers.packed import offsets_of, segment_sum
from wsikit.layers.selection import segment_top_rows, segment_top_weights

SIZES = st.lists(st.integers(1, 7), min_size=1, max_size=4)


@given(SIZES, st.integers(1, 9), st.integers(0, 9))
def test_the_chosen_are_the_highest_of_their_own_bag(sizes: list[int], count: int, seed: int) -> None:
    offsets = offsets_of(sizes)
    scores = torch.randn(sum(sizes), 3, generator=torch.Generator().manual_seed(seed))
    rows = segment_top_rows(scores, offsets, [count] * len(sizes))
    weights = segment_top_weights(scores, offsets, [count] * len(sizes))
    for (start, end), chosen in zip(pairwise(offsets.tolist()), rows, strict=True):
        for k in range(3):
            ranked = sorted(range(start, end), key=lambda row: -scores[row, k].item())[:count]
            assert chosen[:, k].tolist() == ranked
            expected = [1 / len(ranked) if row in ranked else 0 for row in range(start, end)]
            assert weights[start:end, k].tolist() == pytest.approx(expected)


def test_one_choice_is_a_column_less() -> None:
    scores, offsets = torch.tensor([0.0, 2.0, 1.0, 5.0, 4.0]), offsets_of([3, 2])
    assert [rows.tolist() for rows in segment_top_rows(scores, offsets, [2, 1])] == [[1, 2], [3]]
    assert [rows.tolist() for rows in segment_top_rows(-scores, offsets, [1, 9])] == [[0], [4, 3]]
    assert segment_top_weights(scores, offsets, [2, 1]).tolist() == [0, 0.5, 0.5, 1, 0]


def test_scores_get_no_gradient_and_half_scores_have_full_weights() -> None:
    scores = torch.randn(5, dtype=torch.bfloat16, requires_grad=True)
    weights = segment_top_weights(scores, offsets_of([5]), [3])
    assert not weights.requires_grad
    assert weights.dtype == torch.float32
    assert segment_sum(weights, offsets_of([5])).item() == pytest.approx(1)


def test_a_count_for_each_bag_is_asked_for() -> None:
    with pytest.raises(ConfigError, match="1 counts for 2 bags; expected one for each bag"):
        segment_top_rows(torch.zeros(5), offsets_of([3, 2]), [2])
