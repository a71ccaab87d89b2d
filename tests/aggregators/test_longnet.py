"""LongNet against the equations of Ding et al. 2023 and the frame of GigaPath's slide encoder, written out."""

from functools import partial
from itertools import pairwise
from math import erf

import numpy as np
import pytest
import torch

from wsikit.aggregators.registry import create_aggregator
from wsikit.errors import ConfigError
from wsikit.layers.places import sinusoidal_places
from wsikit.testing.aggregator_contract import check_aggregator

SMALL = {"embed_dim": 8, "heads": 2, "hidden_dim": 6}


def normalised(state: dict[str, np.ndarray], name: str, h: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    centred = h - h.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps)
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def linear(state: dict[str, np.ndarray], name: str, h: np.ndarray) -> np.ndarray:
    return h @ state[f"{name}.weight"].T + state.get(f"{name}.bias", 0.0)


def waves(x: int, y: int, width: int) -> list[float]:
    """Of one place: the sines of y at falling frequencies, its cosines, and the same of x."""
    quarter = width // 4
    frequencies = [1 / 10_000 ** (k / quarter) for k in range(quarter)]
    return [wave(place * f) for place in (y, x) for wave in (np.sin, np.cos) for f in frequencies]


def dilated(q: np.ndarray, k: np.ndarray, v: np.ndarray, heads: int, branches: list[tuple[int, int]]) -> np.ndarray:
    out, width = np.zeros_like(q), q.shape[1] // heads
    for head in range(heads):
        columns = slice(head * width, (head + 1) * width)
        for row in range(len(q)):
            kept = []
            for segment, dilation in branches:
                begin = row // segment * segment
                rows = range(begin + head // -(-heads // dilation), min(begin + segment, len(q)), dilation)
                kept += list(rows) if row in rows else []
            weights = np.exp(k[kept, columns] @ q[row, columns] / width**0.5)
            out[row, columns] = weights @ v[kept, columns] / weights.sum()
    return out


def by_equations(
    state: dict[str, np.ndarray], x: np.ndarray, grid: np.ndarray, branches: list[tuple[int, int]]
) -> np.ndarray:
    heads, width = SMALL["heads"], SMALL["embed_dim"]
    order = sorted(range(len(x)), key=lambda row: (grid[row, 1], grid[row, 0]))  # as one reads
    x, grid = x[order], grid[order] - grid.min(0)
    h = linear(state, "project", x) + np.array([waves(*place, width) for place in grid.tolist()])
    token = state.get("class_token")
    if token is not None:
        h = np.concatenate([token, h])
    for layer in ("layers.0", "layers.1"):
        normed = normalised(state, f"{layer}.attention_norm", h)
        q, k, v = (linear(state, f"{layer}.{part}", normed) for part in ("query", "key", "value"))
        attended = normalised(state, f"{layer}.inner_norm", dilated(q, k, v, heads, branches))
        h = h + linear(state, f"{layer}.out", attended)
        inner = linear(state, f"{layer}.feed_forward.1", normalised(state, f"{layer}.feed_forward.0", h))
        gelu = inner * (1 + np.vectorize(erf)(inner / np.sqrt(2))) / 2
        h = h + linear(state, f"{layer}.feed_forward.4", normalised(state, f"{layer}.feed_forward.3", gelu))
    h = normalised(state, "layers_norm", h)
    return normalised(state, "norm", h.mean(0) if token is None else h[0], eps=1e-6)


@pytest.mark.parametrize(
    ("pooling", "segments", "dilations"),
    [("mean", (4, 7), (1, 2)), ("class", (4, 8, 32), (1, 2, 3)), ("class", (1, 1000), (1, 1))],
)
def test_output_is_that_of_the_equations(pooling: str, segments: tuple[int, ...], dilations: tuple[int, ...]) -> None:
    options = {"pooling": pooling, "segments": segments, "dilations": dilations, **SMALL}
    model = create_aggregator("longnet", in_dim=5, seed=0, **options).double().eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():  # every parameter away from its start (norms begin at 1 and 0), so that none is forgotten
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    offsets = [0, 1, 12, 31]
    x = torch.randn(31, 5, dtype=torch.float64, generator=generator)
    place = torch.randperm(400, generator=generator)[:31]
    grid = torch.stack([place % 20 - 7, place // 20 + 1000], dim=1)
    found = model(x, offsets=torch.tensor(offsets), grid=grid).embedding
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    for b, (start, end) in enumerate(pairwise(offsets)):
        branches = list(zip(segments, dilations, strict=True))
        expected = by_equations(state, x[start:end].numpy(), grid[start:end].numpy(), branches)
        np.testing.assert_allclose(found[b].detach().numpy(), expected, rtol=0, atol=1e-6)  # waves are float32


def test_a_tile_beyond_the_longest_segment_is_not_heard_and_one_within_is() -> None:
    """Eight tiles in one line, segments of 2 and 4: after two layers, tiles 1 to 3 have heard tile 0, and no others."""
    model = create_aggregator("longnet", in_dim=5, seed=0, segments=(2, 4), dilations=(1, 2), **SMALL).eval()
    x = torch.randn(8, 5, generator=torch.Generator().manual_seed(1))
    grid = torch.stack([torch.arange(8), torch.zeros(8, dtype=torch.int64)], dim=1)
    heard = []
    model.layers_norm.register_forward_hook(lambda module, inputs, output: heard.append(inputs[0].detach()))
    model(x, grid=grid)
    x[0] += 1
    model(x, grid=grid)
    moved = (heard[0] - heard[1]).abs().amax(1) > 1e-4
    assert moved.tolist() == [True] * 4 + [False] * 4


def test_places_matter_and_the_origin_does_not() -> None:
    model = create_aggregator("longnet", in_dim=6, seed=0, **SMALL).eval()
    x = torch.randn(12, 6, generator=torch.Generator().manual_seed(1))
    grid = torch.stack([torch.arange(12) % 4, torch.arange(12) // 4], dim=1)
    here = model(x, grid=grid).embedding
    torch.testing.assert_close(model(x, grid=grid + torch.tensor([-1000, 77])).embedding, here)
    assert (model(x, grid=3 * grid).embedding - here).abs().max() > 1e-3


def test_waves_far_out_are_exact() -> None:
    grid = torch.tensor([[0, 0], [3, 100_000], [999_999, 5]])
    expected = [waves(x, y, 12) for x, y in grid.tolist()]
    np.testing.assert_allclose(sinusoidal_places(grid, 12).numpy(), expected, rtol=0, atol=1e-6)


def test_a_class_token_does_not_leave_tiles_unheard() -> None:
    model = create_aggregator("longnet", in_dim=6, pooling="class", segments=(4,), dilations=(1,), **SMALL)
    assert model(torch.zeros(3, 6), grid=torch.zeros(3, 2, dtype=torch.int64)).embedding.isfinite().all()
    with pytest.raises(ConfigError, match="a bag of 4 tiles, but a class token hears the first 3 alone"):
        model(torch.zeros(4, 6), grid=torch.zeros(4, 2, dtype=torch.int64))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embed_dim": 30}, "embed_dim=30; expected a multiple of heads=8"),
        ({"embed_dim": 6, "heads": 2}, "embed_dim=6; expected a multiple of 4"),
        ({"segments": (4,), "dilations": (1, 2)}, r"segments=\(4,\), dilations=\(1, 2\); expected equally many"),
        ({"segments": (), "dilations": ()}, "expected equally many, each at least 1"),
        ({"segments": (0, 4), "dilations": (1, 2)}, "expected equally many, each at least 1"),
        ({"segments": (4,), "dilations": (2,)}, r"dilations=\(2,\); expected a 1 among them"),
        ({"pooling": "max"}, "pooling='max'; expected 'mean' or 'class'"),
        ({"dropout": 1.0}, "dropout=1.0; expected at least 0 and below 1"),
        ({"layers": 0}, "layers=0; expected at least 1"),
    ],
)
def test_options_that_cannot_be_used_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create_aggregator("longnet", in_dim=6, **options)


def test_contract_holds_with_a_class_token_and_odd_segments() -> None:
    options = {"pooling": "class", "segments": (3, 7, 10_000), "dilations": (1, 2, 100), **SMALL}
    check_aggregator(partial(create_aggregator, "longnet", in_dim=24, **options))


def test_drop_path_leaves_out_whole_parts_of_the_later_layers() -> None:
    """Of three layers the first keeps all, the last drops each of its parts with the whole probability."""
    rate, layers = 0.6, 3
    options = {"layers": layers, "dropout": 0.0, "drop_path": rate, **SMALL}
    model = create_aggregator("longnet", in_dim=6, seed=0, **options).double()
    assert [layer.drop_path.p for layer in model.layers] == pytest.approx([0, rate / 2, rate])
    plain = create_aggregator("longnet", in_dim=6, seed=0, **options | {"drop_path": 0.0}).double()
    x, grid = torch.randn(5, 6, dtype=torch.float64), torch.stack([torch.arange(5), torch.zeros(5).long()], dim=1)
    assert torch.equal(model.eval()(x, grid=grid).embedding, plain.eval()(x, grid=grid).embedding)
    layer = model.train().layers[2]
    h = torch.randn(5, 8, dtype=torch.float64)
    attention, forward = layer.out, layer.feed_forward
    with torch.no_grad():
        normed = layer.attention_norm(h)
        value = layer.value(normed).unflatten(1, (2, 4))
        first = attention(layer.inner_norm(layer._attend(normed, value).flatten(1))) / (1 - rate)
        possible = [h + a * first + b * forward(h + a * first) / (1 - rate) for a in (0, 1) for b in (0, 1)]
        counts = [0] * 4
        torch.manual_seed(0)
        for _ in range(500):
            found = layer(h)
            (which,) = (i for i, one in enumerate(possible) if torch.allclose(found, one, atol=1e-12))
            counts[which] += 1
    expected = [rate * rate, rate * (1 - rate), rate * (1 - rate), (1 - rate) ** 2]
    # 4 standard deviations of the widest of the four counts
    assert np.abs(np.array(counts) / 500 - expected).max() < 4 * (0.24 / 500) ** 0.5
    with pytest.raises(ConfigError, match=r"drop_path=1.0; expected at least 0 and below 1"):
        create_aggregator("longnet", in_dim=6, drop_path=1.0)
    check_aggregator(partial(create_aggregator, "longnet", in_dim=24, layers=3, drop_path=0.2, **SMALL))
