"""Additive MIL against its equations; its contributions are what an instance adds."""

import pytest
import torch

from wsikit.aggregators.registry import create_aggregator

OPTIONS = {"in_dim": 4, "embed_dim": 6, "attention_dim": 3, "classes": 3}
X = 2 * torch.randn(18, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
OFFSETS = torch.tensor([0, 1, 6, 18])


def by_equations(model: torch.nn.Module, bag: torch.Tensor) -> torch.Tensor:
    """Contributions (N, C) of one bag."""
    state = model.state_dict()
    h = (bag @ state["project.0.weight"].T + state["project.0.bias"]).clamp(min=0)
    v = torch.tanh(h @ state["scores.value.weight"].T + state["scores.value.bias"])
    u = torch.sigmoid(h @ state["scores.gate.weight"].T + state["scores.gate.bias"])
    exponentials = torch.exp((v * u) @ state["scores.score.weight"][0])
    rows = []
    for a, instance in zip(exponentials / exponentials.sum(), h, strict=True):
        hidden = state["contribute.0.weight"] @ (a * instance) + state.get("contribute.0.bias", 0)
        row = state["contribute.2.weight"] @ hidden.clamp(min=0) + state.get("contribute.2.bias", 0)
        rows.append(row + a * state.get("bias", 0))
    return torch.stack(rows)


@pytest.mark.parametrize("instance_bias", [True, False])
def test_output_is_that_of_the_equations(instance_bias: bool) -> None:
    model = create_aggregator("additive", seed=0, instance_bias=instance_bias, **OPTIONS).double().eval()
    with torch.no_grad():
        if model.bias is not None:
            model.bias += torch.tensor([1.0, -2.0, 0.5])
    output = model(X, offsets=OFFSETS)
    for b, rows in enumerate([slice(0, 1), slice(1, 6), slice(6, 18)]):
        contributions = by_equations(model, X[rows])
        torch.testing.assert_close(output.instance_logits[rows], contributions, atol=1e-12, rtol=0)
        torch.testing.assert_close(output.bag_logits[b], contributions.sum(dim=0), atol=1e-12, rtol=0)


def test_logits_do_not_grow_with_the_number_of_tiles_unless_psi_has_biases() -> None:
    grown = {}
    for instance_bias in (False, True):
        model = create_aggregator("additive", seed=0, instance_bias=instance_bias, **OPTIONS).double().eval()
        once, often = model(X).bag_logits, model(X.repeat(1000, 1)).bag_logits  # the same slide, 1000 times as large
        grown[instance_bias] = float((often - once).detach().abs().max())
    assert grown[False] < 1e-9
    assert grown[True] > 100
