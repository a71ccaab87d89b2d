"""The contract itself: models with planted faults, each caught by the clause meant for it."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from wsikit.aggregators.base import Aggregator, AggregatorCard, AggregatorOutput
from wsikit.layers.packed import bag_index, bag_sizes, pack, pad, segment_mean, segment_softmax, segment_weighted_sum
from wsikit.testing.aggregator_contract import CLAUSES, check_aggregator, check_whole_slide

D = 8
CARD = AggregatorCard(name="planted", summary="-", paper="-", repository="-", licence="-", attention=False)
ATTENTIVE = AggregatorCard(name="planted", summary="-", paper="-", repository="-", licence="-")
SEQUENCE = AggregatorCard(
    name="planted", summary="-", paper="-", repository="-", licence="-", attention=False, order="sequence"
)


class Sound(Aggregator):
    """Mean of a linear layer: nothing wrong with it."""

    card = CARD

    def __init__(self) -> None:
        super().__init__(D, D)
        self.project = nn.Linear(D, D)

    def pool(self, x, offsets, grid, edges):  # type: ignore[no-untyped-def]
        return AggregatorOutput(segment_mean(self.project(x), offsets))


class Attentive(Sound):
    card = ATTENTIVE

    def pool(self, x, offsets, grid, edges):  # type: ignore[no-untyped-def]
        h = self.project(x)
        attention = self.attend(h, offsets)
        return AggregatorOutput(segment_weighted_sum(h, attention, offsets), attention)

    def attend(self, h: Tensor, offsets: Tensor) -> Tensor:
        return segment_softmax(h[:, 0], offsets)


class SoftmaxOverPadding(Attentive):
    """Pads inside and forgets the mask: the longer the other bags, the less is left for a short one."""

    def attend(self, h: Tensor, offsets: Tensor) -> Tensor:
        padded, mask = pad(h[:, 0], offsets)
        return pack(padded.softmax(dim=1), mask)[0]


class ReadsPadding(Attentive):
    """Computes on padded batches of its own, with what stands at padding."""

    def forward(self, x, *, offsets=None, mask=None, grid=None, edges=None):  # type: ignore[no-untyped-def]
        if mask is None:
            return super().forward(x, offsets=offsets, grid=grid, edges=edges)
        h = self.project(x)
        # the padding is taken out of the softmax, but not out of the mean that is added
        attention = h[..., 0].masked_fill(~mask, -torch.inf).softmax(dim=1)
        return AggregatorOutput((attention[..., None] * h).sum(dim=1) + 1e-3 * h[~mask].sum(), attention)


class MixesBags(Sound):
    """Centres on the mean of all packed rows."""

    def pool(self, x, offsets, grid, edges):  # type: ignore[no-untyped-def]
        return super().pool(x - x.mean(dim=0) / 2, offsets, grid, edges)


class DropoutLeftOn(Sound):
    def pool(self, x, offsets, grid, edges):  # type: ignore[no-untyped-def]
        return super().pool(nn.functional.dropout(x, 0.5), offsets, grid, edges)


class MovesStatistics(Sound):
    """A running mean that is kept up in evaluation, too."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def pool(self, x, offsets, grid, edges):  # type: ignore[no-untyped-def]
        self.seen += 1
        return super().pool(x, offsets, grid, edges)


class ChangesItsInput(Sound):
    def pool(self, x, offsets, grid, edges):  # type: ignore[no-untyped-def]
        return super().pool(x.clamp_(min=0), offsets, grid, edges)


class UnusedParameter(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.forgotten = nn.Linear(D, D)


class DetachedParameter(Sound):
    """Its second layer is in the graph, and its gradient is always 0."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(()))

    def pool(self, x, offsets, grid, edges):  # type: ignore[no-untyped-def]
        return super().pool(x + 0 * self.shift, offsets, grid, edges)


class FirstInstanceCounts(Sound):
    def pool(self, x, offsets, grid, edges):  # type: ignore[no-untyped-def]
        return AggregatorOutput(self.project(x)[offsets[:-1]])


class ClaimsASequence(Sound):
    card = SEQUENCE


class BatchNorm(Sound):
    """Cannot train on one instance."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(D)

    def pool(self, x, offsets, grid, edges):  # type: ignore[no-untyped-def]
        return super().pool(self.norm(x), offsets, grid, edges)


class SpreadOfTheBag(Sound):
    """The standard deviation over n - 1: that of one instance is 0 / 0."""

    def pool(self, x, offsets, grid, edges):  # type: ignore[no-untyped-def]
        h = self.project(x)
        mean = segment_mean(h, offsets)
        square = segment_mean((h - mean[bag_index(offsets)]) ** 2, offsets)
        n = offsets.diff()[:, None]
        return AggregatorOutput(square * n / (n - 1))


class NegativeAttention(Attentive):
    def attend(self, h: Tensor, offsets: Tensor) -> Tensor:
        return super().attend(h, offsets) * 3 - torch.cat([torch.full((n,), 2 / n) for n in bag_sizes(offsets)])


class ScoresAsAttention(Attentive):
    def attend(self, h: Tensor, offsets: Tensor) -> Tensor:
        return h[:, 0].sigmoid()


class NoAttention(Sound):
    card = ATTENTIVE


class EveryPair(Sound):
    """An N x N matrix for each bag."""

    def pool(self, x, offsets, grid, edges):  # type: ignore[no-untyped-def]
        h = self.project(x)
        return AggregatorOutput(torch.stack([((part @ part.T) @ part).mean(0) for part in h.split(bag_sizes(offsets))]))


class OverflowsInHalf(Sound):
    """Its float16 bound of 65,504 is passed."""

    def pool(self, x, offsets, grid, edges):  # type: ignore[no-untyped-def]
        h = self.project(x)
        return AggregatorOutput(segment_mean((h * 1e5).half() if h.dtype == torch.bfloat16 else h, offsets))


class HiddenState(Sound):
    """Its answer depends on a number that is in no state dict."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = float(torch.rand(()))

    def pool(self, x, offsets, grid, edges):  # type: ignore[no-untyped-def]
        return super().pool(x * self.scale, offsets, grid, edges)


class SystemRandom(Sound):
    """Draws its weights elsewhere than from torch's generator."""

    def __init__(self) -> None:
        super().__init__()
        own = torch.Generator()
        own.seed()
        nn.init.normal_(self.project.weight, generator=own)


class OwnClassifier(Sound):
    """Sound: bag logits of its own."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.classify = nn.Linear(D, classes)

    def pool(self, x, offsets, grid, edges):  # type: ignore[no-untyped-def]
        embedding = super().pool(x, offsets, grid, edges).embedding
        return AggregatorOutput(embedding, bag_logits=self.classify(embedding))


class AlwaysTwoLogits(OwnClassifier):
    """Right for two classes, and silently wrong for a risk."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__(2)


class TaughtByLabelsAlone(Sound):
    """A part that only its own loss reaches, which a task without classes never asks for."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.classify = nn.Linear(D, classes)

    def training_loss(self, output, target):  # type: ignore[no-untyped-def]
        return self.classify(output.embedding).square().mean()


class OneEmbeddingTooMany(Sound):
    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.classes = classes + 1

    def pool(self, x, offsets, grid, edges):  # type: ignore[no-untyped-def]
        embedding = super().pool(x, offsets, grid, edges).embedding
        return AggregatorOutput(embedding[:, None].expand(-1, self.classes, -1))


class HiddenCarry(Sound):
    """Has the method, and nobody hears of it."""

    def carry(self, marks, x, offsets, grid, edges):  # type: ignore[no-untyped-def]
        return segment_mean(marks[:, None], offsets)[:, 0]


class Carrying(HiddenCarry):
    card = replace(CARD, rollout=True)


class CarriesSquares(Carrying):
    def carry(self, marks, x, offsets, grid, edges):  # type: ignore[no-untyped-def]
        return super().carry(marks + 0.1 * marks.square(), x, offsets, grid, edges)


class CarriesOtherBags(Carrying):
    """Every bag is handed the mean over all."""

    def carry(self, marks, x, offsets, grid, edges):  # type: ignore[no-untyped-def]
        return marks.mean().repeat(len(offsets) - 1)


class CarriesTheFirst(Carrying):
    def carry(self, marks, x, offsets, grid, edges):  # type: ignore[no-untyped-def]
        return marks[offsets[:-1]]


class CarriesNothing(Carrying):
    def carry(self, marks, x, offsets, grid, edges):  # type: ignore[no-untyped-def]
        return 0 * super().carry(marks, x, offsets, grid, edges)


class CarriesEveryPair(Carrying):
    """Its matrices are made: no harm to a small bag."""

    def carry(self, marks, x, offsets, grid, edges):  # type: ignore[no-untyped-def]
        index = bag_index(offsets)
        scores = (self.project(x) @ x.T)[None].expand(12, -1, -1) / D
        alike = scores.masked_fill(index[:, None] != index, -torch.inf).softmax(2).mean(0)
        return super().carry(alike @ marks, x, offsets, grid, edges)


FAULTS = [
    (NoAttention, "output_is_as_declared", "attention=True, the output has it: False"),
    (NegativeAttention, "attention_is_a_distribution", "goes down to -"),
    (ScoresAsAttention, "attention_is_a_distribution", "misses a sum of 1"),
    (SoftmaxOverPadding, "layouts_agree", "embedding of packed bags and of the bags one by one differ"),
    (MixesBags, "layouts_agree", "embedding of packed bags and of the bags one by one differ"),
    (ReadsPadding, "padding_does_not_matter", "garbage in the padding at the end differ"),
    (FirstInstanceCounts, "order_is_as_declared", "embedding of the same instances in another order differ"),
    (ClaimsASequence, "order_is_as_declared", "say 'invariant'"),
    (SpreadOfTheBag, "one_instance_is_enough", "embedding of one instance is not finite"),
    (UnusedParameter, "gradients_reach_every_parameter", "'forgotten.weight': it is not used"),
    (DetachedParameter, "gradients_reach_every_parameter", "'shift' is 0"),
    (SystemRandom, "same_seed_same_answer", "weights of the same seed differ in 'project.weight'"),
    (DropoutLeftOn, "evaluation_has_no_side_effects", "evaluation draws random numbers"),
    (MovesStatistics, "evaluation_has_no_side_effects", "before and after evaluation differ in 'seen'"),
    (ChangesItsInput, "evaluation_has_no_side_effects", "changed in place"),
    (HiddenState, "state_dict_round_trip", "embedding differs between the model and its loaded copy"),
    (OverflowsInHalf, "half_precision_is_finite", "embedding is not finite"),
    (AlwaysTwoLogits, "any_number_of_outputs", "2 bag logits for 1 outputs"),
    (OneEmbeddingTooMany, "any_number_of_outputs", "2 embeddings for 1 outputs"),
    (TaughtByLabelsAlone, "any_number_of_outputs", "with 1 outputs nothing teaches parameter 'classify.weight'"),
    (EveryPair, "memory_is_bounded", "grows faster than the bag"),
    (HiddenCarry, "rollout_is_as_declared", "its card does not say rollout=True"),
    (CarriesSquares, "rollout_is_as_declared", "carry of 2 a - b and 2 carry"),
    (CarriesOtherBags, "rollout_is_as_declared", "carry and what rollout says of it differ"),
    (CarriesTheFirst, "rollout_is_as_declared", "rollout in another order differ"),
    (CarriesNothing, "rollout_is_as_declared", "nothing of it arrives"),
    (CarriesEveryPair, "rollout_is_as_declared", "rollout of 5000 instances takes"),
]


@pytest.mark.parametrize(("model", "clause", "message"), FAULTS, ids=[model.__name__ for model, _, _ in FAULTS])
def test_fault_is_caught_by_the_clause_meant_for_it(model: Callable[[], Aggregator], clause: str, message: str) -> None:
    with pytest.raises(AssertionError, match=f"clause '{clause}': .*{message}"):
        CLAUSES[clause](model)


def test_every_clause_has_a_planted_fault() -> None:
    assert {clause for _, clause, _ in FAULTS} == set(CLAUSES)


def test_an_error_of_the_model_says_which_clause_was_being_checked() -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel") as caught:
        check_aggregator(BatchNorm)
    assert caught.value.__notes__ == ["while checking clause 'one_instance_is_enough' of the aggregator contract"]


def test_a_bag_that_takes_too_much_memory_is_told() -> None:
    with pytest.raises(AssertionError, match=r"3000 instances take \d+ MiB, more than 20"):
        check_whole_slide(EveryPair, instances=3_000, limit_mib=20)
    check_whole_slide(Sound, instances=3_000, limit_mib=20)


@pytest.mark.parametrize("model", [Sound, Attentive, OwnClassifier, Carrying])
def test_sound_models_pass_and_the_generator_is_left_alone(model: Callable[[], Aggregator]) -> None:
    before = torch.get_rng_state()
    check_aggregator(model)
    assert torch.equal(before, torch.get_rng_state())
