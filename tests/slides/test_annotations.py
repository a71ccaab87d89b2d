"""Annotations of QuPath and ASAP say the same of the same drawing; their shares of tiles are areas."""

from __future__ import annotations

import json

import numpy as np
import pytest

from wsikit.errors import ConfigError
from wsikit.slides.annotations import class_shares, covered, read_annotations, within_classes
from wsikit.slides.geojson import outlines
from wsikit.slides.open import open_slide
from wsikit.slides.tiling import TilingSpec, tile_slide
from wsikit.slides.tissue_mask import segment_tissue
from wsikit.testing import plant_slide
from wsikit.testing.svs import write_svs

OUTER = [[100, 100], [500, 100], [500, 400], [100, 400]]
HOLE = [[200, 200], [300, 200], [300, 300], [200, 300]]
LEFT = [[0, 0], [64, 0], [64, 64], [0, 64]]


def closed(ring):
    return [*ring, ring[0]]


def feature(kind, geometry, **rings):
    classification = {} if kind is None else {"classification": kind}
    return {"type": "Feature", "geometry": {"type": geometry, **rings}, "properties": classification}


@pytest.fixture
def qupath(tmp_path):
    path = tmp_path / "a.geojson"
    features = [
        feature({"name": "Tumor"}, "Polygon", coordinates=[closed(OUTER), closed(HOLE)]),
        feature(
            {"name": "Tumor"}, "MultiPolygon", coordinates=[[closed(LEFT)], [closed([[x + 600, y] for x, y in LEFT])]]
        ),
        feature({"names": ["Stroma", "Immune"]}, "Polygon", coordinates=[closed(LEFT)]),
        feature(None, "Polygon", coordinates=[closed(HOLE)]),
        feature({"name": "Vessel"}, "LineString", coordinates=[[0, 0], [5, 5]]),
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def asap(path, annotations):
    items = ""
    for i, (group, kind, ring) in enumerate(annotations):
        corners = "".join(f'<Coordinate Order="{n}" X="{x}" Y="{y}" />' for n, (x, y) in reversed([*enumerate(ring)]))
        items += f'<Annotation Name="Annotation {i}" Type="{kind}" PartOfGroup="{group}" Color="#F4FA58"><Coordinates>'
        items += f"{corners}</Coordinates></Annotation>"
    groups = '<AnnotationGroups><Group Name="Tumor" PartOfGroup="None" /></AnnotationGroups>'
    path.write_text(
        f'<?xml version="1.0"?><ASAP_Annotations><Annotations>{items}</Annotations>{groups}</ASAP_Annotations>'
    )
    return path


@pytest.fixture
def slide(tmp_path):
    path = tmp_path / "slide.svs"
    write_svs(path, np.full((512, 1024, 3), 150, np.uint8))
    with open_slide(path) as opened:
        yield opened


def test_qupath_classes_holes_and_parts(qupath, slide):
    found = read_annotations(qupath)
    assert found.classes == ["", "Stroma: Immune", "Tumor"]
    assert [(kind, len(rings)) for kind, rings in found.polygons] == [
        ("Tumor", 2), ("Tumor", 1), ("Tumor", 1), ("Stroma: Immune", 1), ("", 1),
    ]  # fmt: skip
    mask = covered(found, ["Tumor"], (1024, 512), (1.0, 1.0))
    assert mask.sum() == 400 * 300 - 100 * 100 + 2 * 64 * 64
    shares = class_shares(found, slide, np.array([[0, 0], [200, 200], [64, 64], [600, 0]], np.int32), (64.0, 64.0))
    np.testing.assert_allclose(shares["Tumor"], [1, 0, 28 * 28 / 64**2, 1], atol=0.05)
    np.testing.assert_allclose(shares["Stroma: Immune"], [1, 0, 0, 0], atol=0.05)
    np.testing.assert_allclose(shares[""], [0, 1, 0, 0], atol=0.05)


def test_asap_says_what_qupath_says(tmp_path):
    drawn = [
        ("Tumor", "Polygon", OUTER),
        ("Tumor", "Rectangle", LEFT),
        ("None", "Polygon", HOLE),
        ("Tumor", "Dot", [[1, 1]]),
    ]
    found = read_annotations(asap(tmp_path / "a.xml", drawn))
    assert found.classes == ["Annotation 2", "Tumor"]  # one in no group goes by its name
    mask = covered(found, ["Tumor"], (1024, 512), (1.0, 1.0))
    assert mask.sum() == 400 * 300 + 64 * 64
    np.testing.assert_array_equal(found.polygons[0][1][0], OUTER)  # in the order of the corners, not of the file


def test_a_spline_is_taken_as_a_polygon_and_said(tmp_path, caplog):
    found = read_annotations(asap(tmp_path / "a.xml", [("Tumor", "Spline", LEFT)]))
    assert covered(found, ["Tumor"], (64, 64), (1.0, 1.0)).all()
    assert "'Annotation 0': a spline is taken as the polygon of its points" in caplog.text


def test_shares_are_the_planted_lesions(tmp_path):
    truth = plant_slide(tmp_path / "p.svs", seed=3, size_px=1024, lesion_fraction=0.4, artefacts=())
    regions = outlines(truth.mask("lesion"), (16.0, 16.0))
    drawn = [feature({"name": "lesion"}, "Polygon", coordinates=[r.tolist() for r in rings]) for rings in regions]
    (tmp_path / "p.geojson").write_text(json.dumps(drawn))
    with open_slide(tmp_path / "p.svs") as slide:
        tissue = segment_tissue(slide)
        tiles = tile_slide(slide, tissue, TilingSpec(128, 0.5))
        shares = class_shares(read_annotations(tmp_path / "p.geojson"), slide, tiles.coords, tiles.tile_level0_px)
        inside = within_classes(tissue, read_annotations(tmp_path / "p.geojson"), ["lesion"])
        kept = tile_slide(slide, inside, TilingSpec(128, 0.5))
    expected = truth.tile_truth(tiles.coords, 128)
    assert expected.max() > 0.9
    assert np.abs(shares["lesion"] - expected).max() < 0.05
    assert 0 < len(kept) < len(tiles)
    assert truth.tile_truth(kept.coords, 128).min() > 0.2


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.geojson", "{", "JSONDecodeError"),
        ("a.geojson", '{"type": "Polygon", "coordinates": [[[0, 0], [1, NaN], [1, 1]]]}', "not two finite numbers"),
        ("a.geojson", '{"type": "Polygon", "coordinates": [[[0, 0], [1, "x"], [1, 1]]]}', "ValueError"),
        ("a.xml", "<ASAP_Annotations>", "ParseError"),
        ("a.xml", "<Annotations></Annotations>", "root element 'Annotations', expected 'ASAP_Annotations'"),
        ("a.xml", "<ASAP_Annotations><Annotation Type='Polygon'><Coordinate Order='0' X='?' Y='1'/></Annotation>"
                  "</ASAP_Annotations>", "could not convert"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_annotations(tmp_path / name)
    with pytest.raises(ConfigError, match=r"none\.xml: cannot be read.*FileNotFoundError"):
        read_annotations(tmp_path / "none.xml")
