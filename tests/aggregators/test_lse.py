"""Log-sum-exp pooling against its formula, at its two ends, and where a plain formula overflows."""

import math
from itertools import pairwise

import pytest
import torch

from wsikit.aggregators.registry import create_aggregator
from wsikit.errors import ConfigError

OFFSETS = [0, 1, 6, 18]


def model_and_output(r: float, scale: float = 1.0):  # type: ignore[no-untyped-def]
    model = create_aggregator("lse", in_dim=4, seed=0, r=r, classes=2, embed_dim=5).double().eval()
    x = scale * torch.randn(18, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return model, x, model(x, offsets=torch.tensor(OFFSETS))


@pytest.mark.parametrize("r", [0.5, 5.0])
def test_output_is_that_of_the_formula(r: float) -> None:
    model, x, output = model_and_output(r)
    h = (x @ model.project[0].weight.T + model.project[0].bias).clamp(min=0)
    logits = (h @ model.classify.weight.T + model.classify.bias).tolist()
    for b, (start, end) in enumerate(pairwise(OFFSETS)):
        for c in range(2):
            exponentials = [math.exp(r * logits[row][c]) for row in range(start, end)]
            expected = math.log(sum(exponentials) / (end - start)) / r
            assert output.bag_logits[b, c].item() == pytest.approx(expected, abs=1e-12)
            weights = [e / sum(exponentials) for e in exponentials]
            assert output.attention[start:end, c].tolist() == pytest.approx(weights, abs=1e-12)
            mean = sum(w * row for w, row in zip(weights, h[start:end], strict=True))
            torch.testing.assert_close(output.embedding[b, c], mean)


def test_it_goes_from_the_mean_to_the_maximum() -> None:
    _, _, soft = model_and_output(1e-6)
    _, _, hard = model_and_output(1e6)
    for b, (start, end) in enumerate(pairwise(OFFSETS)):
        torch.testing.assert_close(soft.bag_logits[b], soft.instance_logits[start:end].mean(0), atol=1e-5, rtol=0)
        torch.testing.assert_close(hard.bag_logits[b], hard.instance_logits[start:end].amax(0), atol=1e-5, rtol=0)


def test_attention_is_the_derivative() -> None:
    model, x, _ = model_and_output(5.0)
    output = model(x[:6])
    (gradient,) = torch.autograd.grad(output.bag_logits[0, 1], output.instance_logits)
    torch.testing.assert_close(gradient[:, 1], output.attention[:, 1])


def test_large_logits_do_not_overflow() -> None:
    _, _, output = model_and_output(5.0, scale=1e4)
    assert output.instance_logits.max() > 200  # exp(5 x 200) is infinite
    assert output.bag_logits.isfinite().all()


def test_an_r_of_zero_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'lse': r=0.0; expected above 0"):
        create_aggregator("lse", in_dim=4, r=0.0)
