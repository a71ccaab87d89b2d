"""The smooth top-1 SVM against its formula in plain floats, and against what it goes to at its ends."""

import math

import pytest
import torch

from wsikit.errors import ConfigError
from wsikit.losses.smooth_svm import smooth_top1_svm


def by_formula(scores: list[float], right: int, temperature: float, margin: float) -> float:
    terms = [(s + (margin if j != right else 0) - scores[right]) / temperature for j, s in enumerate(scores)]
    return temperature * math.log(sum(math.exp(term) for term in terms))


@pytest.mark.parametrize(("temperature", "margin"), [(1.0, 1.0), (0.3, 1.0), (2.0, 0.5)])
def test_mean_of_the_formula(temperature: float, margin: float) -> None:
    logits = torch.randn(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    target = torch.tensor([0, 1, 2, 3, 0, 1, 2])
    each = [by_formula(row, right, temperature, margin) for row, right in zip(logits.tolist(), target, strict=True)]
    found = smooth_top1_svm(logits, target, temperature=temperature, margin=margin)
    assert found.item() == pytest.approx(sum(each) / 7, abs=1e-12)


def test_without_a_margin_it_is_the_cross_entropy() -> None:
    logits, target = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 2, 1])
    expected = torch.nn.functional.cross_entropy(logits, target)
    torch.testing.assert_close(smooth_top1_svm(logits, target, margin=0.0), expected)


def test_without_a_temperature_it_is_the_hinge_loss() -> None:
    logits, target = torch.tensor([[3.0, 0.5], [3.0, 2.5]], dtype=torch.float64), torch.tensor([0, 0])
    found = smooth_top1_svm(logits, target, temperature=1e-3)
    assert found.item() == pytest.approx((0 + 0.5) / 2, abs=1e-9)


def test_large_scores_neither_overflow_nor_lose_their_gradient() -> None:
    logits = torch.tensor([[-3e4, 3e4]], dtype=torch.bfloat16).requires_grad_()
    loss = smooth_top1_svm(logits, torch.tensor([0]))
    loss.backward()
    assert loss.item() == pytest.approx(2 * logits[0, 1].item() + 1)
    assert logits.grad.tolist() == [[-1.0, 1.0]]


@pytest.mark.parametrize("changed", [{"temperature": 0.0}, {"margin": -1.0}, {"temperature": float("nan")}])
def test_values_out_of_range_are_refused(changed: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"smooth SVM loss: .*; expected above 0, and at least 0"):
        smooth_top1_svm(torch.zeros(1, 2), torch.tensor([0]), **changed)
