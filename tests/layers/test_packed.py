from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from wsikit.errors import ConfigError
from wsikit.layers.packed import (
    bag_index,
    bag_sizes,
    offsets_of,
    pack,
    pad,
    segment_max,
    segment_mean,
    segment_softmax,
    segment_sum,
    segment_weighted_sum,
    unpack,
)

SIZES = st.lists(st.integers(1, 7), min_size=1, max_size=5)


def parts(x: Tensor, offsets: Tensor) -> list[Tensor]:
    return [x[start:end] for start, end in pairwise(offsets.tolist())]


@settings(deadline=None, max_examples=60)
@given(SIZES, st.integers(0, 3))
def test_packed_to_padded_and_back_is_the_same(sizes: list[int], trailing: int) -> None:
    offsets = offsets_of(sizes)
    x = torch.arange(sum(sizes) * 3**trailing, dtype=torch.float32).reshape(sum(sizes), *[3] * trailing) + 1
    padded, mask = pad(x, offsets)
    assert mask.sum(dim=1).tolist() == sizes
    assert not padded[~mask].any()
    for bag, row, size in zip(parts(x, offsets), padded, sizes, strict=True):
        assert torch.equal(row[:size], bag)
    again, offsets_again = pack(padded, mask)
    assert torch.equal(again, x)
    assert torch.equal(offsets_again, offsets)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_padded_to_packed_and_back_is_the_same_wherever_the_padding_is(data: st.DataObject) -> None:
    bags, longest = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 6))
    row = st.lists(st.booleans(), min_size=longest, max_size=longest)
    mask = torch.tensor(data.draw(st.lists(row, min_size=bags, max_size=bags)))
    x = torch.randn(bags, longest, 2, generator=torch.Generator().manual_seed(0))
    packed, offsets = pack(x, mask)
    assert offsets.diff().tolist() == mask.sum(dim=1).tolist()
    assert torch.equal(packed, torch.cat([bag[valid] for bag, valid in zip(x, mask, strict=True)]))
    assert torch.equal(unpack(packed, mask), x * mask[..., None])


def test_index_and_sizes_are_read_off_the_offsets() -> None:
    offsets = offsets_of([2, 1, 3])
    assert offsets.tolist() == [0, 2, 3, 6]
    assert bag_sizes(offsets, 6) == [2, 1, 3]
    assert bag_index(offsets).tolist() == [0, 0, 1, 2, 2, 2]


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        (torch.tensor([1, 3]), r"start at 1; expected 0"),
        (torch.tensor([0, 2, 2, 5]), r"bag 1 is empty \(offsets 2 to 2\)"),
        (torch.tensor([0, 4, 2, 5]), r"fall from 4 to 2 at bag 1"),
        (torch.tensor([0, 2, 4]), r"end at 4, but there are 5 packed rows"),
        (torch.tensor([0]), r"shape \(1,\).*expected \(B \+ 1,\) int64 with at least one bag"),
        (torch.tensor([[0, 5]]), r"shape \(1, 2\)"),
        (torch.tensor([0.0, 5.0]), r"torch.float32; expected \(B \+ 1,\) int64"),
    ],
)
@pytest.mark.parametrize("function", [segment_sum, segment_mean, segment_max, segment_softmax, pad])
def test_offsets_that_do_not_fit_are_refused(function, offsets: Tensor, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError, match=message):
        function(torch.zeros(5, 2), offsets)


@pytest.mark.parametrize("sizes", [[1], [6], [3, 1, 4]])
def test_reductions_equal_those_of_each_bag_alone(sizes: list[int]) -> None:
    x = torch.randn(sum(sizes), 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    offsets, bags = offsets_of(sizes), parts(x, offsets_of(sizes))
    torch.testing.assert_close(segment_sum(x, offsets), torch.stack([sum(list(bag)) for bag in bags]))
    torch.testing.assert_close(segment_mean(x, offsets), torch.stack([sum(list(bag)) / len(bag) for bag in bags]))
    torch.testing.assert_close(segment_max(x, offsets), torch.stack([bag.sort(dim=0).values[-1] for bag in bags]))
    torch.testing.assert_close(segment_softmax(x, offsets), torch.cat([bag.exp() / bag.exp().sum(0) for bag in bags]))
    weights = x.exp()
    one = torch.stack([(w[:, :1] * bag).sum(0) for w, bag in zip(parts(weights, offsets), bags, strict=True)])
    torch.testing.assert_close(segment_weighted_sum(x, weights[:, 0], offsets), one)
    many = torch.stack([torch.einsum("nk,ne->ke", w, b) for w, b in zip(parts(weights, offsets), bags, strict=True)])
    torch.testing.assert_close(segment_weighted_sum(x, weights, offsets), many)


@pytest.mark.parametrize("function", [segment_sum, segment_mean, segment_max, segment_softmax])
def test_gradients_are_those_of_finite_differences(function) -> None:  # type: ignore[no-untyped-def]
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda values: function(values, offsets_of([4, 1, 1])), x)


def test_gradients_of_the_weighted_sum_are_those_of_finite_differences() -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(6, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(6, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, w: segment_weighted_sum(x, w, offsets_of([4, 2])), (x, weights))


def test_equal_largest_values_share_the_gradient() -> None:
    x = torch.tensor([[0.0], [0.0], [-1.0]], requires_grad=True)
    segment_max(x, offsets_of([3])).sum().backward()
    assert x.grad is not None
    assert x.grad.flatten().tolist() == [0.5, 0.5, 0.0]


def test_large_scores_do_not_overflow() -> None:
    softmax = segment_softmax(torch.tensor([120.0, 0.0, 3e38, -3e38, 0.0]), offsets_of([2, 3]))
    assert softmax.tolist() == [1.0, pytest.approx(0, abs=1e-30), 1.0, 0.0, 0.0]


def test_sums_are_accumulated_in_float32_under_autocast_too() -> None:
    """In bfloat16, 4,096 + 1 is 4,096, and 1/4,097 is off by up to 0.4 %."""
    n = 4097
    ones, offsets = torch.ones(n, 1, dtype=torch.bfloat16), offsets_of([n])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert segment_sum(ones, offsets).item() == n
        assert segment_mean(ones, offsets).item() == 1
        weights = segment_softmax(ones[:, 0], offsets)
        assert weights.dtype == torch.float32
        torch.testing.assert_close(weights, torch.full((n,), 1 / n), rtol=1e-6, atol=0)
        assert segment_weighted_sum(ones, weights, offsets).item() == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("function", [segment_sum, segment_max, segment_softmax])
def test_repeated_runs_give_the_same_bits(function) -> None:  # type: ignore[no-untyped-def]
    x = torch.randn(3000, 64, generator=torch.Generator().manual_seed(3), requires_grad=True)
    weight = torch.randn(3000, 64, generator=torch.Generator().manual_seed(4))
    offsets, found = offsets_of([1700, 1, 1299]), []
    for _ in range(5):
        x.grad = None
        result = function(x, offsets)
        (result * weight[: len(result)]).sum().backward()
        found.append((result.detach(), x.grad))
    for result, gradient in found[1:]:
        assert torch.equal(result, found[0][0])
        assert torch.equal(gradient, found[0][1])
