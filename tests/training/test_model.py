"""The model scales, aggregates, predicts; and before it has learnt it says the same of everybody."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from wsikit.aggregators.base import Aggregator, AggregatorCard, AggregatorOutput
from wsikit.aggregators.registry import create_aggregator
from wsikit.errors import ConfigError
from wsikit.layers.packed import segment_mean
from wsikit.training.model import SlideModel
from wsikit.training.settings import ModelSettings, TrainingSettings

CARD = AggregatorCard("toy", "one embedding for each class", "none", "none", "none", attention=False)
X = torch.randn(9, 4, generator=torch.Generator().manual_seed(0)).half()
OFFSETS = torch.tensor([0, 2, 9])
GRID = torch.zeros(9, 2, dtype=torch.int32)


class PerClass(Aggregator):
    """Class c sees the mean times c + 1; ``logits`` gives them as the bag's."""

    card = CARD

    def __init__(self, in_dim: int, classes: int, *, logits: bool = False) -> None:
        super().__init__(in_dim, in_dim, classes=classes)
        self.logits = logits

    def pool(self, x, offsets, grid, edges):
        mean = segment_mean(x, offsets)
        embedding = torch.stack([mean * (c + 1) for c in range(self.classes)], 1)  # (B, C, E)
        return AggregatorOutput(embedding, bag_logits=embedding.sum(2) if self.logits else None)


def test_scale_is_applied_before_the_aggregator():
    mean, matrix = np.arange(4, dtype=np.float32), np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    for scale in (matrix, matrix[0]):
        model = SlideModel(create_aggregator("mean", in_dim=4), 3, mean, scale).eval()
        y = (X.double().numpy() - mean) @ scale if scale.ndim == 2 else (X.double().numpy() - mean) * scale
        found = model(X, OFFSETS, GRID).aggregated.embedding
        plain = create_aggregator("mean", in_dim=4)
        plain.load_state_dict(model.aggregator.state_dict())
        expected = plain.eval()(torch.as_tensor(y).float(), offsets=OFFSETS).embedding
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_before_training_all_patients_are_equal():
    model = SlideModel(create_aggregator("abmil", in_dim=4), 3)
    assert not model(X, OFFSETS, GRID).outputs.any()


def test_the_embedding_of_a_class_meets_that_row_of_the_head():
    model = SlideModel(PerClass(4, 3), 3)
    weight, bias = torch.randn(3, 4), torch.randn(3)
    model.head.load_state_dict({"weight": weight, "bias": bias})
    outputs = model(X, OFFSETS, GRID).outputs.detach()
    for b, part in enumerate((X[:2], X[2:])):
        for c in range(3):
            expected = float(part.float().mean(0) * (c + 1) @ weight[c] + bias[c])
            assert float(outputs[b, c]) == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_a_classifier_of_the_models_own_is_used():
    found = SlideModel(PerClass(4, 3, logits=True), 3)(X, OFFSETS, GRID)
    assert found.outputs is found.aggregated.bag_logits
    assert found.outputs.abs().max() > 0.01


def test_embeddings_for_other_classes_are_refused():
    with pytest.raises(ConfigError, match="'toy' has 3 embeddings, one for each class; the task has 1 outputs"):
        SlideModel(PerClass(4, 3), 1)


@pytest.mark.parametrize(
    "bad", [{"epoch": 3}, {"epochs": 0}, {"tile_dropout": 1.0}, {"scaling": "zca"}, {"keep": "first"}, {"seed": -1}]
)
def test_settings_are_strict(bad):
    with pytest.raises(ValidationError, match=next(iter(bad))):
        TrainingSettings(**bad)
    with pytest.raises(ValidationError, match="frozen"):
        ModelSettings().aggregator = "mean"
