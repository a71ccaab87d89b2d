"""ABMIL against the equations of Ilse et al. 2018 written out in loops, and on bags whose answer is known."""

import math
from itertools import pairwise

import pytest
import torch

from wsikit.aggregators.registry import create_aggregator


def affine(weight: list[list[float]], bias: list[float], h: list[float]) -> list[float]:
    return [sum(w * v for w, v in zip(row, h, strict=True)) + b for row, b in zip(weight, bias, strict=True)]


def by_equations(
    state: dict[str, list], bag: list[list[float]], gated: bool, head: int
) -> tuple[list[float], list[float]]:
    """One bag, one head, in float64: attention (eq. 8 or 9) and weighted mean (eq. 7) of the projected instances."""
    projected, exponentials = [], []
    for instance in bag:
        h = [max(0.0, v) for v in affine(state["project.0.weight"], state["project.0.bias"], instance)]
        hidden = [math.tanh(v) for v in affine(state["scores.value.weight"], state["scores.value.bias"], h)]
        if gated:
            gates = affine(state["scores.gate.weight"], state["scores.gate.bias"], h)
            hidden = [v / (1 + math.exp(-u)) for v, u in zip(hidden, gates, strict=True)]
        score = sum(w * v for w, v in zip(state["scores.score.weight"][head], hidden, strict=True))
        projected.append(h)
        exponentials.append(math.exp(score))
    attention = [e / sum(exponentials) for e in exponentials]
    embedding = [sum(a * h[j] for a, h in zip(attention, projected, strict=True)) for j in range(len(projected[0]))]
    return attention, embedding


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("heads", [1, 2])
def test_output_is_that_of_the_equations(gated: bool, heads: int) -> None:
    options = {"embed_dim": 5, "attention_dim": 3, "heads": heads, "gated": gated}
    model = create_aggregator("abmil", in_dim=4, seed=0, **options).double().eval()
    x = 3 * torch.randn(9, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    offsets = [0, 1, 6, 9]
    output = model(x, offsets=torch.tensor(offsets))
    state = {name: value.tolist() for name, value in model.state_dict().items()}
    attention = output.attention.reshape(9, heads)
    for b, (start, end) in enumerate(pairwise(offsets)):
        for head in range(heads):
            weights, embedding = by_equations(state, x[start:end].tolist(), gated, head)
            assert attention[start:end, head].tolist() == pytest.approx(weights, abs=1e-12)
            assert output.embedding[b, 5 * head : 5 * head + 5].tolist() == pytest.approx(embedding, abs=1e-12)


def test_float32_is_within_rounding_of_float64() -> None:
    model = create_aggregator("abmil", in_dim=64, seed=0).eval()
    x = torch.randn(500, 64, generator=torch.Generator().manual_seed(1))
    single = model(x)
    double = model.double()(x.double())
    torch.testing.assert_close(single.embedding.double(), double.embedding, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(single.attention.double(), double.attention, rtol=1e-5, atol=1e-8)


def toy_bags(seed: int, bags: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Bags of noise; in every second one, two instances are of the positive type (feature 0 is high)."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(10, 40, (bags,), generator=generator)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
    x = torch.randn(int(offsets[-1]), 16, generator=generator)
    label = torch.arange(bags) % 2
    key = torch.zeros(len(x), dtype=torch.bool)
    for b in label.nonzero().flatten().tolist():
        rows = offsets[b] + torch.randperm(int(sizes[b]), generator=generator)[:2]
        key[rows] = True
    x[key, 0] += 6
    return x, offsets, label.float(), key


@pytest.mark.parametrize("gated", [True, False])
def test_trained_on_bags_it_attends_to_the_instances_that_decide(gated: bool) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = create_aggregator("abmil", in_dim=16, embed_dim=16, attention_dim=8, gated=gated)
        head = torch.nn.Linear(model.out_dim, 1)
    x, offsets, label, _ = toy_bags(0, 40)
    optimiser = torch.optim.Adam([*model.parameters(), *head.parameters()], lr=0.05)
    for _ in range(40):
        optimiser.zero_grad()
        logits = head(model(x, offsets=offsets).embedding)[:, 0]
        torch.nn.functional.binary_cross_entropy_with_logits(logits, label).backward()
        optimiser.step()
    x, offsets, label, key = toy_bags(1, 40)  # bags that it has not seen
    with torch.no_grad():
        output = model.eval()(x, offsets=offsets)
        predicted = head(output.embedding)[:, 0] > 0
    assert (predicted == label.bool()).float().mean() > 0.85
    on_key = torch.stack([part.sum() for part in (output.attention * key).split(offsets.diff().tolist())])
    if_all_weighed_the_same = 2 / offsets.diff()
    assert if_all_weighed_the_same[label.bool()].mean() < 0.15
    assert on_key[label.bool()].mean() > 0.6  # over 12 seeds: 0.78 to 1.00
