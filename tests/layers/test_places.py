"""Reading order against a sort of tuples, and regions against floor division, on places of either sign and any size."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wsikit.layers.groups import group_softmax, group_weighted_sum
from wsikit.layers.packed import bag_index, offsets_of
from wsikit.layers.places import reading_order, square_regions

BAGS = st.lists(
    st.lists(st.tuples(st.integers(-5, 5) | st.sampled_from([-(2**40), 2**40]), st.integers(-5, 5)), min_size=1),
    min_size=1,
    max_size=4,
)


@settings(max_examples=60, deadline=None)
@given(bags=BAGS)
def test_reading_order_is_by_bag_then_y_then_x(bags: list[list[tuple[int, int]]]) -> None:
    grid, offsets = torch.tensor([place for bag in bags for place in bag]), offsets_of([len(bag) for bag in bags])
    bag = bag_index(offsets).tolist()
    expected = sorted(range(len(grid)), key=lambda row: (bag[row], *grid[row].tolist()[::-1]))
    assert reading_order(grid, offsets).tolist() == expected


@settings(max_examples=60, deadline=None)
@given(bags=BAGS, side=st.integers(1, 4))
def test_regions_are_squares_within_a_bag(bags: list[list[tuple[int, int]]], side: int) -> None:
    rows = [(b, y // side, x // side) for b, bag in enumerate(bags) for x, y in bag]
    found = sorted(set(rows))
    grid, offsets = torch.tensor([place for bag in bags for place in bag]), offsets_of([len(bag) for bag in bags])
    region, region_offsets, places = square_regions(grid, offsets, side)
    assert region.tolist() == [found.index(row) for row in rows]
    assert region_offsets.diff().tolist() == [sum(row[0] == b for row in found) for b in range(len(bags))]
    assert places.tolist() == [[x, y] for _, y, x in found]


def test_softmax_and_sum_over_groups_are_those_of_each_group_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    group = torch.tensor([2, 0, 1, 0, 2, 2])
    scores = 200 * torch.randn(6, dtype=torch.float64, generator=generator)
    x = torch.randn(6, 3, dtype=torch.float64, generator=generator)
    weights = group_softmax(scores, group, 3)
    summed = group_weighted_sum(x, weights, group, 3)
    for g in range(3):
        torch.testing.assert_close(weights[group == g], scores[group == g].softmax(0))
        torch.testing.assert_close(summed[g], scores[group == g].softmax(0) @ x[group == g])
