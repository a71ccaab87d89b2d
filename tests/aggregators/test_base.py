"""What ``Aggregator.forward`` accepts, hands out, and refuses by name."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor

from wsikit.aggregators.base import Aggregator, AggregatorCard, AggregatorOutput
from wsikit.aggregators.registry import create_aggregator
from wsikit.errors import ConfigError
from wsikit.layers.packed import pad

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
OFFSETS = torch.tensor([0, 2, 5])
GRID = torch.arange(10, dtype=torch.int32).reshape(5, 2)
EDGES = torch.tensor([[0, 3], [1, 4]])
PADDED, MASK = pad(X, OFFSETS)
SPOILT = X.clone()
SPOILT[3, 1] = torch.nan


class Echo(Aggregator):
    """Keeps what ``pool`` was given."""

    card = AggregatorCard(
        name="echo", summary="-", paper="-", repository="-", licence="-", uses_grid=True, uses_edges=True
    )

    def pool(self, x: Tensor, offsets: Tensor, grid: Tensor | None, edges: Tensor | None) -> AggregatorOutput:
        self.given = (x, offsets, grid, edges)
        return AggregatorOutput(x[offsets[:-1]], torch.stack([x[:, 0], x[:, 1]], dim=1), instance_logits=x[:, :1])


@pytest.fixture
def echo() -> Echo:
    return Echo(4, 4)


def test_pool_gets_the_same_from_packed_and_padded_bags(echo: Echo) -> None:
    echo(X, offsets=OFFSETS, grid=GRID, edges=EDGES)
    packed = echo.given
    echo(PADDED, mask=MASK, grid=pad(GRID, OFFSETS)[0], edges=EDGES)
    for of_packed, of_padded, expected in zip(packed, echo.given, (X, OFFSETS, GRID, EDGES), strict=True):
        assert of_packed is not None
        assert torch.equal(of_packed, expected)
        assert of_padded is not None
        assert torch.equal(of_padded, expected)


def test_a_single_bag_needs_no_offsets(echo: Echo) -> None:
    output = echo(X, grid=GRID, edges=EDGES)
    assert echo.given[1].tolist() == [0, 5]
    assert output.embedding.shape == (1, 4)
    assert output.attention.shape == (5, 2)


def test_attention_and_logits_come_back_in_the_layout_of_the_bags(echo: Echo) -> None:
    output = echo(PADDED, mask=MASK, grid=pad(GRID, OFFSETS)[0], edges=EDGES)
    assert torch.equal(output.attention, pad(X[:, :2], OFFSETS)[0])
    assert torch.equal(output.instance_logits, pad(X[:, :1], OFFSETS)[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_features_are_converted_to_the_type_of_the_parameters(dtype: torch.dtype) -> None:
    """A store keeps float16; the answer is that of the same values in float32."""
    model = create_aggregator("abmil", in_dim=4, seed=0)
    x = X.to(dtype)
    assert torch.equal(model(x).embedding, model(x.float()).embedding)
    assert create_aggregator("mean", in_dim=4)(X.half()).embedding.dtype == torch.float32


def test_finite_features_whose_sum_overflows_are_accepted() -> None:
    x = torch.full((4, 4), 3e38)
    assert create_aggregator("max", in_dim=4)(x).embedding.tolist() == [[pytest.approx(3e38)] * 4]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"x": X[0]}, "x of shape (4,); expected packed (sum N, D) with offsets=, padded (B, Nmax, D) with mask=, or one"),
    ({"x": PADDED}, "x of shape (2, 3, 4); expected packed"),
    ({"x": X[:, :3]}, "features of width 3, but it was built with in_dim=4; build it with the width of the encoder's"),
    ({"x": X.int()}, "x of type torch.int32; expected floating point"),
    ({"x": SPOILT}, "1 of 5 instances hold NaN or infinity, the first is instance 3 of the packed rows"),
    ({"x": torch.where(X.eq(X[4, 2]), -torch.inf, X)}, "the first is instance 4 of the packed rows"),
    ({"offsets": torch.tensor([1, 5])}, "offsets start at 1; expected 0"),
    ({"offsets": torch.tensor([0, 2, 2, 5])}, "bag 1 is empty"),
    ({"offsets": torch.tensor([0, 3, 2, 5])}, "offsets fall from 3 to 2 at bag 1"),
    ({"offsets": torch.tensor([0, 2, 4])}, "offsets end at 4, but there are 5 packed rows"),
    ({"mask": MASK}, "both offsets and mask were given"),
    ({"x": PADDED, "offsets": None, "mask": MASK.int()}, "mask of type torch.int32; expected bool, True = valid"),
    ({"x": PADDED, "offsets": None, "mask": MASK[:, :2]}, "x of shape (2, 3, 4) with a mask of shape (2, 2)"),
    ({"x": X, "offsets": None, "mask": MASK}, "x of shape (5, 4) with a mask of shape (2, 3)"),
    ({"x": PADDED, "offsets": None, "mask": MASK}, "but grid of shape (5, 2); expected (2, 3, 2)"),
    ({"grid": None}, "'echo' uses the grid, but none was given"),
    ({"grid": GRID[:4]}, "5 instances but grid of shape (4, 2); expected (5, 2)"),
    ({"grid": GRID * 256.0}, "grid of type torch.float32; expected whole numbers, steps of the grid"),
    ({"edges": None}, "'echo' uses edges, but none were given"),
    ({"edges": EDGES.T[:1]}, "edges of shape (1, 2), torch.int64; expected (2, number of edges) int64"),
    ({"edges": EDGES.int()}, "edges of shape (2, 2), torch.int32"),
    ({"edges": EDGES + 1}, "edges name instances 1 to 5, but there are 5"),
    ({"edges": torch.tensor([[0, 1, 3], [1, 2, 4]])}, "1 edges join instances of different bags"),
]


@pytest.mark.parametrize(("changed", "message"), REFUSED)
def test_what_does_not_fit_is_refused_by_name(echo: Echo, changed: dict[str, Any], message: str) -> None:
    given = {"x": X, "offsets": OFFSETS, "grid": GRID, "edges": EDGES} | changed
    with pytest.raises(ConfigError, match=re.escape(message)):
        echo(given.pop("x"), **given)


def test_an_empty_bag_of_a_padded_batch_is_refused_by_its_number(echo: Echo) -> None:
    mask = MASK.clone()
    mask[1] = False
    with pytest.raises(ConfigError, match="bag 1 is empty"):
        echo(PADDED, mask=mask, grid=pad(GRID, OFFSETS)[0])


def test_no_edges_are_edges_too(echo: Echo) -> None:
    assert echo(X, grid=GRID, edges=EDGES[:, :0]).embedding.shape == (1, 4)


def test_own_loss_is_zero_unless_a_model_has_one() -> None:
    model = create_aggregator("abmil", in_dim=4)
    assert model.training_loss(model(X), torch.tensor([1])).item() == 0


def test_a_model_without_pool_says_so() -> None:
    class Empty(Aggregator):
        card = AggregatorCard(name="empty", summary="-", paper="-", repository="-", licence="-")

    with pytest.raises(NotImplementedError, match=r"Empty must define pool\(x, offsets, grid, edges\)"):
        Empty(4, 4)(X)
