"""The demo finds the lesions that it planted, and leaves pictures and a valid store."""

from __future__ import annotations

import cv2
import numpy as np

import wsikit as wk
from wsikit.evaluation.settings import load_experiment
from wsikit.store.verify import verify_store
from wsikit.testing.demo import run_demo


def test_the_demo_finds_what_was_planted(tmp_path):
    said = []
    report = run_demo(tmp_path, patients=12, size_px=1536, workers=2, say=said.append)
    assert report.run.ok
    assert [line[:3] for line in said] == ["1/5", "2/5", "3/5", "4/5", "5/5"]
    assert np.nanmean(report.aucs["texture"]) > 0.8
    assert np.nanmean(report.aucs["texture"]) > np.nanmean(report.aucs["colour"]) + 0.05
    assert 0.02 < report.lesion_share < 0.6
    store = wk.open_store(report.run.store)
    assert verify_store(store) == []
    assert {len(store.keys(name)) for name in store.slide_ids} == {2}
    picture = cv2.imread(str(report.picture))
    assert picture.shape[1] >= 1000
    assert picture.std() > 30  # not an empty sheet
    label, survival = report.studies
    assert label.result.model.metrics[0].name == "AUC"
    assert survival.result.model.metrics[0].name == "Harrell's C"
    for study in report.studies:
        assert study.report.stat().st_size > 100_000  # with its pictures inside
        assert len(list((study.report.parent / "heatmaps").glob("*.png"))) >= 3
        assert load_experiment(study.config).out == study.report.parent  # it can be run again as it is
        assert study.result.model.metrics[0].value is not None
    assert report.attention_auc > 0.5
    again = run_demo(tmp_path, patients=12, size_px=1536, workers=1)
    np.testing.assert_array_equal(again.aucs["texture"], report.aucs["texture"])
    np.testing.assert_array_equal(again.studies[0].result.model.prediction, label.result.model.prediction)
