"""DTFD against its equations, tier by tier, for the split that it made; and what the split may depend on."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from wsikit.aggregators.registry import create_aggregator
from wsikit.errors import ConfigError

OPTIONS = {"in_dim": 4, "embed_dim": 6, "attention_dim": 3}
OFFSETS = torch.tensor([0, 1, 6, 18, 40])
X = 2 * torch.randn(40, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def attention_scores(state: dict[str, Tensor], layer: str, h: Tensor) -> Tensor:
    v = torch.tanh(h @ state[f"{layer}.value.weight"].T + state[f"{layer}.value.bias"])
    u = torch.sigmoid(h @ state[f"{layer}.gate.weight"].T + state[f"{layer}.gate.bias"])
    return (v * u) @ state[f"{layer}.score.weight"][0]


def by_equations(
    state: dict[str, Tensor], bag: Tensor, hands: list[list[int]], distillation: str, count: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Embedding (E,), attention (N,), activations (N, C) and pseudo-bag logits (M, C) of one bag."""
    h = (bag @ state["project.0.weight"].T).clamp(min=0)
    scores = attention_scores(state, "scores", h)
    logits, seen, rows, within = [], [], [], []
    activations = torch.zeros(len(bag), len(state["classify.bias"]), dtype=bag.dtype)
    for hand in hands:
        a = scores[hand].softmax(dim=0)
        mean = sum(weight * h[i] for weight, i in zip(a, hand, strict=True))
        logits.append(state["classify.weight"] @ mean + state["classify.bias"])
        for weight, i in zip(a, hand, strict=True):
            activations[i] = len(hand) * weight * (state["classify.weight"] @ h[i])
        if distillation == "afs":
            seen.append(mean)
            rows.append(hand)
            within.append(a)
            continue
        wanted = 1 if len(logits[0]) == 2 else int(logits[-1].argmax())
        ranked = sorted(hand, key=lambda i: -activations[i].softmax(dim=0)[wanted].item())
        chosen = ranked[:count]
        if distillation == "maxmins":
            chosen += ranked[count:][-count:]
        seen += [h[i] for i in chosen]
        rows += [[i] for i in chosen]
        within += [torch.ones(1, dtype=bag.dtype)] * len(chosen)
    second = attention_scores(state, "second_scores", torch.stack(seen)).softmax(dim=0)
    attention = torch.zeros(len(bag), dtype=bag.dtype)
    for weight, hand, a in zip(second, rows, within, strict=True):
        attention[hand] += weight * a
    return second @ torch.stack(seen), attention, activations, torch.stack(logits)


def hands_in_evaluation(scores: Tensor, pseudo_bags: int) -> list[list[int]]:
    """Dealt out like cards, the highest first."""
    ranked = sorted(range(len(scores)), key=lambda i: -scores[i].item())
    return [ranked[first::pseudo_bags] for first in range(min(pseudo_bags, len(ranked)))]


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize(
    ("distillation", "count"), [("afs", 1), ("maxs", 1), ("maxs", 2), ("maxmins", 1), ("maxmins", 3)]
)
def test_output_is_that_of_the_equations(classes: int, distillation: str, count: int) -> None:
    model = (
        create_aggregator("dtfd", seed=0, classes=classes, distillation=distillation, instances=count, **OPTIONS)
        .double()
        .eval()
    )
    output = model(X, offsets=OFFSETS)
    state = model.state_dict()
    target = torch.tensor([0, 1, classes - 1, 1])
    expected_loss = 0.0
    for b, (start, end) in enumerate(pairwise(OFFSETS.tolist())):
        bag = X[start:end]
        hands = hands_in_evaluation(
            attention_scores(state, "scores", (bag @ state["project.0.weight"].T).clamp(min=0)), 4
        )
        embedding, attention, activations, logits = by_equations(state, bag, hands, distillation, count)
        torch.testing.assert_close(output.embedding[b], embedding, atol=1e-12, rtol=0)
        torch.testing.assert_close(output.attention[start:end], attention, atol=1e-12, rtol=0)
        torch.testing.assert_close(output.instance_logits[start:end], activations, atol=1e-12, rtol=0)
        expected_loss += -logits.log_softmax(dim=1)[:, target[b]].mean().item() / 4
    assert model.training_loss(output, target).item() == pytest.approx(expected_loss, abs=1e-12)


def test_instances_are_ranked_where_every_probability_is_one() -> None:
    model = create_aggregator("dtfd", seed=0, distillation="maxs", pseudo_bags=1, **OPTIONS)
    activations = torch.tensor([[0.0, 40.0], [0.0, 60.0], [0.0, 50.0]])
    assert activations.softmax(dim=1)[:, 1].tolist() == [1, 1, 1]
    one = torch.tensor([0, 3]), torch.tensor([0, 1])
    assert model.choose(activations, torch.zeros(1, 2), *one)[0].tolist() == [1]
    three = torch.tensor([[40.0, 0.0, 0.0], [60.0, 0.0, 0.0], [50.0, 0.0, 0.0]])
    assert model.choose(three, torch.tensor([[1.0, 0.0, 0.0]]), *one)[0].tolist() == [1]


def test_training_draws_pseudo_bags_of_equal_size_from_torchs_generator() -> None:
    model = create_aggregator("dtfd", seed=0, **OPTIONS)
    scores = torch.zeros(40)
    drawn = []
    for seed in (0, 0, 1):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            order, pseudo, groups = model.split(scores, OFFSETS)
        drawn.append(order.tolist())
        assert groups.tolist() == [0, 1, 5, 9, 13]  # a bag of one instance has one pseudo-bag
        assert pseudo.diff().tolist() == [1, 2, 1, 1, 1, 3, 3, 3, 3, 6, 6, 5, 5]
        for start, end in pairwise(OFFSETS.tolist()):
            assert sorted(order[start:end].tolist()) == list(range(start, end))
    assert drawn[0] == drawn[1] != drawn[2]


def test_evaluation_gives_each_pseudo_bag_its_share_of_the_high_scores() -> None:
    model = create_aggregator("dtfd", seed=0, pseudo_bags=3, **OPTIONS).eval()
    order, pseudo, groups = model.split(torch.tensor([0.1, 0.9, 0.5, 0.7, 0.3, 0.8, 7.0, 8.0]), torch.tensor([0, 6, 8]))
    assert order.tolist() == [1, 2, 5, 4, 3, 0, 7, 6]
    assert pseudo.tolist() == [0, 2, 4, 6, 7, 8]
    assert groups.tolist() == [0, 3, 5]


@pytest.mark.parametrize("distillation", ["afs", "maxs", "maxmins"])
def test_the_tiers_learn_apart_unless_asked(distillation: str) -> None:
    reached = {}
    for end_to_end in (False, True):
        model = create_aggregator("dtfd", seed=0, distillation=distillation, end_to_end=end_to_end, **OPTIONS).double()
        model(X, offsets=OFFSETS).embedding.square().sum().backward()
        reached[end_to_end] = {name for name, value in model.named_parameters() if value.grad is not None}
    second = {
        f"second_scores.{name}" for name in ("value.weight", "value.bias", "gate.weight", "gate.bias", "score.weight")
    }
    assert reached[False] == second
    assert {"project.0.weight"} | second <= reached[True]


def test_one_output_has_no_first_task_and_learns_end_to_end() -> None:
    model = create_aggregator("dtfd", seed=0, classes=1, **OPTIONS).double()
    output = model(X, offsets=OFFSETS)
    assert model.training_loss(output, torch.zeros(4, dtype=torch.int64)).item() == 0
    output.embedding.square().sum().backward()
    assert all(parameter.grad.any() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distillation": "max"}, r"'dtfd': distillation='max'; did you mean 'maxs'"),
        (
            {"distillation": "maxs", "classes": 1},
            "'maxs' ranks instances by a class, but there is one output; expected 'afs'",
        ),
        ({"pseudo_bags": 0}, "'dtfd': pseudo_bags=0; expected at least 1"),
    ],
)
def test_an_option_out_of_range_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create_aggregator("dtfd", in_dim=4, **options)
