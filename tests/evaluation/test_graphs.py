"""A model on a graph, from the YAML file to predictions of slides."""

from __future__ import annotations

import numpy as np
import pytest

from wsikit.cohort.graphs import GraphSettings
from wsikit.errors import ConfigError
from wsikit.evaluation.crossval import crossval
from wsikit.evaluation.predict import predict_slides
from wsikit.training.bundle import load_bundle

SHORT = {
    "training": {"epochs": 6, "learning_rate": 0.01, "tile_dropout": 0.2},
    "splits": {"folds": 2, "inner_folds": 1},
}


@pytest.mark.parametrize(
    ("kind", "model"),
    [
        ("class", {"aggregator": "patch-gcn", "options": {"hidden_dim": 16}}),
        ("survival", {"aggregator": "gtp", "options": {"embed_dim": 16, "nodes": 5, "heads": 2}, "graph": {"k": 4}}),
        ("continuous", {"aggregator": "gin", "options": {"layers": 2}, "graph": {"kind": "features", "k": 3}}),
    ],
)
def test_cross_validated_and_used_again_on_the_same_graph(planted, experiment, tmp_path, kind, model):
    result = crossval(experiment(planted, tmp_path / "run", kind, model=model, **SHORT), workers=1)
    score = result.model.metrics[0].value
    assert score > 0.7, (result.model.metrics[0].name, score)
    bundle = result.out / result.members[0].bundle
    graph = load_bundle(bundle).model.graph
    asked = model.get("graph", {"kind": "knn", "symmetric": False})
    assert graph == GraphSettings(**asked)
    assert (result.out / "graphs").is_dir() == (graph.kind == "features")
    report = predict_slides(planted / "features.zarr", bundle, out=tmp_path / "new", patients=planted / "cohort.csv")
    mine = result.members[0].fold
    for i in np.flatnonzero(result.fold == mine):
        assert np.array_equal(report.predictions[i].values, result.model.prediction[i])


def test_a_graph_that_changes_nothing_is_refused_before_anything_is_fitted(planted, experiment, tmp_path):
    wanted = experiment(planted, tmp_path / "run", model={"graph": {"kind": "knn"}})
    with pytest.raises(ConfigError, match="aggregator 'abmil' uses no edges"):
        crossval(wanted, workers=1)
    assert not (tmp_path / "run" / "models").exists()
