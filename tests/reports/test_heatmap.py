"""Heatmaps: the attention of each tile at that tile, in the picture and in the GeoJSON."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from wsikit.cohort.table import CohortSlide
from wsikit.errors import ConfigError
from wsikit.reports.heatmap import draw_heatmap, split_attention, write_heatmaps
from wsikit.reports.tile_geojson import write_tile_geojson
from wsikit.store.reader import open_store

KEY = "texture-00000000"
SIZE = (512, 384)


@pytest.fixture
def slides(planted) -> tuple[CohortSlide, ...]:
    """The two slides of the first patient, of which three tiles each could not be read."""
    store = open_store(planted / "features.zarr")
    return tuple(CohortSlide(f"S00-{s}", store, planted / "slides" / f"S00-{s}.svs") for s in range(2))


def attention(seed: int = 0, tiles: int = 90) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(tiles)).astype(np.float32)


def test_geojson_has_exactly_the_tiles_and_their_attention(slides, tmp_path):
    weights = attention()
    write_heatmaps(slides, weights, tmp_path, encoder=KEY)
    start = 0
    for slide in slides:
        bag = slide.store.bag(slide.slide_id, encoder=KEY)
        assert len(bag) == 45
        features = json.loads((tmp_path / f"{slide.slide_id}.geojson").read_text())["features"]
        assert len(features) == len(bag)
        for feature, (x, y), weight in zip(features, bag.coords, weights[start : start + len(bag)], strict=True):
            square = [[x, y], [x + 64, y], [x + 64, y + 64], [x, y + 64], [x, y]]
            assert feature["geometry"] == {"type": "Polygon", "coordinates": [square]}
            assert feature["properties"]["objectType"] == "tile"
            found = feature["properties"]["measurements"]
            assert found["attention"] == weight  # to the last bit
            assert found["attention, times the average tile"] == float(weight) * 90
        start += len(bag)
    assert start == 90


def test_tiles_of_fractional_size_are_kept_so(tmp_path):
    coords, weights = np.array([[10, 20]], np.int32), np.array([0.1 + 0.2])
    path = write_tile_geojson(tmp_path / "a.geojson", coords, (253.3, 250.1), weights, weights)
    (feature,) = json.loads(path.read_text())["features"]
    assert feature["geometry"]["coordinates"][0][2] == [10 + 253.3, 20 + 250.1]
    assert feature["properties"]["measurements"]["attention"] == 0.1 + 0.2


def test_picture_is_red_where_the_attention_is(slides, tmp_path):
    weights = np.full(90, 0.5 / 89, np.float32)
    weights[60] = 0.5  # on the second slide
    draw = draw_heatmap(slides, weights, tmp_path, encoder=KEY)
    assert draw.slide_id == "S00-1"
    assert draw.note == ""
    assert draw.share == pytest.approx(0.5 + 44 * 0.5 / 89, abs=1e-6)
    picture = cv2.imread(str(tmp_path / "S00-1.png"))[:, :, ::-1].astype(int)
    assert np.array_equal(picture, draw.picture)
    scale = 512 / SIZE[0]  # the thumbnail is not enlarged
    left = picture.shape[1] - 512
    x, y = slides[1].store.bag("S00-1", encoder=KEY).coords[60 - 45]
    row, column = round((y + 32) * scale), round((x + 32) * scale)
    assert np.abs(picture[row, column] - (200, 130, 175)).max() < 12, "the slide itself is on the left"
    red, _, blue = picture[row, left + column]
    assert red - blue > 60
    for other in slides[1].store.bag("S00-1", encoder=KEY).coords:
        if other.tolist() != [x, y]:
            red, _, blue = picture[round((other[1] + 32) * scale), left + round((other[0] + 32) * scale)]
            assert red - blue < 20


def test_a_slide_that_cannot_be_shown_has_its_tiles_on_a_canvas(slides, tmp_path):
    small = tmp_path / "small.svs"
    from wsikit.testing.svs import write_svs

    write_svs(small, np.full((128, 128, 3), 200, np.uint8), mpp=0.5, levels=(1,))
    for path, why in (
        (None, "no path of this slide"),
        (Path("/nowhere/a.svs"), "no such file"),
        (small, "it has 128 x 128 px, the store's slide 512 x 384"),
    ):
        found = draw_heatmap((replace(slides[0], path=path),), attention(tiles=45), tmp_path / "out", encoder=KEY)
        assert why in found.note
        corner = found.picture[2, 2].tolist()  # of the first tile, which has no features
        assert corner == [236, 236, 236]
        assert len(np.unique(found.picture.reshape(-1, 3), axis=0)) > 10


def test_without_attention_the_slide_is_drawn_and_nothing_written(slides, tmp_path):
    found = draw_heatmap(slides, None, tmp_path / "none", encoder=KEY)
    assert (found.slide_id, found.share) == ("S00-0", 0.0)
    assert not (tmp_path / "none").exists()


def test_wrong_attention_is_refused(slides, tmp_path):
    with pytest.raises(ConfigError, match=r"S00-0.*91 attention weights for 90 tiles"):
        split_attention(slides, attention(tiles=91), encoder=KEY)
    with pytest.raises(ConfigError, match=r"91 attention weights; 0 of the features .*give the encoder's key"):
        write_heatmaps(slides, attention(tiles=91), tmp_path)


def test_without_a_key_the_features_with_as_many_tiles_are_taken(slides, tmp_path):
    weights = attention(3)
    named = write_heatmaps(slides, weights, tmp_path / "a", encoder=KEY)
    found = write_heatmaps(slides, weights, tmp_path / "b")
    assert [f.slide_id for f in found] == [f.slide_id for f in named] == ["S00-0", "S00-1"]
    for one in ("S00-0.geojson", "S00-1.geojson", "S00-0.png", "S00-1.png"):
        assert (tmp_path / "a" / one).read_bytes() == (tmp_path / "b" / one).read_bytes()
