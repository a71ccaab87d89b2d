"""Two levels of gated attention against their equations in loops, and regions that never span two bags."""

import math
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch

from wsikit.aggregators.registry import create_aggregator
from wsikit.errors import ConfigError
from wsikit.testing.aggregator_contract import check_aggregator

State = dict[str, np.ndarray]


def layer(state: State, name: str, h: np.ndarray) -> np.ndarray:
    return np.maximum(0, state[f"{name}.0.weight"] @ h + state[f"{name}.0.bias"])


def pooled(state: State, name: str, rows: list[np.ndarray]) -> tuple[np.ndarray, list[float]]:
    """Ilse et al.'s gated attention over a few rows: the weighted mean, and the weights."""
    exponentials = []
    for h in rows:
        hidden = np.tanh(state[f"{name}.value.weight"] @ h + state[f"{name}.value.bias"])
        gate = 1 / (1 + np.exp(-state[f"{name}.gate.weight"] @ h - state[f"{name}.gate.bias"]))
        exponentials.append(math.exp(float(state[f"{name}.score.weight"][0] @ (hidden * gate))))
    weights = [e / sum(exponentials) for e in exponentials]
    return np.sum([a * h for a, h in zip(weights, rows, strict=True)], axis=0), weights


@pytest.mark.parametrize("region", [1, 2, 3, 100])
def test_output_is_that_of_the_equations(region: int) -> None:
    options = {"embed_dim": 5, "attention_dim": 3, "region": region}
    model = create_aggregator("hierarchical", in_dim=4, seed=0, **options).double().eval()
    generator = torch.Generator().manual_seed(1)
    x, offsets = 3 * torch.randn(15, 4, dtype=torch.float64, generator=generator), [0, 1, 6, 15]
    grid = torch.randint(-4, 5, (15, 2), generator=generator)  # the bags overlap: regions must not mix them
    output = model(x, offsets=torch.tensor(offsets), grid=grid)
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    for b, (start, end) in enumerate(pairwise(offsets)):
        members: dict[tuple[int, int], list[int]] = {}
        for row in range(start, end):
            members.setdefault(tuple(place // region for place in grid[row].tolist()), []).append(row)
        regions, within = [], {}
        for rows in members.values():
            mean, weights = pooled(state, "tile_scores", [layer(state, "tile", x[row].numpy()) for row in rows])
            regions.append(layer(state, "of_region", mean))
            within.update(zip(rows, weights, strict=True))
        slide, between = pooled(state, "region_scores", regions)
        expected = layer(state, "of_slide", slide)
        np.testing.assert_allclose(output.embedding[b].detach().numpy(), expected, rtol=0, atol=1e-12)
        for rows, weight in zip(members.values(), between, strict=True):
            for row in rows:
                assert float(output.attention[row].detach()) == pytest.approx(within[row] * weight, abs=1e-12)


def test_region_must_have_a_side() -> None:
    with pytest.raises(ConfigError, match="region=0; expected at least 1"):
        create_aggregator("hierarchical", in_dim=4, region=0)


@pytest.mark.parametrize("options", [{"region": 2, "dropout": 0.0}])
def test_contract_holds_with_other_options(options: dict[str, object]) -> None:
    check_aggregator(partial(create_aggregator, "hierarchical", in_dim=24, **options))
