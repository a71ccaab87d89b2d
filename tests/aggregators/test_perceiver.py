"""The Perceiver against its equations written out, head by head, in float64; and which weights its rounds share."""

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.special import erf

from wsikit.aggregators.registry import create_aggregator
from wsikit.errors import ConfigError
from wsikit.testing.aggregator_contract import check_aggregator

State = dict[str, np.ndarray]


def affine(state: State, name: str, x: np.ndarray) -> np.ndarray:
    return x @ state[f"{name}.weight"].T + state.get(f"{name}.bias", 0)


def normalised(state: State, name: str, h: np.ndarray) -> np.ndarray:
    scaled = (h - h.mean(1, keepdims=True)) / np.sqrt(h.var(1, keepdims=True) + 1e-5)
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def block(state: State, name: str, z: np.ndarray, y: np.ndarray, heads: int) -> tuple[np.ndarray, np.ndarray]:
    y = normalised(state, f"{name}.key_norm", y)
    q = affine(state, f"{name}.query", normalised(state, f"{name}.norm", z))
    k, v = affine(state, f"{name}.key", y), affine(state, f"{name}.value", y)
    width = q.shape[1] // heads
    attended, maps = [], []
    for head in range(heads):
        columns = slice(head * width, (head + 1) * width)
        exponentials = np.exp(q[:, columns] @ k[:, columns].T / np.sqrt(width))
        weights = exponentials / exponentials.sum(1, keepdims=True)
        attended.append(weights @ v[:, columns])
        maps.append(weights)
    z = z + affine(state, f"{name}.out", np.concatenate(attended, axis=1))
    hidden = affine(state, f"{name}.mlp.0", normalised(state, f"{name}.mlp_norm", z))
    return z + affine(state, f"{name}.mlp.2", hidden * (1 + erf(hidden / np.sqrt(2))) / 2), np.mean(maps, axis=0)


@pytest.mark.parametrize("rounds", [1, 3])
def test_output_is_that_of_the_equations(rounds: int) -> None:
    options = {"embed_dim": 6, "latents": 3, "rounds": rounds, "layers": 2, "heads": 2}
    model = create_aggregator("perceiver", in_dim=4, seed=0, **options).double().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    x, offsets = 2 * torch.randn(9, 4, dtype=torch.float64, generator=generator), [0, 1, 6, 9]
    output = model(x, offsets=torch.tensor(offsets))
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    for b, (start, end) in enumerate(pairwise(offsets)):
        z = state["latents"]
        for turn in range(rounds):  # the first round has a cross-attention of its own; all share the rest
            z, maps = block(state, "cross" if turn else "first_cross", z, x[start:end].numpy(), 1)
            for layer in range(2):
                z, _ = block(state, f"layers.{layer}", z, z, 2)
        np.testing.assert_allclose(output.embedding[b].detach().numpy(), z.mean(0), rtol=0, atol=1e-12)
        np.testing.assert_allclose(output.attention[start:end].numpy(), maps.mean(0), rtol=0, atol=1e-12)


def test_width_must_be_a_multiple_of_the_heads() -> None:
    with pytest.raises(ConfigError, match="embed_dim=30; expected a multiple of heads=8"):
        create_aggregator("perceiver", in_dim=4, embed_dim=30)


@pytest.mark.parametrize("options", [{"rounds": 1, "latents": 4, "embed_dim": 16}])
def test_contract_holds_with_other_options(options: dict[str, object]) -> None:
    check_aggregator(partial(create_aggregator, "perceiver", in_dim=24, **options))
