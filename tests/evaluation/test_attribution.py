"""Maps of tiles: equal to what can be worked out by hand, and complete for the registered models."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wsikit.aggregators.registry import create_aggregator, list_aggregators
from wsikit.cohort.bags import BagBatch
from wsikit.errors import ConfigError
from wsikit.evaluation.attribution import attention_map, gradient_times_input, integrated_gradients, margin
from wsikit.testing.random_bags import make_bags
from wsikit.training.model import SlideModel

DIM = 6


def bag_of(model: SlideModel, tiles: int, *, seed: int = 0) -> BagBatch:
    """A bag that fits a model, edges among neighbours if it uses them."""
    made = make_bags(model.aggregator, (tiles,), seed=seed)
    edges = None if made.edges is None else made.edges.numpy()
    return BagBatch(made.x.numpy().astype(np.float16), made.offsets.numpy(), made.grid.numpy(), edges)


def model_of(name: str, outputs: int = 2, *, dim: int = DIM, **options: object) -> SlideModel:
    """A model with a head that is not zero."""
    torch.manual_seed(0)
    model = SlideModel(create_aggregator(name, in_dim=dim, classes=outputs, seed=1, **options), outputs)
    model.mean += 0.1
    torch.nn.init.normal_(model.head.weight, std=0.5)
    return model.eval()


def test_margin_is_the_log_odds_of_one_class():
    outputs = torch.tensor([[0.3, -1.2, 2.0], [5.0, 5.0, 5.0]], dtype=torch.float64)
    p = outputs.softmax(1)
    for column in range(3):
        assert torch.allclose(margin(outputs, column), torch.log(p[:, column] / (1 - p[:, column])))
    assert torch.equal(margin(outputs[:, :1], 0), outputs[:, 0])
    with pytest.raises(ConfigError, match="column=3; the model has 3 outputs, numbered from 0"):
        margin(outputs, 3)


def test_linear_model_is_attributed_exactly():
    model = model_of("mean", outputs=1)
    bag = bag_of(model, 7)
    weight = model.head.weight[0].detach().double().numpy()
    expected = (bag.x.astype(np.float64) - 0.1) @ weight / 7
    for values in (
        gradient_times_input(model, bag, column=0),
        integrated_gradients(model, bag, column=0).values,
    ):
        np.testing.assert_allclose(values, expected, atol=1e-6)
    other = np.linspace(-1, 1, DIM)
    shifted = gradient_times_input(model, bag, column=0, baseline=other)
    np.testing.assert_allclose(shifted, (bag.x.astype(np.float64) - other) @ weight / 7, atol=1e-6)
    assert attention_map(model, bag) is None


@pytest.mark.parametrize("name", list_aggregators())
def test_integrated_gradients_are_complete(name):
    """Of the outputs themselves, not of the numbers that the result has of them."""
    model = model_of(name, dim=24, **({"end_to_end": True} if name == "dtfd" else {}))
    bag = bag_of(model, 12)
    found = integrated_gradients(model, bag, column=1, max_steps=256)
    rest = [torch.as_tensor(part) for part in (bag.offsets, bag.grid, *([] if bag.edges is None else [bag.edges]))]
    x = torch.as_tensor(bag.x).float()
    with torch.no_grad():
        at_x = float(margin(model(x, *rest).outputs, 1))
        at_b = float(margin(model(model.mean.expand_as(x), *rest).outputs, 1))
    assert abs(at_x - at_b) > 1e-3, "nothing to attribute: the test could not fail"
    assert found.values.shape == (12,)
    missing = abs(found.values.sum() - (at_x - at_b))
    # A model that picks single tiles jumps on the way; then the result has to say so.
    assert found.complete == (missing <= 1e-3 * max(1, abs(at_x - at_b)))
    assert found.gap == pytest.approx(at_x - at_b - found.values.sum(), abs=1e-5)
    if name in ("abmil", "mean", "max"):
        assert found.complete
    torch.testing.assert_close(torch.as_tensor(bag.x).float(), x)
    assert all(p.grad is None for p in model.parameters()), "the weights' gradients are left alone"


def test_a_jump_is_reported_as_a_gap():
    class Step(torch.nn.Module):
        training = False
        mean = torch.zeros(1)

        def forward(self, x, offsets, grid):
            from wsikit.training.model import SlideModelOutput

            return SlideModelOutput((x > 0.3).float() + 0 * x, None)  # type: ignore[arg-type]

    bag = BagBatch(np.ones((1, 1), np.float16), np.array([0, 1]), np.zeros((1, 2), np.int64))
    found = integrated_gradients(Step(), bag, column=0, max_steps=32)  # type: ignore[arg-type]
    assert (found.gap, found.complete, found.steps) == (1.0, False, 32)


def test_attention_is_the_models_own_and_the_mode_is_kept():
    model = model_of("abmil").train()
    model.aggregator.project[2].p = 0.5  # dropout would show
    bag = bag_of(model, 9)
    first = attention_map(model, bag)
    assert first is not None
    assert model.training
    assert first.sum() == pytest.approx(1)
    np.testing.assert_array_equal(first, attention_map(model, bag))
    np.testing.assert_array_equal(
        gradient_times_input(model, bag, column=0), gradient_times_input(model, bag, column=0)
    )
    heads = SlideModel(create_aggregator("abmil", in_dim=DIM, heads=3, seed=0), 2)
    several = attention_map(heads, bag)
    assert several is not None
    assert several.shape == (9,)
    assert several.sum() == pytest.approx(1)


def test_a_model_that_cuts_the_gradient_is_refused():
    model = model_of("dtfd")
    with pytest.raises(ConfigError, match="aggregator 'dtfd' passes no gradient from its output to the tiles"):
        gradient_times_input(model, bag_of(model, 12), column=0)


def test_what_cannot_be_explained_is_refused():
    model = model_of("mean")
    bag = bag_of(model, 4)
    two = BagBatch(bag.x, np.array([0, 2, 4]), bag.grid)
    with pytest.raises(ConfigError, match="2 bags; expected one"):
        gradient_times_input(model, two, column=0)
    with pytest.raises(ConfigError, match=r"baseline of shape \(5,\); expected \(6,\)"):
        integrated_gradients(model, bag, column=0, baseline=np.zeros(5))
    with pytest.raises(ConfigError, match="max_steps=8; expected at least 16"):
        integrated_gradients(model, bag, column=0, max_steps=8)
