"""Which map is drawn: what it is a map of, whose mean it is, and of which models there is none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from wsikit.aggregators.registry import create_aggregator
from wsikit.aggregators.rollout import attention_rollout
from wsikit.cohort.bags import BagBatch, Bags
from wsikit.cohort.endpoints import ClassLabel
from wsikit.errors import ConfigError
from wsikit.evaluation.attribution import rollout_map
from wsikit.evaluation.crossval import crossval
from wsikit.evaluation.predict import predict_slides
from wsikit.evaluation.tile_maps import check_map_kind, mean_map
from wsikit.reports.crossval import write_report
from wsikit.tasks.classification import ClassificationTask
from wsikit.testing.random_bags import make_bags
from wsikit.training.bundle import Bundle, load_bundle
from wsikit.training.model import SlideModel

DIM = 6


def bundle_of(name: str, seed: int = 0, **scaling: np.ndarray) -> Bundle:
    model = SlideModel(create_aggregator(name, in_dim=DIM, classes=2, seed=seed), 2, **scaling)
    return Bundle(model, ClassificationTask(("0", "1")), ClassLabel("label", ("0", "1")), {})


def bag_for(bundle: Bundle, tiles: int = 9) -> BagBatch:
    made = make_bags(bundle.model.aggregator, (tiles,))
    edges = None if made.edges is None else made.edges.numpy()
    return BagBatch(made.x.numpy().astype(np.float16), made.offsets.numpy(), made.grid.numpy(), edges)


@pytest.mark.parametrize("name", ["set-transformer", "transmil", "gtp"])
@pytest.mark.parametrize("whitened", [False, True])
def test_rollout_is_that_of_the_scaled_features(name, whitened):
    rng = np.random.default_rng(0)
    mean, shape = rng.normal(size=DIM).astype(np.float32), (DIM, DIM) if whitened else (DIM,)
    scale = 5 * rng.normal(size=shape).astype(np.float32)
    bundle = bundle_of(name, mean=mean, scale=scale)
    bag = bag_for(bundle)
    x = bag.x.astype(np.float32) - mean
    x = torch.as_tensor(x @ scale if whitened else x * scale)
    edges = None if bag.edges is None else torch.as_tensor(bag.edges)
    row = attention_rollout(bundle.model.aggregator, x, grid=torch.as_tensor(bag.grid), edges=edges).numpy()
    np.testing.assert_allclose(rollout_map(bundle.model, bag), row / np.abs(row).sum(), atol=1e-6)
    assert np.ptp(row) > 0.01 * row.mean(), "even: the comparison could not fail"


def test_a_map_is_the_mean_over_the_models():
    bundles = [bundle_of("set-transformer", seed) for seed in range(3)]
    bag = bag_for(bundles[0])
    alone = [mean_map([bundle], bag, kind="rollout") for bundle in bundles]
    found = mean_map(bundles, bag, kind="rollout")
    assert found is not None
    np.testing.assert_allclose(found, np.mean(alone, axis=0))
    assert found.sum() == pytest.approx(1)
    attention = mean_map(bundles, bag, kind="attention")
    assert attention is not None
    assert np.abs(attention - found).max() > 1e-4, "they are two maps"
    assert mean_map([bundle_of("transmil")], bag, kind="attention") is None


def test_maps_that_there_are_not_are_refused():
    assert check_map_kind("rollout", "longnet") == "rollout"
    assert check_map_kind("attention", "mean") == "attention"
    with pytest.raises(ConfigError, match=r"map 'rolout'; expected 'attention' or 'rollout'"):
        check_map_kind("rolout", "transmil")
    words = (
        "map 'rollout': aggregator 'abmil' has no attention rollout; those that have: gtp, ilra, .*ask for 'attention'"
    )
    with pytest.raises(ConfigError, match=words):
        check_map_kind("rollout", "abmil")
    bundle = bundle_of("transmil")
    bag = bag_for(bundle)
    two = BagBatch(bag.x, np.array([0, 4, 9]), bag.grid)
    with pytest.raises(ConfigError, match="2 bags; expected one"):
        rollout_map(bundle.model, two)


def test_crossval_refuses_before_anything_is_fitted(planted, experiment, tmp_path):
    wanted = experiment(planted, tmp_path / "run", evaluation={"map": "rollout"})
    with pytest.raises(ConfigError, match="map 'rollout': aggregator 'abmil' has no attention rollout"):
        crossval(wanted, workers=1)
    with pytest.raises(ConfigError, match=r"evaluation.map is 'rolout'.*'attention' or 'rollout'"):
        experiment(planted, tmp_path / "run", evaluation={"map": "rolout"})


def test_transmil_has_heatmaps_in_the_report_and_of_new_slides(planted, experiment, tmp_path):
    """From the configuration to the page: without attention, a model is drawn by its rollout, and it is tested."""
    small = {"aggregator": "transmil", "options": {"embed_dim": 16, "heads": 2, "landmarks": 4, "dropout": 0.0}}
    few = {"map": "rollout", "heatmaps": 1, "bootstrap": 100, "faithfulness": 3}
    wanted = experiment(
        planted, tmp_path / "run", model=small, training={"epochs": 1}, splits={"folds": 2, "inner_folds": 1},
        evaluation=few,
    )  # fmt: skip
    result = crossval(wanted, workers=1)
    assert result.attention[0] is None
    page = write_report(result).read_text(encoding="utf-8")
    assert "right the attention rollout of the fold's models" in page
    assert page.count("Faithfulness of this map for the probability of") == 2
    written = sorted((result.out / "heatmaps").glob("*.geojson"))
    assert len(written) == 2
    assert '"attention rollout, times the average tile":' in written[0].read_text(encoding="utf-8")
    attention = wanted.evaluation.model_copy(update={"map": "attention"})
    plain = replace(result, experiment=wanted.model_copy(update={"evaluation": attention}))
    page = write_report(plain).read_text(encoding="utf-8")
    assert "there are no heatmaps (it has attention rollout: evaluation: {map: rollout})" in page
    assert not list((result.out / "heatmaps").glob("*"))

    table = (planted / "cohort.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "few.csv").write_text("".join(table[:3]), encoding="utf-8")
    models = [load_bundle(result.out / member.bundle) for member in result.members]
    report = predict_slides(
        planted / "features.zarr", result.out / "models", out=tmp_path / "out", tile_map="rollout",
        patients=tmp_path / "few.csv",
    )  # fmt: skip
    assert report.map_kind == "rollout"
    first = report.predictions[0]
    assert first.attention is None
    assert first.tile_map is not None
    assert len(first.tile_map) == first.tiles
    bag = Bags([first.slides], encoder="toy").batch([0])
    np.testing.assert_allclose(first.tile_map, np.mean([rollout_map(m.model, bag) for m in models], axis=0))
