"""Convolution at real places, both ways, against sums over neighbours written out; gradients by finite differences."""

import pytest
import torch

from wsikit.layers.grid_convolution import grid_convolution, line_convolution

DENSE, GATHERED = float("inf"), 0.0


def by_neighbours(x: torch.Tensor, grid: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    reach = weight.shape[-1] // 2
    out = bias.repeat(len(x), 1)
    for i, (xi, yi) in enumerate(grid.tolist()):
        for j, (xj, yj) in enumerate(grid.tolist()):
            dx, dy = xj - xi, yj - yi
            if abs(dx) <= reach and abs(dy) <= reach:
                out[i] += weight[:, 0, dy + reach, dx + reach] * x[j]
    return out


def example(places: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(len(places), 3, dtype=torch.float64, generator=generator)
    weight, bias = (torch.randn(3, *shape, dtype=torch.float64, generator=generator) for shape in ((1, 5, 5), ()))
    return x, torch.tensor(places), weight, bias


PLACES = {
    "one tile": [[7, -3]],
    "a line that ends where the next begins": [[0, 0], [1, 0], [5, 0], [6, 0], [0, 1], [1, 1], [6, 1]],
    "two slides apart": [[0, 0], [1, 1], [2, 0], [0, 64], [1, 65], [2, 64]],
    "gaps of the kernel's reach and one more": [[0, 0], [2, 0], [5, 0], [0, 2], [0, 5], [9, 9]],
    "the same place twice": [[0, 0], [1, 0], [1, 0], [2, 1]],
}


@pytest.mark.parametrize("dense_up_to", [DENSE, GATHERED], ids=["dense", "gathered"])
@pytest.mark.parametrize("places", PLACES.values(), ids=PLACES.keys())
def test_it_is_the_sum_over_neighbours(places: list[list[int]], dense_up_to: float) -> None:
    x, grid, weight, bias = example(places)
    found = grid_convolution(x, grid, weight, bias, dense_up_to=dense_up_to)
    torch.testing.assert_close(found, by_neighbours(x, grid, weight, bias))


@pytest.mark.parametrize("dense_up_to", [DENSE, GATHERED], ids=["dense", "gathered"])
@pytest.mark.parametrize("places", PLACES.values(), ids=PLACES.keys())
def test_gradients_are_right(places: list[list[int]], dense_up_to: float) -> None:
    x, grid, weight, bias = example(places)

    def of(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return grid_convolution(x, grid, weight, bias, dense_up_to=dense_up_to)

    assert torch.autograd.gradcheck(of, (x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()))


def test_scattered_tiles_take_memory_in_proportion_to_their_number() -> None:
    """2,000 tiles on a diagonal: a dense window of them would have 16 million cells of 8 features, half a gigabyte."""
    steps = torch.arange(2_000) * 2
    grid = torch.stack([steps, steps], dim=1)
    x, weight = torch.randn(2_000, 8), torch.ones(8, 1, 7, 7)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        out = grid_convolution(x, grid, weight, torch.zeros(8))
    largest = max(event.self_cpu_memory_usage for event in profile.events())
    assert largest < 2**22
    torch.testing.assert_close(out[1:-1], x[:-2] + x[1:-1] + x[2:])


@pytest.mark.parametrize(
    "places", [[3], [0, 1, 2, 3], [9, 2, -4, 3, 10_000, 5, 2**40], [5, 5, 6]], ids=["one", "line", "gaps", "shared"]
)
def test_line_convolution_is_the_weighted_sum_of_the_places_around(places: list[int]) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(len(places), 6, dtype=torch.float64, generator=generator, requires_grad=True)
    weight = torch.randn(2, 5, dtype=torch.float64, generator=generator, requires_grad=True)  # two heads of 3
    expected = torch.zeros_like(x)
    for i, here in enumerate(places):
        for j, there in enumerate(places):
            if abs(there - here) <= 2:
                tap = weight[:, there - here + 2].repeat_interleave(3)
                expected = expected + torch.eye(len(x), dtype=x.dtype)[:, [i]] * (tap * x[j])
    found = line_convolution(x, torch.tensor(places), weight)
    torch.testing.assert_close(found, expected)
    gradients = (torch.autograd.grad(out.square().sum(), (x, weight), retain_graph=True) for out in (found, expected))
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs)
