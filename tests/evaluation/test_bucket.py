"""Learning and predicting from a store in a bucket gives the numbers of one in a folder."""

from __future__ import annotations

import numpy as np
import pytest

from wsikit.evaluation.crossval import crossval
from wsikit.evaluation.predict import predict_slides
from wsikit.evaluation.settings import load_experiment
from wsikit.store.merge import merge_stores

CONFIG = """
cohort: {folder}/cohort.csv
stores: {store}
encoder: toy
endpoint: {{kind: class, column: label, classes: [0, 1]}}
model: {{options: {{embed_dim: 16}}}}
training: {{epochs: 2, device: cpu}}
splits: {{folds: 2, inner_folds: 2}}
evaluation: {{bootstrap: 100, permutations: 100}}
"""


@pytest.mark.slow
def test_crossval_and_predict(planted, bucket, tmp_path):
    url = f"{bucket}/cohort.zarr"
    merge_stores(url, [planted / "features.zarr"])
    results, predictions = [], []
    for name, store in (("disk", planted / "features.zarr"), ("bucket", url)):
        config = tmp_path / f"{name}.yaml"
        config.write_text(CONFIG.format(folder=planted, store=store))
        results.append(crossval(load_experiment(config, out=tmp_path / name), workers=1))
        predictions.append(predict_slides(store, results[-1].out / "models", out=tmp_path / f"{name}-predicted"))
    np.testing.assert_array_equal(results[0].model.prediction, results[1].model.prediction)
    assert results[0].manifest["store digest"] == results[1].manifest["store digest"]
    assert len(predictions[0].predictions) > 40
    for ours, theirs in zip(predictions[1].predictions, predictions[0].predictions, strict=True):
        assert ours.patient_id == theirs.patient_id
        np.testing.assert_array_equal(ours.values, theirs.values)
