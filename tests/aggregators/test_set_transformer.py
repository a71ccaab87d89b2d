"""The Set Transformer against equations 6 to 12 of Lee et al. 2019 written out, head by head, in float64."""

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch

from wsikit.aggregators.registry import create_aggregator
from wsikit.errors import ConfigError
from wsikit.testing.aggregator_contract import check_aggregator

State = dict[str, np.ndarray]


def affine(state: State, name: str, x: np.ndarray) -> np.ndarray:
    return x @ state[f"{name}.weight"].T + state.get(f"{name}.bias", 0)


def normalised(state: State, name: str, h: np.ndarray) -> np.ndarray:
    if f"{name}.weight" not in state:
        return h
    scaled = (h - h.mean(1, keepdims=True)) / np.sqrt(h.var(1, keepdims=True) + 1e-5)
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def block(state: State, name: str, x: np.ndarray, y: np.ndarray, heads: int) -> tuple[np.ndarray, np.ndarray]:
    """MAB(X, Y), and what each row of X looks at, mean over the heads."""
    q, k, v = affine(state, f"{name}.query", x), affine(state, f"{name}.key", y), affine(state, f"{name}.value", y)
    width = q.shape[1] // heads
    attended, maps = [], []
    for head in range(heads):
        columns = slice(head * width, (head + 1) * width)
        exponentials = np.exp(q[:, columns] @ k[:, columns].T / np.sqrt(q.shape[1]))
        weights = exponentials / exponentials.sum(1, keepdims=True)
        attended.append(weights @ v[:, columns])
        maps.append(weights)
    h = normalised(state, f"{name}.norm1", q + np.concatenate(attended, axis=1))
    h = normalised(state, f"{name}.norm2", h + np.maximum(0, affine(state, f"{name}.feed_forward", h)))
    return h, np.mean(maps, axis=0)


@pytest.mark.parametrize("layer_norm", [True, False])
@pytest.mark.parametrize("seeds", [1, 3])
def test_output_is_that_of_the_equations(seeds: int, layer_norm: bool) -> None:
    options = {"embed_dim": 6, "heads": 2, "points": 3, "layers": 2, "seeds": seeds, "layer_norm": layer_norm}
    model = create_aggregator("set-transformer", in_dim=4, seed=0, **options).double().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    x, offsets = 2 * torch.randn(9, 4, dtype=torch.float64, generator=generator), [0, 1, 6, 9]
    output = model(x, offsets=torch.tensor(offsets))
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    for b, (start, end) in enumerate(pairwise(offsets)):
        h = x[start:end].numpy()
        for layer in range(2):
            induced, _ = block(state, f"encoder.{layer}.gather", state[f"encoder.{layer}.points"], h, 2)
            h, _ = block(state, f"encoder.{layer}.scatter", h, induced, 2)
        z, maps = block(state, "pooling", state["seeds"], h, 2)
        if seeds > 1:
            z, _ = block(state, "between_seeds", z, z, 2)
        np.testing.assert_allclose(output.embedding[b].detach().numpy(), z.flatten(), rtol=0, atol=1e-12)
        attention = output.attention[start:end].numpy().reshape(-1, seeds)
        np.testing.assert_allclose(attention, maps.T, rtol=0, atol=1e-12)


def test_width_must_be_a_multiple_of_the_heads() -> None:
    with pytest.raises(ConfigError, match="embed_dim=30; expected a multiple of heads=4"):
        create_aggregator("set-transformer", in_dim=4, embed_dim=30)


@pytest.mark.parametrize("options", [{"seeds": 2, "layer_norm": False}])
def test_contract_holds_with_other_options(options: dict[str, object]) -> None:
    check_aggregator(partial(create_aggregator, "set-transformer", in_dim=24, **options))
