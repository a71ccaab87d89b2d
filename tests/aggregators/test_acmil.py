"""ACMIL against its equations; its masking against what it may take."""

from itertools import combinations, pairwise

import pytest
import torch

from wsikit.aggregators.registry import create_aggregator

OPTIONS = {"in_dim": 4, "embed_dim": 6, "attention_dim": 3}
OFFSETS = torch.tensor([0, 1, 6, 18, 40])
X = 2 * torch.randn(40, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_output_and_losses_are_those_of_the_equations() -> None:
    model = create_aggregator("acmil", seed=0, branches=3, classes=2, diversity_weight=0.5, **OPTIONS).double().eval()
    output = model(X, offsets=OFFSETS)
    state = model.state_dict()
    target = [1, 0, 1, 1]
    expected = 0.0
    for b, (start, end) in enumerate(pairwise(OFFSETS.tolist())):
        h = (X[start:end] @ state["project.0.weight"].T).clamp(min=0)
        v = torch.tanh(h @ state["scores.value.weight"].T + state["scores.value.bias"])
        u = torch.sigmoid(h @ state["scores.gate.weight"].T + state["scores.gate.bias"])
        maps, means = [], []
        for k in range(3):
            exponentials = torch.exp((v * u) @ state["scores.score.weight"][k])
            maps.append(exponentials / exponentials.sum())
            means.append(maps[k] @ h)
            logits = state[f"classify.{k}.weight"] @ means[k] + state[f"classify.{k}.bias"]
            expected += -logits.log_softmax(dim=0)[target[b]].item() / 3 / 4
        mean_map = sum(maps) / 3
        torch.testing.assert_close(output.attention[start:end], mean_map, atol=1e-12, rtol=0)
        torch.testing.assert_close(output.embedding[b], mean_map @ h, atol=1e-12, rtol=0)
        for i, j in combinations(range(3), 2):
            cosine = maps[i] @ maps[j] / (maps[i] @ maps[i]).sqrt() / (maps[j] @ maps[j]).sqrt()
            expected += 0.5 * cosine.item() / 3 / 4
    assert model.training_loss(output, torch.tensor(target)).item() == pytest.approx(expected, abs=1e-12)


def test_masking_takes_a_share_of_the_highest_of_each_branch() -> None:
    model = create_aggregator("acmil", seed=0, branches=3, top=10, drop=0.6, **OPTIONS).double()
    scores = torch.randn(40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    masks = []
    for seed in range(20):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            masks.append(model.draw_mask(scores, OFFSETS))
    for start, end in pairwise(OFFSETS.tolist()):
        top = min(10, end - start)
        for k in range(3):
            highest = set(scores[start:end, k].topk(top).indices.tolist())
            taken = [set(mask[start:end, k].nonzero().flatten().tolist()) for mask in masks]
            assert {len(rows) for rows in taken} == {int(0.6 * top)}  # of one instance none, so that one is left
            assert set().union(*taken) == (highest if top > 1 else set())


def test_what_is_masked_gets_no_attention_in_training_alone() -> None:
    model = create_aggregator("acmil", seed=0, branches=1, top=10, drop=0.6, **OPTIONS).double()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        attention = model(X[18:]).attention
    assert (attention == 0).sum() == 6
    assert attention.sum().item() == pytest.approx(1)
    assert (model.eval()(X[18:]).attention > 0).all()


def test_one_branch_is_attention_pooling_without_own_losses() -> None:
    model = create_aggregator("acmil", seed=0, branches=1, **OPTIONS).double().eval()
    output = model(X, offsets=OFFSETS)
    assert model.training_loss(output, torch.tensor([0, 1, 0, 1])).item() == 0
    abmil = create_aggregator("abmil", in_dim=4, embed_dim=6, attention_dim=3).double().eval()
    abmil.load_state_dict({**model.state_dict(), "project.0.bias": torch.zeros(6)})
    torch.testing.assert_close(output.embedding, abmil(X, offsets=OFFSETS).embedding)


def test_without_classes_only_diversity_is_left() -> None:
    model = create_aggregator("acmil", seed=0, classes=1, **OPTIONS).double().eval()
    output = model(X, offsets=OFFSETS)
    assert 0 < model.training_loss(output, torch.zeros(4, dtype=torch.int64)).item() <= 1
    assert not [name for name in model.state_dict() if name.startswith("classify")]


def test_the_diversity_loss_pulls_the_branches_apart() -> None:
    """Two branches that begin alike are told apart by that loss alone."""
    model = create_aggregator("acmil", seed=0, branches=2, drop=0.0, classes=1, **OPTIONS).double()
    with torch.no_grad():
        model.scores.score.weight[1] = model.scores.score.weight[0] + 0.01
    optimiser = torch.optim.Adam(model.parameters(), lr=0.05)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = model.training_loss(model(X[18:]), torch.tensor([0]))
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] > 0.99
    assert losses[-1] < 0.1
