"""Annotations become labels of tiles, or choose the tiles; both are recorded, and changes are seen."""

from __future__ import annotations

import json

import numpy as np
import pytest

import wsikit as wk
from wsikit.errors import ChangedError, ConfigError, UnknownNameError
from wsikit.slides.tiling import TilingSpec
from wsikit.store.merge import merge_stores
from wsikit.store.verify import verify_store

OPTIONS = {"spec": TilingSpec(tile_px=32, target_mpp=0.5), "tissue": "whole", "encoder": "colour", "workers": 1}


def draw(folder, slide_id, *boxes):
    """Boxes of (class, x0, y0, x1, y1) as a GeoJSON file of a slide."""
    folder.mkdir(exist_ok=True)
    features = [
        {"type": "Feature", "properties": {"classification": {"name": kind}},
         "geometry": {"type": "Polygon", "coordinates": [[[a, b], [c, b], [c, d], [a, d], [a, b]]]}}
        for kind, a, b, c, d in boxes
    ]  # fmt: skip
    (folder / f"{slide_id}.geojson").write_text(json.dumps(features))
    return folder


def test_labels_are_kept_replaced_verified_and_merged(cohort, tmp_path):
    slides = [cohort / "small.svs", cohort / "middle.svs"]
    out = tmp_path / "a.zarr"
    drawn = draw(tmp_path / "drawn", "small", ("Tumor", 0, 0, 256, 512), ("Necrosis", 16, 0, 48, 32))
    assert wk.extract_features(slides, out=out, annotations=drawn, **OPTIONS).ok
    store = wk.open_store(out)
    labels, coords = store.labels("small"), store.coords("small")
    assert list(labels) == ["Necrosis", "Tumor"]
    np.testing.assert_allclose(labels["Tumor"], coords[:, 0] < 256, atol=1e-6)
    assert labels["Necrosis"][:3].tolist() == [0.5, 0.5, 0]
    with pytest.raises(UnknownNameError, match=r"slide 'middle': no annotations; .*--annotations"):
        store.labels("middle")
    before = store.digest("small", "colour")
    draw(drawn, "small", ("Tumor", 0, 0, 32, 512))
    draw(drawn, "middle")  # annotated, and nothing found
    assert wk.extract_features(slides, out=out, annotations=drawn, **OPTIONS).ok
    assert store.labels("small")["Tumor"].sum() == 16
    assert store.labels("middle") == {}
    assert store.digest("small", "colour") == before  # the features are none other
    assert verify_store(store) == []
    merge_stores(tmp_path / "all.zarr", [out])
    merged = wk.open_store(tmp_path / "all.zarr")
    assert merged.labels("small")["Tumor"].tolist() == store.labels("small")["Tumor"].tolist()
    assert verify_store(merged) == []
    chunk = next((out / "slides" / "small" / "labels").glob("c.*"))
    chunk.write_bytes(chunk.read_bytes()[::-1])
    assert [f.kind for f in verify_store(store)] == ["damaged"]


def test_tiles_of_a_class_only(cohort, tmp_path):
    slides = [cohort / "small.svs", cohort / "middle.svs", cohort / "fine.svs"]
    drawn = draw(tmp_path / "drawn", "small", ("Tumor", 0, 0, 104, 64), ("Other", 0, 0, 512, 512))
    draw(drawn, "middle", ("Other", 0, 0, 64, 64))
    chosen = {**OPTIONS, "annotations": drawn, "annotation_classes": ["Tumor"], "out": tmp_path / "a.zarr"}
    report = wk.extract_features(slides, **chosen)
    found = {o.slide_id: o for o in report.outcomes}
    assert {name: o.state for name, o in found.items()} == {
        "small": "done", "middle": "no-tissue", "fine": "bad-config",
    }  # fmt: skip
    assert "inside annotations of ['Tumor'] (it has: ['Other'])" in found["middle"].reason
    assert "tiles are wanted on annotations only, and it has none" in found["fine"].reason
    store = wk.open_store(tmp_path / "a.zarr")
    coords = store.coords("small")
    assert sorted(set(coords[:, 0].tolist())) == [0, 32, 64, 96]  # of the last a quarter is inside
    assert sorted(set(coords[:, 1].tolist())) == [0, 32]
    assert store.configuration["annotation_classes"] == ["Tumor"]
    assert store.slide("small")["annotations"]["classes"] == ["Tumor"]
    assert set(store.labels("small")) == {"Tumor", "Other"}
    draw(drawn, "small", ("Tumor", 0, 0, 512, 512))
    (outcome,) = wk.extract_features(slides[:1], **chosen).outcomes
    assert outcome.state == "changed"
    assert "its tiles were chosen by other annotations" in outcome.reason
    with pytest.raises(ChangedError, match=r"annotation_classes: stored \['Tumor'\], asked for None"):
        wk.extract_features(slides[:1], out=tmp_path / "a.zarr", **OPTIONS)


def test_folders_that_fit_no_slide_are_refused(cohort, tmp_path):
    drawn = draw(tmp_path / "drawn", "else", ("Tumor", 0, 0, 9, 9))
    with pytest.raises(ConfigError, match=r"none of its 1 files .* is named like one of the 4 slides; .*fine\.geojson"):
        wk.extract_features(cohort, out=tmp_path / "a.zarr", annotations=drawn, **OPTIONS)
    draw(drawn, "small").joinpath("small.xml").touch()
    with pytest.raises(ConfigError, match="two files of annotations for 'small'"):
        wk.extract_features(cohort, out=tmp_path / "a.zarr", annotations=drawn, **OPTIONS)
    with pytest.raises(ConfigError, match="no such folder of annotations"):
        wk.extract_features(cohort, out=tmp_path / "a.zarr", annotations=tmp_path / "nowhere", **OPTIONS)
