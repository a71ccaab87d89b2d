"""TransMIL against the equations of Shao et al. 2021 written out, against torchmil, and on places that matter."""

import math
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch

from wsikit.aggregators.registry import create_aggregator
from wsikit.errors import ConfigError
from wsikit.testing.aggregator_contract import check_aggregator

SMALL = {"embed_dim": 8, "heads": 2, "landmarks": 4, "iterations": 6}


def normalised(state: dict[str, np.ndarray], name: str, h: np.ndarray) -> np.ndarray:
    centred = h - h.mean(1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5)
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def softmax(scores: np.ndarray) -> np.ndarray:
    exponentials = np.exp(scores)
    return exponentials / exponentials.sum(-1, keepdims=True)


def inverse_by_iteration(a: np.ndarray, iterations: int, scale: float) -> np.ndarray:
    z, eye = a.T / scale, np.eye(len(a))
    for _ in range(iterations):
        z = 0.25 * z @ (13 * eye - a @ z @ (15 * eye - a @ z @ (7 * eye - a @ z)))
    return z


def nystrom(state: dict[str, np.ndarray], name: str, h: np.ndarray, *, as_published: bool) -> np.ndarray:
    """softmax(Q K'^T) pinv(softmax(Q' K'^T)) softmax(Q' K^T) V + conv(V), head by head, with all of its matrices."""
    rows, width = h.shape
    heads, landmarks, iterations = SMALL["heads"], SMALL["landmarks"], SMALL["iterations"]
    if as_published:
        h = np.concatenate([np.zeros((-rows % landmarks, width)), h])
    landmarks = min(landmarks, len(h))
    q = h @ state[f"{name}.query.weight"].T
    k, v = np.split(h @ state[f"{name}.key_value.weight"].T, 2, axis=1)
    segments = np.array_split(np.arange(len(h)), landmarks)
    d = width // heads
    parts, middles = [], []
    for head in range(heads):
        columns = slice(head * d, (head + 1) * d)
        q_means = np.stack([q[rows_of, columns].mean(0) for rows_of in segments])
        k_means = np.stack([k[rows_of, columns].mean(0) for rows_of in segments])
        middles.append(softmax(q_means @ k_means.T / math.sqrt(d)))
        to_landmarks = softmax(q[:, columns] @ k_means.T / math.sqrt(d))
        from_landmarks = softmax(q_means @ k[:, columns].T / math.sqrt(d))
        parts.append((to_landmarks, from_landmarks, v[:, columns]))
    norms = [(a.sum(0).max(), a.sum(1).max()) for a in middles]
    shared = max(column for column, _ in norms) * max(row for _, row in norms)
    out = np.empty_like(h)
    for head, (to_landmarks, from_landmarks, values) in enumerate(parts):
        scale = shared if as_published else norms[head][0] * norms[head][1]
        attended = to_landmarks @ inverse_by_iteration(middles[head], iterations, scale) @ from_landmarks @ values
        kernel = state[f"{name}.convolution.weight"][head, 0, :, 0]
        for row in range(len(h)):
            for tap, weight in enumerate(kernel):
                neighbour = row + tap - len(kernel) // 2
                if 0 <= neighbour < len(h):
                    attended[row] += weight * values[neighbour]
        out[:, head * d : (head + 1) * d] = attended
    out = out @ state[f"{name}.out.0.weight"].T + state[f"{name}.out.0.bias"]
    return out[len(h) - rows :]


def encoded(state: dict[str, np.ndarray], h: np.ndarray, places: list[tuple[int, int]]) -> np.ndarray:
    """Each tile plus, for the kernels of 7, 5 and 3, the weighted tiles round its place."""
    at = {place: row for row, place in enumerate(places)}
    out = h.copy()
    for size in (7, 5, 3):
        kernel, bias = state[f"encoding.conv{size}.weight"][:, 0], state[f"encoding.conv{size}.bias"]
        for (x, y), row in at.items():
            out[row] += bias
            for dy in range(size):
                for dx in range(size):
                    neighbour = at.get((x + dx - size // 2, y + dy - size // 2))
                    if neighbour is not None:
                        out[row] += kernel[:, dy, dx] * h[neighbour]
    return out


def by_equations(
    state: dict[str, np.ndarray], x: np.ndarray, places: list[tuple[int, int]], *, square: bool
) -> np.ndarray:
    order = sorted(range(len(x)), key=lambda row: places[row][::-1])  # as one reads: by y, then x
    places = [places[row] for row in order]
    h = np.maximum(0, x[order] @ state["project.0.weight"].T + state["project.0.bias"])
    if square:
        side = math.ceil(math.sqrt(len(h)))
        h = np.concatenate([h, h[: side * side - len(h)]])
        places = [(column, row) for row in range(side) for column in range(side)]
    h = np.concatenate([state["class_token"], h])
    h = h + nystrom(state, "attention1", normalised(state, "norm1", h), as_published=square)
    h = np.concatenate([h[:1], encoded(state, h[1:], places)])
    h = h + nystrom(state, "attention2", normalised(state, "norm2", h), as_published=square)
    return normalised(state, "norm", h)[0]


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    """Every parameter away from its start (norms begin at 1 and 0), so that none can be forgotten."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return model


@pytest.mark.parametrize("places", ["grid", "square"])
def test_output_is_that_of_the_equations(places: str) -> None:
    model = randomised(create_aggregator("transmil", in_dim=5, seed=0, places=places, **SMALL).double().eval())
    generator = torch.Generator().manual_seed(1)
    offsets = [0, 1, 12, 29]
    x = torch.randn(29, 5, dtype=torch.float64, generator=generator)
    grid = torch.stack([torch.randperm(64, generator=generator)[:29], torch.zeros(29, dtype=torch.int64)], dim=1)
    grid = torch.stack([grid[:, 0] % 8, grid[:, 0] // 8 + 1000 * (torch.arange(29) % 2)], dim=1)  # two slides apart
    found = model(x, offsets=torch.tensor(offsets), grid=grid).embedding
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    for b, (start, end) in enumerate(pairwise(offsets)):
        at = [(column, row) for column, row in grid[start:end].tolist()]
        expected = by_equations(state, x[start:end].numpy(), at, square=places == "square")
        np.testing.assert_allclose(found[b].detach().numpy(), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("instances", [15, 16, 20])  # tokens fill the landmarks exactly, or not; square, or not
def test_folded_into_a_square_it_is_torchmils_with_the_same_weights(instances: int) -> None:
    """torchmil 1.0.2 has no ReLU, no convolution of the values, and no output matrix where the widths are equal."""
    torchmil = pytest.importorskip("torchmil.models")
    generator = torch.Generator().manual_seed(3)
    theirs = torchmil.TransMIL((16,), att_dim=16, n_heads=4, n_landmarks=5).eval()
    theirs.classifier = torch.nn.Identity()
    ours = create_aggregator("transmil", in_dim=16, seed=0, embed_dim=16, heads=4, landmarks=5, places="square").eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
        ours.project[0].weight.copy_(torch.eye(16))
        ours.project[0].bias.zero_()
        ours.class_token.copy_(theirs.cls_token[0])
        for number, layer in enumerate(theirs.layers, start=1):
            attention = getattr(ours, f"attention{number}")
            attention.query.weight.copy_(layer.att_module.qkv_nn.weight[:16])
            attention.key_value.weight.copy_(layer.att_module.qkv_nn.weight[16:])
            attention.convolution.weight.zero_()
            attention.out[0].weight.copy_(torch.eye(16))
            attention.out[0].bias.zero_()
            getattr(ours, f"norm{number}").load_state_dict(layer.norm1.state_dict())
        ours.norm.load_state_dict(theirs.norm.state_dict())
        for mine, their in {"conv7": "proj", "conv5": "proj1", "conv3": "proj2"}.items():
            getattr(ours.encoding, mine).load_state_dict(getattr(theirs.pos_layer, their).state_dict())
    x = torch.rand(instances, 16, generator=generator)  # positive: the ReLU changes nothing
    line = torch.stack([torch.arange(instances), torch.zeros(instances, dtype=torch.int64)], dim=1)
    torch.testing.assert_close(ours(x, grid=line).embedding, theirs(x[None]), rtol=1e-5, atol=2e-5)


def test_float32_is_within_rounding_of_float64() -> None:
    model = create_aggregator("transmil", in_dim=32, seed=0, embed_dim=64, landmarks=32).eval()
    x = torch.randn(600, 32, generator=torch.Generator().manual_seed(1))
    grid = torch.stack([torch.arange(600) % 25, torch.arange(600) // 25], dim=1)
    single = model(x, grid=grid).embedding
    torch.testing.assert_close(single.double(), model.double()(x.double(), grid=grid).embedding, rtol=0, atol=1e-4)


def test_order_of_the_rows_does_not_matter_in_a_square_either() -> None:
    model = create_aggregator("transmil", in_dim=6, seed=0, places="square", **SMALL).eval()
    x, order = torch.randn(11, 6, generator=torch.Generator().manual_seed(1)), torch.arange(11).flip(0)
    grid = torch.stack([torch.arange(11) % 4, torch.arange(11) // 4], dim=1)
    torch.testing.assert_close(model(x, grid=grid).embedding, model(x[order], grid=grid[order]).embedding)


def test_places_matter_and_the_origin_does_not() -> None:
    model = create_aggregator("transmil", in_dim=6, seed=0, **SMALL).eval()
    x = torch.randn(12, 6, generator=torch.Generator().manual_seed(1))
    grid = torch.stack([torch.arange(12) % 4, torch.arange(12) // 4], dim=1)
    apart, moved = 10 * grid, grid + torch.tensor([-1000, 77])
    here = model(x, grid=grid).embedding
    torch.testing.assert_close(model(x, grid=moved).embedding, here)
    assert (model(x, grid=apart).embedding - here).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embed_dim": 30}, "embed_dim=30; expected a multiple of heads=8"),
        ({"places": "fold"}, "places='fold'; expected 'grid' or 'square'"),
        ({"landmarks": 0}, "landmarks=0; expected at least 1"),
        ({"dropout": 1.0}, "dropout=1.0; expected at least 0 and below 1"),
    ],
)
def test_options_that_cannot_be_used_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create_aggregator("transmil", in_dim=6, **options)


@pytest.mark.parametrize("places", ["grid", "square"])
def test_contract_holds_with_few_landmarks(places: str) -> None:
    check_aggregator(partial(create_aggregator, "transmil", in_dim=24, embed_dim=16, landmarks=4, places=places))
