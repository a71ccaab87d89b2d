"""R2T-MIL against the equations of Tang et al. 2024 written out cell by cell, with all scores of every region."""

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch

from wsikit.aggregators.registry import create_aggregator
from wsikit.errors import ConfigError
from wsikit.testing.aggregator_contract import check_aggregator

SMALL = {"embed_dim": 8, "heads": 2, "region": 4, "kernel": 7, "representatives": 3}


def normalised(state: dict[str, np.ndarray], name: str, h: np.ndarray) -> np.ndarray:
    centred = h - h.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def linear(state: dict[str, np.ndarray], name: str, h: np.ndarray) -> np.ndarray:
    return h @ state[f"{name}.weight"].T + state.get(f"{name}.bias", 0.0)


def softmax(scores: np.ndarray, axis: int) -> np.ndarray:
    exponentials = np.exp(scores - scores.max(axis, keepdims=True))
    return exponentials / exponentials.sum(axis, keepdims=True)


def self_attention(
    state: dict[str, np.ndarray], name: str, h: np.ndarray, heads: int, cells: list[int] | None = None, side: int = 0
) -> np.ndarray:
    """Of a few rows; with EPEG where their cells are given: the scores of all cells, those without a tile 0."""
    q, k, v = (linear(state, f"{name}.{part}", h) for part in ("query", "key", "value"))
    out, width = np.empty_like(h), h.shape[1] // heads
    for head in range(heads):
        columns = slice(head * width, (head + 1) * width)
        scores = q[:, columns] @ k[:, columns].T / np.sqrt(width)
        if cells is not None:
            everywhere = np.zeros((side * side, len(h)))
            everywhere[cells] = scores
            taps = state[f"{name}.convolution.weight"][head, 0]
            for row, cell in enumerate(cells):
                for tap, weight in enumerate(taps):
                    other = cell + tap - len(taps) // 2
                    if 0 <= other < side * side:
                        scores[row] += weight * everywhere[other]
        out[:, columns] = softmax(scores, 1) @ v[:, columns]
    return linear(state, f"{name}.out", out)


def by_equations(
    state: dict[str, np.ndarray], x: np.ndarray, grid: np.ndarray, options: dict[str, int]
) -> tuple[np.ndarray, np.ndarray]:
    heads, side = options["heads"], options["region"]
    h = np.maximum(0, linear(state, "project.0", x))
    regions: dict[tuple[int, int], list[int]] = {}
    for row, (column, line) in enumerate(grid.tolist()):
        regions.setdefault((column // side, line // side), []).append(row)
    normed = normalised(state, "within_norm", h)
    for rows in regions.values():
        cells = [int(line % side * side + column % side) for column, line in grid[rows]]
        h[rows] += self_attention(state, "within", normed[rows], heads, cells, side)

    normed = normalised(state, "across_norm", h)
    scores = {place: normed[rows] @ state["across.phi"] for place, rows in regions.items()}  # each (tiles, K)
    for k in range(options["representatives"]):
        found = np.stack([softmax(scores[place][:, k], 0) @ normed[rows] for place, rows in regions.items()])
        heard = self_attention(state, "across", found, heads)
        for (place, rows), back in zip(regions.items(), heard, strict=True):
            s = scores[place]
            spread = (s[:, k] - s[:, k].min()) / (s[:, k].max() - s[:, k].min() + 1e-8)
            h[rows] += (spread * softmax(s, 1)[:, k])[:, None] * back

    h = normalised(state, "norm", h)
    attention = softmax(np.tanh(linear(state, "scores.value", h)) @ state["scores.score.weight"][0], 0)
    return attention @ h, attention


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    """Every parameter away from its start (norms begin at 1 and 0), so that none can be forgotten."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return model


@pytest.mark.parametrize("changed", [{}, {"kernel": 1, "representatives": 1}, {"region": 3, "kernel": 21}])
def test_output_is_that_of_the_equations(changed: dict[str, int]) -> None:
    options = SMALL | changed
    model = randomised(create_aggregator("rrt", in_dim=5, seed=0, **options).double().eval())
    generator = torch.Generator().manual_seed(1)
    offsets = [0, 1, 12, 52]  # one region of one tile; a few tiles to a region; regions almost full
    x = torch.randn(52, 5, dtype=torch.float64, generator=generator)
    sparse, full = torch.randperm(64, generator=generator)[:12], torch.randperm(48, generator=generator)[:40]
    place = torch.cat([sparse, full])
    grid = torch.stack([place % 8 - 3, place // 8 + 1000], dim=1)
    grid[40:, 1] += 64  # the last tiles are another slide's
    found = model(x, offsets=torch.tensor(offsets), grid=grid)
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    for b, (start, end) in enumerate(pairwise(offsets)):
        embedding, attention = by_equations(state, x[start:end].numpy(), grid[start:end].numpy(), options)
        np.testing.assert_allclose(found.embedding[b].detach().numpy(), embedding, rtol=0, atol=1e-10)
        np.testing.assert_allclose(found.attention[start:end].detach().numpy(), attention, rtol=0, atol=1e-12)


def test_a_region_hears_another_only_through_its_representatives() -> None:
    """With what comes back set to 0, a tile that changes moves its own region, and nothing else."""
    model = randomised(create_aggregator("rrt", in_dim=5, seed=0, **SMALL).eval())
    x = torch.randn(12, 5, generator=torch.Generator().manual_seed(1))
    grid = torch.stack([torch.arange(12) % 8, torch.arange(12) // 8], dim=1)  # tiles 0-3, 8-11: the first region
    tiles: list[torch.Tensor] = []
    model.norm.register_forward_hook(lambda module, inputs, output: tiles.append(output.detach()))

    def moved() -> list[bool]:
        changed = x.clone()
        changed[0] += 1
        model(x, grid=grid)
        model(changed, grid=grid)
        return ((tiles[-2] - tiles[-1]).abs().amax(1) > 1e-5).tolist()  # sorted by region: 0-3, 8-11, 4-7

    # the tile whose scores are the least of its region for all K hears nothing; here there is none
    assert moved() == [True] * 12
    with torch.no_grad():
        model.across.out.weight.zero_()
        model.across.out.bias.zero_()
    assert moved() == [True] * 8 + [False] * 4


def test_gradient_of_a_region_of_one_tile_is_exact() -> None:
    """(s - min) / (max - min + 1e-8) is 0 there, and its gradient must not be what is left of 1e8 - 1e8."""
    model = randomised(create_aggregator("rrt", in_dim=5, seed=0, **SMALL).eval())
    x = torch.randn(20, 5, generator=torch.Generator().manual_seed(1))
    grid = torch.stack([torch.arange(20) % 5, torch.arange(20) // 5], dim=1) * torch.tensor([4, 1])
    grid[0, 1] = 100  # a region of its own
    gradients = []
    for dtype in (torch.float32, torch.float64):
        model = model.to(dtype).requires_grad_(True)
        model.zero_grad()
        model(x.to(dtype), grid=grid).embedding.square().sum().backward()
        gradients.append([parameter.grad.double() for parameter in model.parameters()])
    for single, double in zip(*gradients, strict=True):
        torch.testing.assert_close(single, double, rtol=1e-3, atol=1e-3 * float(double.abs().max()))


def test_the_grid_may_be_counted_from_elsewhere_in_steps_of_a_region() -> None:
    model = create_aggregator("rrt", in_dim=6, seed=0, **SMALL).eval()
    x = torch.randn(12, 6, generator=torch.Generator().manual_seed(1))
    grid = torch.stack([torch.arange(12) % 6, torch.arange(12) // 6], dim=1)
    here = model(x, grid=grid).embedding
    torch.testing.assert_close(model(x, grid=grid + torch.tensor([-400, 64])).embedding, here)
    assert (model(x, grid=grid + torch.tensor([1, 0])).embedding - here).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embed_dim": 30}, "embed_dim=30; expected a multiple of heads=8"),
        ({"kernel": 4}, "kernel=4; expected an odd number, at least 1"),
        ({"kernel": -1}, "kernel=-1; expected an odd number, at least 1"),
        ({"region": 0}, "region=0; expected at least 1"),
        ({"region_dropout": 1.0}, "region_dropout=1.0; expected at least 0 and below 1"),
    ],
)
def test_options_that_cannot_be_used_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create_aggregator("rrt", in_dim=6, **options)


def test_contract_holds_with_one_representative() -> None:
    options = SMALL | {"region": 8, "representatives": 1}
    check_aggregator(partial(create_aggregator, "rrt", in_dim=24, **options))
