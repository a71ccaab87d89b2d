"""DSMIL against its equations, bag by bag and class by class."""

from itertools import pairwise

import pytest
import torch

from wsikit.aggregators.registry import create_aggregator
from wsikit.errors import ConfigError

OFFSETS = [0, 1, 6, 18]
X = torch.randn(18, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def affine(state: dict[str, torch.Tensor], layer: str, x: torch.Tensor) -> torch.Tensor:
    return x @ state[f"{layer}.weight"].T + state[f"{layer}.bias"]


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize(("nonlinear", "passing_value"), [(True, False), (False, True)])
def test_output_is_that_of_the_equations(classes: int, nonlinear: bool, passing_value: bool) -> None:
    options = {"query_dim": 5, "nonlinear": nonlinear, "passing_value": passing_value, "classes": classes}
    model = create_aggregator("dsmil", in_dim=4, seed=0, **options).double().eval()
    output = model(X, offsets=torch.tensor(OFFSETS))
    state = model.state_dict()
    for b, (start, end) in enumerate(pairwise(OFFSETS)):
        bag = X[start:end]
        logits = affine(state, "score", bag)
        if nonlinear:
            query = torch.tanh(affine(state, "query.2", affine(state, "query.0", bag).clamp(min=0)))
        else:
            query = affine(state, "query", bag)
        value = affine(state, "value.1", bag).clamp(min=0) if passing_value else bag
        means, largest = [], []
        for c in range(classes):
            critical = max(range(end - start), key=lambda i, c=c: logits[i, c].item())
            largest.append(logits[critical, c])
            exponentials = [torch.exp(q @ query[critical] / 5**0.5) for q in query]
            weights = [e / sum(exponentials) for e in exponentials]
            torch.testing.assert_close(output.attention[start:end, c], torch.stack(weights))
            means.append(sum(w * v for w, v in zip(weights, value, strict=True)))
        torch.testing.assert_close(output.embedding[b], torch.stack(means))
        second = torch.cat(means) @ state["classify.weight"].T + state["classify.bias"]
        torch.testing.assert_close(output.bag_logits[b], (torch.stack(largest) + second) / 2)
        torch.testing.assert_close(output.instance_logits[start:end], logits)


def test_own_loss_is_the_cross_entropy_of_the_critical_instances() -> None:
    model = create_aggregator("dsmil", in_dim=4, seed=0, classes=3, instance_weight=0.5).double()
    output = model(X, offsets=torch.tensor(OFFSETS))
    target = [2, 0, 1]
    expected = 0.0
    for (start, end), label in zip(pairwise(OFFSETS), target, strict=True):
        largest = output.instance_logits[start:end].amax(dim=0)
        expected += (largest.exp().sum().log() - largest[label]).item() / 3
    assert model.training_loss(output, torch.tensor(target)).item() == pytest.approx(0.5 * expected)
    single = create_aggregator("dsmil", in_dim=4, seed=0, classes=1)
    assert single.training_loss(single(X.float()), torch.tensor([0])).item() == 0


def test_each_class_has_its_own_critical_instance() -> None:
    """The authors' first code looked the second class's up in rows that it had sorted by the first."""
    model = create_aggregator("dsmil", in_dim=2, seed=0, classes=2, nonlinear=False)
    with torch.no_grad():
        model.score.weight.copy_(torch.eye(2))
        model.score.bias.zero_()
    x = torch.tensor([[0.0, 0.0], [0.0, 5.0], [1.0, 1.0], [5.0, 0.0]])
    assert model(x).extras["of_instances"].tolist() == [[5.0, 5.0]]
    query = model.query(x)
    expected = (query @ query[[3, 1]].T / 128**0.5).softmax(dim=0)
    torch.testing.assert_close(model(x).attention, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"query_dim": 0}, "'dsmil': query_dim=0; expected at least 1"),
        ({"instance_weight": -0.1}, "'dsmil': instance_weight=-0.1; expected at least 0"),
        ({"dropout": 1.0}, "'dsmil': dropout=1.0; expected at least 0 and below 1"),
    ],
)
def test_an_option_out_of_range_is_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create_aggregator("dsmil", in_dim=4, **options)
