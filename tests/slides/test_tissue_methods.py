"""Tissue methods against planted truth, against each other, and what is refused."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

import wsikit as wk
from wsikit.errors import ConfigError, NotBrightfieldError
from wsikit.slides.tissue_mask import SEGMENTERS, recorded_parameters, segment_tissue
from wsikit.testing.planted import plant_slide
from wsikit.testing.svs import write_svs

METHODS = [name for name in SEGMENTERS.names() if name not in ("whole", "network")]


def test_two_classical_methods_are_there():
    assert {"saturation", "entropy"} <= set(METHODS)


@pytest.fixture(scope="module", params=range(4))
def planted(request, tmp_path_factory):
    """A slide of each site, and where its tissue is (8 um per cell)."""
    path = tmp_path_factory.mktemp("planted") / "a.svs"
    truth = plant_slide(path, seed=20 + request.param, site=request.param, size_px=1536, artefacts=())
    return path, truth


@pytest.mark.parametrize("method", METHODS)
def test_no_planted_tissue_is_missed(planted, method):
    path, truth = planted
    with wk.open_slide(path) as slide:
        found = segment_tissue(slide, method=method)
    tissue = truth.mask("tissue")
    assert found.mask.shape == tissue.shape
    assert found.mask[tissue].mean() > 0.98
    # A margin of some 40 um is left around tissue: on a slide of 0.8 mm that is a third of its area.
    near = cv2.dilate(tissue.astype(np.uint8), np.ones((25, 25))).astype(bool)
    assert found.mask[~near].mean() < 0.02


def test_the_learned_method_agrees_with_the_classical_one(slides_dir, test_data):
    pytest.importorskip("onnxruntime")
    weights = test_data / "weights" / "model_v1.onnx"
    with wk.open_slide(slides_dir / "CMU-1-Small-Region.svs") as slide:
        learned = segment_tissue(slide, method="network", weights=str(weights), recipe="shell")
        classical = segment_tissue(slide, method="saturation", mpp=10.0)
    size = classical.mask.shape[::-1]
    one = cv2.resize(learned.mask.astype(np.float32), size, interpolation=cv2.INTER_LINEAR) >= 0.5
    assert (one & classical.mask).sum() / (one | classical.mask).sum() > 0.6
    recorded = recorded_parameters("network", {"weights": str(weights), "recipe": "shell"})
    assert str(weights) not in json.dumps(recorded)  # stores hold no paths
    assert any("sha256" in name for name in recorded)


def test_a_network_needs_its_file_and_its_resolution(tmp_path):
    with pytest.raises(ConfigError, match="needs the option 'weights'"):
        recorded_parameters("network", {})
    with pytest.raises(ConfigError, match=r"none\.onnx: no such file"):
        recorded_parameters("network", {"weights": str(tmp_path / "none.onnx"), "recipe": "shell"})


def test_fluorescence_is_not_tissue(tmp_path):
    rng = np.random.default_rng(0)
    dark = rng.integers(0, 12, (800, 800, 3), dtype=np.uint8)
    for x, y in rng.integers(20, 780, (60, 2)).tolist():
        cv2.circle(dark, (x, y), 8, (20, 40, 220), cv2.FILLED)
    write_svs(tmp_path / "a.svs", dark)
    with (
        wk.open_slide(tmp_path / "a.svs") as slide,
        pytest.raises(NotBrightfieldError, match="not a bright-field scan"),
    ):
        segment_tissue(slide)
