"""Masks survive GeoJSON unchanged, QuPath's dialects are read, and what is wrong is named."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import wsikit as wk
from wsikit.errors import ConfigError
from wsikit.geometry import Mpp
from wsikit.slides.geojson import fill, outlines, read_geojson, write_geojson
from wsikit.slides.tissue_mask import TissueMask


class Still:
    """A slide of which only the geometry matters: its mask at 8 um has 50 x 40 px."""

    path, size, mpp = "still.svs", (800, 640), Mpp(0.5, 0.5)


def tissue(mask):
    return TissueMask(mask, (16.0, 16.0), 8.0, "test")


def area(ring):
    x, y = np.asarray(ring).T
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum()) / 2


@given(st.integers(0, 2**32 - 1), st.floats(0.05, 0.95))
def test_any_mask_comes_back_unchanged(tmp_path_factory, seed, density):
    mask = np.random.default_rng(seed).random((40, 50)) < density
    mask[3, 4] = True
    path = write_geojson(tissue(mask), tmp_path_factory.mktemp("g") / "a.geojson")
    np.testing.assert_array_equal(read_geojson(path, Still()).mask, mask)


def test_outlines_run_along_pixel_edges_and_keep_the_area():
    mask = np.zeros((6, 8), bool)
    mask[1:5, 2:7] = True
    mask[2:4, 3:5] = False
    (rings,) = outlines(mask)
    assert sorted(map(tuple, np.unique(rings[0], axis=0).tolist())) == [(2, 1), (2, 5), (7, 1), (7, 5)]
    assert area(rings[0]) == 20
    assert area(rings[1]) == -4
    assert all((r[0] == r[-1]).all() for r in rings)


def test_regions_that_touch_at_a_corner_stay_apart():
    mask = np.zeros((4, 4), bool)
    mask[0:2, 0:2] = mask[2:4, 2:4] = True
    assert [area(r[0]) for r in outlines(mask)] == [4, 4]


def test_the_file_is_what_qupath_expects(tmp_path):
    mask = np.zeros((40, 50), bool)
    mask[10:20, 10:30] = True
    data = json.loads(write_geojson(tissue(mask), tmp_path / "a.geojson").read_text())
    assert data["type"] == "FeatureCollection"
    (feature,) = data["features"]
    assert feature["properties"]["objectType"] == "annotation"
    assert feature["properties"]["classification"]["name"] == "Tissue"
    ring = feature["geometry"]["coordinates"][0]
    assert ring[0] == ring[-1]
    assert sorted({tuple(p) for p in ring}) == [(160, 160), (160, 320), (480, 160), (480, 320)]  # level-0 px


BOX = [[160, 160], [480, 160], [480, 320], [160, 320], [160, 160]]
HOLE = [[240, 200], [320, 200], [320, 280], [240, 280], [240, 200]]


def feature(geometry, name=None):
    properties = {"objectType": "annotation"} | ({"classification": {"name": name}} if name else {})
    return {"type": "Feature", "id": "x", "geometry": geometry, "properties": properties}


@pytest.mark.parametrize(
    "data",
    [
        feature({"type": "Polygon", "coordinates": [BOX]}),
        [feature({"type": "Polygon", "coordinates": [BOX]})],
        {"type": "Polygon", "coordinates": [BOX]},
        {"type": "MultiPolygon", "coordinates": [[BOX]]},
        {"type": "FeatureCollection", "features": [
            feature({"type": "GeometryCollection", "geometries": [{"type": "Polygon", "coordinates": [BOX]}]}),
            feature({"type": "Point", "coordinates": [1, 1]}),
            feature({"type": "LineString", "coordinates": BOX}),
        ]},
    ],
)  # fmt: skip
def test_every_form_of_geojson_is_read(tmp_path, data):
    (tmp_path / "a.geojson").write_text(json.dumps(data))
    mask = read_geojson(tmp_path / "a.geojson", Still()).mask
    assert mask.sum() == 20 * 10
    assert mask[10:20, 10:30].all()


def test_holes_and_classes(tmp_path):
    data = [
        feature({"type": "Polygon", "coordinates": [BOX, HOLE]}, "Tumor"),
        feature({"type": "Polygon", "coordinates": [[[0, 0], [80, 0], [80, 80], [0, 80], [0, 0]]]}, "Fat"),
    ]
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps(data))
    assert read_geojson(path, Still()).mask.sum() == 200 - 25 + 25
    tumour = read_geojson(path, Still(), classes=["Tumor"])
    assert tumour.mask.sum() == 200 - 25
    assert tumour.method == "geojson"
    assert len(tumour.parameters["sha256"]) == 64
    with pytest.raises(
        ConfigError, match=r"no annotation of class 'Tumour'; did you mean 'Tumor'.*found: \['Fat', 'Tumor'\]"
    ):
        read_geojson(path, Still(), classes=["Tumour"])


@given(st.integers(0, 2**32 - 1))
def test_a_pixel_is_tissue_if_its_centre_is_inside(seed):
    from matplotlib.path import Path as Outline

    rng = np.random.default_rng(seed)
    corners = rng.uniform(-5, 35, (5, 2))
    mask = np.zeros((25, 30), bool)
    fill(mask, [corners])
    centre = np.stack(np.meshgrid(np.arange(30) + 0.5, np.arange(25) + 0.5), -1).reshape(-1, 2)
    # Even-odd by matplotlib, triangle fan by triangle fan: the parity of the triangles that hold a point.
    parity = sum(
        Outline(corners[[0, i, i + 1]]).contains_points(centre).astype(int) for i in range(1, len(corners) - 1)
    )
    np.testing.assert_array_equal(mask.ravel(), parity % 2 == 1)


numbers = st.one_of(st.integers(-6, 40), st.integers(-12, 80).map(lambda n: n / 2), st.floats(-1e6, 1e6))
rings = st.lists(st.lists(st.tuples(numbers, numbers), max_size=7), max_size=3)


@given(rings, st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_filling_is_by_parity_on_every_row_and_adds_to_the_mask(corners, height, width, seed):
    """Against the definition, pixel by pixel: how many edges of this row begin left of the centre, or on it."""
    polygon = [np.array(ring, np.float64).reshape(-1, 2) for ring in corners]
    before = np.random.default_rng(seed).random((height, width)) < 0.2
    expected = before.copy()
    for row, col in np.ndindex(height, width):
        crossed = 0
        for ring in polygon:
            for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
                if min(y0, y1) <= row + 0.5 < max(y0, y1):
                    crossed += x0 + (row + 0.5 - y0) * (x1 - x0) / (y1 - y0) <= col + 0.5
        expected[row, col] |= crossed % 2 == 1
    filled = before.copy()
    fill(filled, polygon)
    np.testing.assert_array_equal(filled, expected)


def test_filling_a_small_polygon_costs_its_box_not_the_mask():
    import tracemalloc

    mask = np.zeros((2000, 2000), bool)
    tracemalloc.start()
    try:
        fill(mask, [np.array([[1000, 1000], [1020, 1000], [1020, 1010], [1000, 1010]], np.float64)])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert mask.sum() == 200
    assert mask[1000:1010, 1000:1020].all()
    assert peak < 200_000  # bytes; the mask alone has 4 million pixels


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "cannot be read as GeoJSON: JSONDecodeError"),
        ('{"a": 1}', "cannot be read as GeoJSON: KeyError"),
        ('{"type": "FeatureCollection", "features": []}', "no polygon among 0 annotations"),
        (json.dumps(feature({"type": "Point", "coordinates": [1, 1]})), "no polygon among 1 annotations"),
        ('{"type": "Polygon", "coordinates": [[[0, 0], [NaN, 9], [9, 9]]]}', "a corner that is NaN or infinite"),
        (json.dumps({"type": "Polygon", "coordinates": [[[9000, 9000], [9900, 9000], [9900, 9900], [9000, 9000]]]}),
         r"span x, y \[9000, 9000\] to \[9900, 9900\] and cover nothing of the slide of \(800, 640\) px"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_used_are_named(tmp_path, text, words):
    (tmp_path / "a.geojson").write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_geojson(tmp_path / "a.geojson", Still())


def test_round_trip_of_a_real_mask(slides_dir, tmp_path):
    with wk.open_slide(slides_dir / "tubularadenoma-flat_HE_L15.svs") as slide:
        found = wk.segment_tissue(slide)
        path = write_geojson(found, tmp_path / "a.geojson")
        again = read_geojson(path, slide)
    np.testing.assert_array_equal(again.mask, found.mask)
    assert again.downsample == found.downsample
