"""Quantile proxy labels against their definition, and whether the tiles that were never labelled are found."""

import math
from itertools import pairwise

import pytest
import torch

from wsikit.aggregators.registry import create_aggregator
from wsikit.errors import ConfigError
from wsikit.metrics.auc import roc_auc

OFFSETS = [0, 1, 6, 26, 46]
X = torch.randn(46, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("alpha", "beta"), [(0.1, 0.0), (0.3, 0.5), (0.5, 0.5)])
@pytest.mark.parametrize(("classes", "target"), [(2, [1, 1, 1, 0]), (3, [1, 2, 2, 0])])
def test_loss_is_that_of_the_definition(alpha: float, beta: float, classes: int, target: list[int]) -> None:
    model = create_aggregator("quantile", in_dim=4, seed=0, classes=classes, alpha=alpha, beta=beta).double()
    output = model(X, offsets=torch.tensor(OFFSETS))
    h = (X @ model.project[0].weight.T + model.project[0].bias).clamp(min=0)
    logits = h @ model.classify.weight.T + model.classify.bias
    torch.testing.assert_close(output.instance_logits[:, 1:], logits)
    assert not output.instance_logits[:, 0].any()
    expected = 0.0
    for b, (start, end) in enumerate(pairwise(OFFSETS)):
        for kind in range(classes - 1):
            ranked = sorted((logits[row, kind].item() for row in range(start, end)), reverse=True)
            if target[b] == kind + 1:
                high = max(1, int(alpha * len(ranked)))
                low = min(int(beta * len(ranked)), len(ranked) - high)
                labelled = [(t, 1) for t in ranked[:high]] + [(t, 0) for t in ranked[len(ranked) - low :]]
            else:
                labelled = [(t, 0) for t in ranked]
            terms = [-math.log(1 / (1 + math.exp(-t if label else t))) for t, label in labelled]
            expected += sum(terms) / len(terms) / (classes - 1) / 4
            best = ranked[: max(1, int(alpha * len(ranked)))]
            assert output.bag_logits[b, kind + 1].item() == pytest.approx(sum(best) / len(best))
    assert model.training_loss(output, torch.tensor(target)).item() == pytest.approx(expected, abs=1e-12)


def test_a_bag_smaller_than_one_over_alpha_still_teaches() -> None:
    """The authors' code labels none of its tiles, and its mean over them is 0 / 0."""
    model = create_aggregator("quantile", in_dim=4, seed=0, alpha=0.1).double()
    output = model(X[:5])
    loss = model.training_loss(output, torch.tensor([1]))
    largest = output.instance_logits[:, 1].max().item()
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-largest)))


def test_one_output_is_the_mean_of_the_highest() -> None:
    model = create_aggregator("quantile", in_dim=4, seed=0, classes=1, alpha=0.5).double()
    output = model(X[:4])
    best = output.instance_logits[:, 0].sort(descending=True).values[:2]
    assert output.bag_logits.shape == (1, 1)
    assert output.bag_logits.item() == pytest.approx(best.mean().item())
    assert model.training_loss(output, torch.tensor([0])).item() == 0


@pytest.mark.parametrize("options", [{"alpha": 0.0}, {"beta": -0.1}, {"alpha": 0.6, "beta": 0.5}])
def test_shares_that_do_not_fit_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"'quantile': alpha=.*; expected alpha above 0, beta at least 0, and a sum"):
        create_aggregator("quantile", in_dim=4, **options)


def test_tiles_are_found_from_slide_labels() -> None:
    """A quarter of the tiles of a positive slide is planted; alpha says a tenth, so most are never labelled 1."""
    generator = torch.Generator().manual_seed(0)
    x, label = torch.randn(40, 60, 8, generator=generator), torch.arange(40) % 2
    planted = torch.zeros(40, 60, dtype=torch.bool)
    planted[label == 1, :15] = True
    x[planted] += torch.tensor([2.0, -2.0, *[0.0] * 6])
    offsets = torch.arange(0, 20 * 60 + 1, 60)
    model = create_aggregator("quantile", in_dim=8, seed=0, embed_dim=32)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(60):
        optimiser.zero_grad()
        output = model(x[:20].flatten(0, 1), offsets=offsets)
        task = torch.nn.functional.cross_entropy(output.bag_logits, label[:20])
        (task + model.training_loss(output, label[:20])).backward()
        optimiser.step()
    tiles = model.eval()(x[20:].flatten(0, 1), offsets=offsets).instance_logits[:, 1].detach().numpy()
    assert roc_auc(tiles, planted[20:].flatten().numpy()) > 0.85  # over 6 seeds: 0.94 to 0.96
