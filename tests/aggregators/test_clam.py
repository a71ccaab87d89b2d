"""CLAM's loss of instances against its definition, bag by bag; its pooling is that of ABMIL."""

import math

import pytest
import torch

from wsikit.aggregators.registry import create_aggregator
from wsikit.errors import ConfigError

OPTIONS = {"in_dim": 4, "embed_dim": 6, "attention_dim": 3, "dropout": 0.0}
OFFSETS = [0, 1, 6, 18, 40]
X = 2 * torch.randn(40, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def by_definition(model, output, target: list[int], b: int, loss: str, subtyping: bool, size: int) -> float:  # type: ignore[no-untyped-def]
    """Loss of the instances of one bag, from the attention that was given out."""
    start, end = OFFSETS[b : b + 2]
    classes = output.instance_logits.shape[1]
    attention = output.attention[start:end].reshape(end - start, -1).expand(-1, classes)
    h = (X[start:end] @ model.project[0].weight.T + model.project[0].bias).clamp(min=0)
    evidence = h @ model.cluster.weight.T + model.cluster.bias  # (N, 2 C): for class c columns 2 c and 2 c + 1
    terms = []
    for c in range(classes):
        ranked = sorted(range(end - start), key=lambda i: -attention[i, c].item())
        if c == target[b]:
            ends = min(size, len(ranked) // 2)
            labelled = [(i, 1) for i in ranked[:ends]] + [(i, 0) for i in ranked[len(ranked) - ends :]]
        else:
            labelled = [(i, 0) for i in ranked[:size]] if subtyping else []
        losses = []
        for i, label in labelled:
            right, wrong = evidence[i, 2 * c + label].item(), evidence[i, 2 * c + 1 - label].item()
            losses.append(math.log(1 + math.exp(wrong - right + (1 if loss == "svm" else 0))))
        terms.append(sum(losses) / len(losses) if losses else 0.0)
    return sum(terms) / classes if subtyping else sum(terms)


@pytest.mark.parametrize("name", ["clam-sb", "clam-mb"])
@pytest.mark.parametrize("loss", ["svm", "ce"])
@pytest.mark.parametrize("subtyping", [False, True])
def test_loss_of_instances_is_that_of_the_definition(name: str, loss: str, subtyping: bool) -> None:
    model = create_aggregator(
        name, seed=0, classes=3, instances=4, instance_loss=loss, subtyping=subtyping, **OPTIONS
    ).double()
    target = [1, 0, 2, 1]
    output = model(X, offsets=torch.tensor(OFFSETS))
    expected = [by_definition(model, output, target, b, loss, subtyping, 4) for b in range(4)]
    found = model.training_loss(output, torch.tensor(target))
    assert found.item() == pytest.approx(3 / 7 * sum(expected) / 4, abs=1e-12)
    assert found.item() > 0.1


def test_pooling_is_attention_pooling() -> None:
    single, multi = (create_aggregator(name, seed=0, **OPTIONS).double().eval() for name in ("clam-sb", "clam-mb"))
    abmil = create_aggregator("abmil", in_dim=4, embed_dim=6, attention_dim=3).double().eval()
    abmil.load_state_dict({k: v for k, v in single.state_dict().items() if not k.startswith("cluster")})
    offsets = torch.tensor(OFFSETS)
    torch.testing.assert_close(single(X, offsets=offsets).embedding, abmil(X, offsets=offsets).embedding)
    double = create_aggregator("abmil", in_dim=4, embed_dim=6, attention_dim=3, heads=2).double().eval()
    double.load_state_dict({k: v for k, v in multi.state_dict().items() if not k.startswith("cluster")})
    expected = double(X, offsets=offsets)
    found = multi(X, offsets=offsets)
    torch.testing.assert_close(found.embedding.flatten(1), expected.embedding)
    torch.testing.assert_close(found.attention, expected.attention)


def test_padding_is_never_clustered() -> None:
    """torchmil 1.0.2 ranks the padding of a padded batch with the instances of a bag."""
    model = create_aggregator("clam-sb", seed=0, classes=2, **OPTIONS).double()
    target, offsets = torch.tensor([1, 0, 1, 0]), torch.tensor(OFFSETS)
    packed = model.training_loss(model(X, offsets=offsets), target)
    mask = torch.arange(30) < offsets.diff()[:, None]
    padded = torch.full((4, 30, 4), 1e3, dtype=torch.float64)
    padded[mask] = X
    assert model.training_loss(model(padded, mask=mask), target).item() == pytest.approx(packed.item(), abs=1e-12)


def test_no_instance_of_a_small_bag_is_called_both() -> None:
    model = create_aggregator("clam-sb", seed=0, classes=2, instances=8, **OPTIONS).double()
    target = torch.tensor([0])
    assert model.training_loss(model(X[:1]), target).item() == 0  # the only one is at both ends
    output = model(X[:3])
    (gradient,) = torch.autograd.grad(model.training_loss(output, target), output.extras["evidence"])
    attention = output.attention.tolist()
    middle = attention.index(sorted(attention)[1])
    assert [i for i in range(3) if not gradient[i].any()] == [middle]


def test_one_output_has_no_instance_classifier() -> None:
    for name in ("clam-sb", "clam-mb"):
        model = create_aggregator(name, classes=1, seed=0, **OPTIONS)
        output = model(X.float())
        assert output.instance_logits is None
        assert model.training_loss(output, torch.tensor([0])).item() == 0
        assert not [key for key in model.state_dict() if key.startswith("cluster")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"instance_loss": "svn"}, r"'clam-mb': instance_loss='svn'; did you mean 'svm'\? \(known: ce, svm\)"),
        ({"instances": 0}, "'clam-mb': instances=0; expected at least 1"),
        ({"bag_weight": 0.0}, "'clam-mb': bag_weight=0.0; expected above 0 and at most 1"),
        ({"dropout": 1.0}, "'clam-mb': dropout=1.0; expected at least 0 and below 1"),
    ],
)
def test_an_option_out_of_range_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create_aggregator("clam-mb", in_dim=4, **options)
