"""A drawn map is tested on the models that made the prediction, and says what came of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from wsikit.aggregators.registry import create_aggregator
from wsikit.cohort.bags import Bags
from wsikit.errors import ConfigError
from wsikit.evaluation.result import CrossvalResult
from wsikit.reports.crossval import write_report
from wsikit.reports.evidence import evidence_of, explained, map_of
from wsikit.reports.heatmap import split_attention
from wsikit.reports.tile_gallery import GAP_PX, SIDE_PX, draw_top_tiles
from wsikit.tasks.task import create_task
from wsikit.training.bundle import Bundle, save_bundle
from wsikit.training.model import SlideModel


def with_models(result: CrossvalResult, orders: int = 19) -> tuple[CrossvalResult, Bags]:
    """The result with real models on disk: the highest value of feature 0 among the tiles decides everything."""
    members, cohort = [], result.cohort
    task = create_task(cohort.endpoint, cohort.target)
    for number, member in enumerate(result.members):
        model = SlideModel(create_aggregator("max", in_dim=3), task.outputs)
        with torch.no_grad():
            model.head.weight[-1, 0] = 5.0
            model.head.bias[-1] = 0.0 if task.outputs == 1 else -8.0
        path = Path("models") / f"{number}.safetensors"
        facts = {"aggregator": {"name": "max", "options": {}}, "in_dim": 3}
        save_bundle(Bundle(model, task, cohort.endpoint, facts), result.out / path)
        members.append(replace(member, bundle=path))
    settings = result.experiment.evaluation.model_copy(update={"faithfulness": orders})
    experiment = result.experiment.model_copy(update={"evaluation": settings})
    bags = Bags(cohort.slides, encoder=cohort.encoder)
    maps = [np.exp(5 * bags[i].x[:, 0].astype(np.float32)) for i in range(len(cohort))]
    attention = tuple(weights / weights.sum() for weights in maps)
    return replace(result, members=tuple(members), experiment=experiment, attention=attention), bags


def positive(result: CrossvalResult) -> CrossvalResult:
    """Everybody is called positive, or at high risk: what the highest tile brings about."""
    prediction = np.zeros_like(result.model.prediction)
    prediction[:, -1] = 1.0
    return replace(result, model=replace(result.model, prediction=prediction))


@pytest.mark.parametrize("kind", ["class", "survival", "continuous"])
def test_true_map_is_faithful_and_the_reversed_one_is_not(kind, make_result):
    result, bags = with_models(positive(make_result(kind)))
    patient = 3
    found = evidence_of(result, patient, bags, map_of(result, patient, bags))
    assert found is not None
    assert found.verdict == "faithful"
    assert "Taking its tiles away hurts the prediction more than each of 19 random orders does." in found.words
    assert found.curves.source.startswith("data:image/png;base64,")
    weights = result.attention[patient]
    assert weights is not None
    turned = weights.max() - weights
    wrong = replace(result, attention=tuple(turned / turned.sum() if i == patient else None for i in range(16)))
    against = evidence_of(wrong, patient, bags, map_of(wrong, patient, bags))
    assert against is not None
    assert against.verdict == "unfaithful"
    assert "the prediction comes from other tiles" in against.words
    assert evidence_of(wrong, patient + 1, bags, map_of(wrong, patient + 1, bags)) is None, (
        "no attention, nothing to test"
    )


def test_words_are_the_models_own_numbers(make_result):
    """With all tiles, without the top tenth, with it alone: worked out from the highest values of feature 0."""
    result, bags = with_models(positive(make_result("class")))
    patient = 3
    highest = np.sort(bags[patient].x[:, 0].astype(np.float64))[::-1]
    top = max(1, round(0.1 * len(highest)))

    def probability(value: float) -> str:
        return f"{1 / (1 + np.exp(8 - 5 * value)):.2f}"

    found = evidence_of(result, patient, bags, map_of(result, patient, bags))
    assert found is not None
    whole, rest = probability(highest[0]), probability(highest[top])
    said = f"With all {len(highest)} tiles the probability of <b>tumour is {whole}; without the top {top} {rest} ("
    assert said in found.words
    assert f"with the top {top} alone {probability(highest[0])} (" in found.words


def test_what_is_explained_is_what_was_called(make_result):
    result = make_result("class")
    prediction = np.tile([0.7, 0.3], (16, 1))
    result = replace(result, model=replace(result.model, prediction=prediction))
    assert explained(result, 0).name == "probability of benign"
    low = replace(result, threshold=np.full(16, 0.2))  # the fold's threshold calls 0.3 positive
    assert (explained(low, 0).name, explained(low, 0).column) == ("probability of <b>tumour", 1)
    survival = make_result("survival")
    risk = np.where(np.arange(16) == 5, -1.0, 1.0)[:, None]
    survival = replace(survival, model=replace(survival.model, prediction=risk))
    assert (explained(survival, 5).name, explained(survival, 5).sign) == ("minus log risk", -1.0)
    assert explained(survival, 6).sign == 1.0


def test_report_has_the_evidence(make_result):
    result, _ = with_models(positive(make_result("class")), orders=3)
    html = write_report(result).read_text(encoding="utf-8")
    assert html.count("Faithfulness of this map for the probability of &lt;b&gt;tumour: deletion AUC") == 4
    assert "<b>tumour" not in html
    (result.out / "models" / "0.safetensors").unlink()
    with pytest.raises(ConfigError, match="no model"):
        write_report(result)


def test_gallery_shows_the_top_tiles_of_the_slide(make_result):
    result = make_result("class")
    patient = next(i for i, mine in enumerate(result.cohort.slides) if mine[0].path is not None and len(mine) == 1)
    (part,) = split_attention(result.cohort.slides[patient], result.attention[patient], encoder=result.cohort.encoder)
    picture = draw_top_tiles(part, count=3)
    assert picture is not None
    assert picture.shape == (SIDE_PX, 3 * SIDE_PX + 2 * GAP_PX, 3)
    assert np.abs(picture[:, :SIDE_PX].astype(int) - [200, 130, 175]).max() < 6, "the colour of the slide"
    assert (picture[:, SIDE_PX : SIDE_PX + GAP_PX] == 255).all()
    assert draw_top_tiles(replace(part, attention=None)) is None
    assert draw_top_tiles(replace(part, slide=replace(part.slide, path=None))) is None
    assert draw_top_tiles(replace(part, slide=replace(part.slide, path=Path("gone.svs")))) is None
