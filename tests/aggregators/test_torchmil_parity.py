"""The same weights in torchmil 1.0.2 (Apache-2.0) give the same numbers where it is right; where not, ours differ.

Not compared: CLAM-MB, additive MIL, ACMIL and top-k, which it has not; DTFD's "max" and "maxmin", which there hand on
every instance of a pseudo-bag (k is the pseudo-bag's size) and stop without a mask.
"""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchmil import models
from torchmil.nn.utils import SmoothTop1SVM

from wsikit.aggregators.registry import create_aggregator
from wsikit.losses.smooth_svm import smooth_top1_svm

D, E, L = 6, 5, 3
OFFSETS = torch.tensor([0, 20, 37, 60])
X = torch.randn(60, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
MASK = torch.arange(23) < OFFSETS.diff()[:, None]
PADDED = torch.zeros(3, 23, D, dtype=torch.float64)
PADDED[MASK] = X


@pytest.fixture(autouse=True)
def _seeded():
    """Their weights are drawn from torch's generator, their pseudo-bags from NumPy's."""
    before = np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002
        yield
    np.random.set_state(before)  # noqa: NPY002


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


def features(bias: bool = True) -> nn.Sequential:
    return nn.Sequential(nn.Linear(D, E, bias=bias), nn.ReLU())


def copy_features(ours: nn.Module, theirs: nn.Module) -> None:
    ours.project[0].load_state_dict(theirs.feat_ext[0].state_dict())


def copy_attention(ours: nn.Module, theirs: nn.Module) -> None:
    """Where theirs has no gate and ours has, it gets one that is open."""
    ours.value.load_state_dict(theirs.fc1.module.state_dict())
    ours.score.load_state_dict(theirs.fc2.state_dict())
    if theirs.gated:
        ours.gate.load_state_dict(theirs.fc_gated.module.state_dict())
    elif ours.gate is not None:
        nn.init.zeros_(ours.gate.weight)
        nn.init.constant_(ours.gate.bias, 50.0)  # sigmoid(50) is 1 in float64


def affine(layer: nn.Module, x: Tensor) -> Tensor:
    """Their classifiers of one output."""
    return (x @ layer.module.weight.T + layer.module.bias).squeeze(-1)


@pytest.mark.parametrize("gated", [False, True])
def test_abmil(gated: bool) -> None:
    theirs = models.ABMIL(in_shape=(D,), att_dim=L, gated=gated, feat_ext=features()).double().eval()
    ours = create_aggregator("abmil", in_dim=D, embed_dim=E, attention_dim=L, gated=gated).double().eval()
    copy_features(ours, theirs)
    copy_attention(ours.scores, theirs.pool)
    predicted, scores = theirs(PADDED, mask=MASK, return_att=True)
    output = ours(PADDED, mask=MASK)
    close(affine(theirs.classifier, output.embedding), predicted)
    close(output.attention, scores.masked_fill(~MASK, -torch.inf).softmax(dim=1))


class CrossEntropy(nn.Module):
    """In the place of their loss of instances, which gets labels (rows, 1) of type float."""

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits, labels[:, 0].long())


def clam_pair() -> tuple[nn.Module, nn.Module]:
    theirs = models.CLAM_SB(in_shape=(D,), att_dim=L, gated=True, k_sample=4, feat_ext=features()).double()
    ours = create_aggregator(
        "clam-sb",
        in_dim=D,
        embed_dim=E,
        attention_dim=L,
        instances=4,
        instance_loss="ce",
        subtyping=True,
        dropout=0.0,
    ).double()
    copy_features(ours, theirs)
    copy_attention(ours.scores, theirs.pool)
    with torch.no_grad():
        for c, classifier in enumerate(theirs.inst_classifiers):
            ours.cluster.weight[2 * c : 2 * c + 2] = classifier.module.weight
            ours.cluster.bias[2 * c : 2 * c + 2] = classifier.module.bias
    theirs.inst_loss_fn = CrossEntropy()
    return theirs, ours


def test_clam() -> None:
    """Theirs is the sum over bags and over the two classes; ours the means, times 3 / 7."""
    theirs, ours = clam_pair()
    target = torch.tensor([1, 0, 1])
    output = ours(X, offsets=OFFSETS)
    close(affine(theirs.classifier, output.embedding), theirs(PADDED, mask=MASK))
    total = torch.zeros((), dtype=torch.float64)
    for label, (start, end) in zip(target, pairwise(OFFSETS.tolist()), strict=True):  # bag by bag, without padding
        _, scores, h = theirs(X[None, start:end], return_att=True, return_emb=True)
        total += theirs.compute_inst_loss(scores, h, label[None])
    # their logits go through float32 on the way
    torch.testing.assert_close(ours.training_loss(output, target) * 7 / 3 * 3 * 2, total, atol=1e-5, rtol=0)


def test_clam_of_a_padded_batch_clusters_the_padding_there_and_not_here() -> None:
    theirs, ours = clam_pair()
    target = torch.tensor([1, 0, 1])
    padding = PADDED.clone()
    padding[~MASK] = 5.0
    of_theirs = [theirs.compute_loss(target, x, MASK)[1]["InstLoss"].item() for x in (PADDED, padding)]
    of_ours = [ours.training_loss(ours(x, mask=MASK), target).item() for x in (PADDED, padding)]
    assert abs(of_theirs[0] - of_theirs[1]) > 0.01
    assert of_ours[0] == of_ours[1]


def test_the_smooth_svm_there_adds_up_over_rows_instead_of_classes() -> None:
    logits, target = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0])
    by_formula = (np.log1p(np.exp(1 - 2)) + np.log1p(np.exp(1 + 1))) / 2
    assert smooth_top1_svm(logits, target).item() == pytest.approx(by_formula)
    assert abs(SmoothTop1SVM(n_classes=2)(logits, target[:, None].float()).item() - by_formula) > 0.1


def dsmil_pair(nonlinear: bool) -> tuple[nn.Module, nn.Module]:
    theirs = models.DSMIL(in_shape=(D,), att_dim=L, nonlinear_q=nonlinear).double().eval()
    ours = create_aggregator("dsmil", in_dim=D, classes=1, query_dim=L, nonlinear=nonlinear).double().eval()
    ours.score.load_state_dict(theirs.inst_classifier.state_dict())
    ours.query.load_state_dict(theirs.q_nn.state_dict())
    ours.classify.load_state_dict(theirs.bag_classifier.state_dict())
    return theirs, ours


@pytest.mark.parametrize("nonlinear", [False, True])
def test_dsmil_of_single_bags(nonlinear: bool) -> None:
    theirs, ours = dsmil_pair(nonlinear)
    for start, end in pairwise(OFFSETS.tolist()):
        bag = X[start:end]
        second, attention, logits = theirs(bag[None], return_att=True, return_inst_pred=True)
        output = ours(bag)
        close(output.extras["of_bags"][:, 0], second)
        close(output.bag_logits[:, 0], theirs.predict(bag[None]))
        close(output.attention, attention[0])
        close(output.instance_logits[:, 0], logits[0])


def test_dsmil_of_a_padded_batch_takes_the_padding_for_critical_there_and_not_here() -> None:
    theirs, ours = dsmil_pair(nonlinear=True)
    with torch.no_grad():
        for layer in (theirs.inst_classifier, ours.score):
            layer.bias.fill_(10.0)
            layer.weight.copy_(torch.full((1, D), -5.0))
    x = PADDED.abs()  # every instance scores below 10, the padding 10
    alone = torch.cat([theirs.predict(x[b, mask][None]) for b, mask in enumerate(MASK)])
    assert (theirs.predict(x, mask=MASK) - alone)[:2].abs().min() > 1  # the third bag has no padding
    close(ours(x, mask=MASK).bag_logits[:, 0], alone)


def dtfd_pair(pseudo_bags: int) -> tuple[nn.Module, nn.Module]:
    """Theirs has one logit and attention without gates; ours two logits, of which the first is 0."""
    theirs = models.DTFDMIL(
        in_shape=(D,), att_dim=L, n_groups=pseudo_bags, distill_mode="afs", feat_ext=features(bias=False)
    ).double()
    ours = create_aggregator("dtfd", in_dim=D, embed_dim=E, attention_dim=L, pseudo_bags=pseudo_bags).double()
    copy_features(ours, theirs)
    copy_attention(ours.scores, theirs.attention_pool)
    copy_attention(ours.second_scores, theirs.u_attention_pool)
    with torch.no_grad():
        ours.classify.weight[0] = ours.classify.bias[0] = 0
        ours.classify.weight[1] = theirs.classifier.module.weight[0]
        ours.classify.bias[1] = theirs.classifier.module.bias[0]
    return theirs.eval(), ours.eval()


@pytest.mark.parametrize("pseudo_bags", [1, 4, 20])
def test_dtfd_tier_by_tier(pseudo_bags: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the split that theirs drew. One pseudo-bag is tier 1 alone, one for each instance is tier 2 alone."""
    theirs, ours = dtfd_pair(pseudo_bags)
    bag, order = X[:20], np.arange(20)
    state = np.random.get_state()  # noqa: NPY002
    np.random.shuffle(order)  # noqa: NPY002
    np.random.set_state(state)  # noqa: NPY002
    hands = np.array_split(order, pseudo_bags)
    split = (
        torch.as_tensor(order),
        torch.tensor([0, *[len(hand) for hand in hands]]).cumsum(0),
        torch.tensor([0, len(hands)]),
    )
    monkeypatch.setattr(ours, "split", lambda scores, offsets: split)
    predicted, of_pseudo_bags = theirs(bag[None], return_pseudo_pred=True)
    output = ours(bag)
    close(output.extras["pseudo_logits"][:, 1], of_pseudo_bags[0])
    close(affine(theirs.u_classifier, output.embedding), predicted)
    label = torch.ones(1)
    np.random.set_state(state)  # noqa: NPY002
    _, losses = theirs.compute_loss(label, bag[None])
    first = losses["BCEWithLogitsLoss_t2"].item()  # named so there, but it is tier 1's; their labels make it float32
    assert ours.training_loss(output, label.long()).item() == pytest.approx(first, abs=1e-6)


def test_dtfd_changes_from_call_to_call_in_evaluation_there_and_not_here() -> None:
    theirs, ours = dtfd_pair(4)
    with torch.no_grad():
        of_theirs = torch.stack([theirs(X[None, :20]) for _ in range(2)])
        of_ours = torch.stack([ours(X[:20]).embedding for _ in range(2)])
    assert (of_theirs[0] - of_theirs[1]).abs().max() > 1e-6
    assert torch.equal(of_ours[0], of_ours[1])
