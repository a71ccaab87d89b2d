import math

import pytest
import torch

from wsikit.layers.gated_attention import AttentionScores


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("heads", [1, 2])
def test_scores_are_equations_8_and_9(gated: bool, heads: int) -> None:
    torch.manual_seed(0)
    block = AttentionScores(4, attention_dim=3, heads=heads, gated=gated).double()
    h = torch.randn(5, 4, dtype=torch.float64)
    state = {name: value.tolist() for name, value in block.state_dict().items()}
    for k, instance in enumerate(h.tolist()):
        for head in range(heads):
            score = 0.0
            for i in range(3):
                v = sum(a * b for a, b in zip(state["value.weight"][i], instance, strict=True))
                factor = math.tanh(v + state["value.bias"][i])
                if gated:
                    u = sum(a * b for a, b in zip(state["gate.weight"][i], instance, strict=True))
                    factor /= 1 + math.exp(-(u + state["gate.bias"][i]))
                score += state["score.weight"][head][i] * factor
            assert block(h)[k, head].item() == pytest.approx(score, abs=1e-12)


def test_dropout_acts_in_training_alone() -> None:
    torch.manual_seed(0)
    block = AttentionScores(4, attention_dim=64, dropout=0.5)
    h = torch.randn(5, 4)
    assert not torch.equal(block(h), block(h))
    block.eval()
    assert torch.equal(block(h), block(h))
