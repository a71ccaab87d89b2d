"""Features that something else has computed, in a store like any other."""

from __future__ import annotations

import numpy as np
import pytest

import wsikit as wk
from wsikit.errors import ChangedError, ConfigError
from wsikit.store.row import describe_row
from wsikit.store.verify import verify_store

RNG = np.random.default_rng(0)
BAGS = {"a": RNG.normal(size=(5, 4)), "b": RNG.normal(size=(5000, 4)).astype(np.float32)}  # b: two shards


def test_what_is_written_is_read_back_as_float16(tmp_path):
    store = wk.store_features(tmp_path / "s.zarr", BAGS, encoder="toy", source="drawn")
    for name, x in BAGS.items():
        np.testing.assert_array_equal(store.bag(name, encoder="toy").x, x.astype(np.float16))
        assert store.bag(name, encoder="toy").grid.tolist() == [[i, 0] for i in range(len(x))]
    assert verify_store(store) == []
    assert np.isnan(describe_row(store, "a", 1).size_um).all()  # nothing is known of it


def test_places_are_kept_and_rows_lie_row_by_row(tmp_path):
    coords = {"a": np.array([[512, 256], [0, 256], [256, 0], [0, 512], [256, 256]])}
    bags = {"a": BAGS["a"]}
    store = wk.store_features(tmp_path / "s.zarr", bags, encoder="toy", source="drawn", coords=coords, mpp=0.5)
    bag = store.bag("a", encoder="toy")
    order = [2, 1, 4, 0, 3]
    np.testing.assert_array_equal(bag.coords, coords["a"][order])
    np.testing.assert_array_equal(bag.x, BAGS["a"][order].astype(np.float16))
    assert bag.grid.tolist() == [[1, 0], [0, 1], [1, 1], [2, 1], [0, 2]]
    assert describe_row(store, "a", 0).size_um == (128, 128)


def test_other_features_are_added_to_the_same_tiles_and_the_same_again_change_nothing(tmp_path):
    out = tmp_path / "s.zarr"
    wk.store_features(out, BAGS, encoder="toy", source="drawn")
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file() and "slides" in p.parts}
    store = wk.store_features(out, BAGS, encoder="toy", source="drawn")
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file() and "slides" in p.parts} == before
    wider = {name: np.concatenate([x, x], 1) for name, x in BAGS.items()}
    store = wk.store_features(out, wider, encoder="wide", source="drawn")
    assert store.bag("a", encoder="wide").x.shape == (5, 8)
    assert store.bag("a", encoder="toy").x.shape == (5, 4)
    with pytest.raises(ChangedError, match="features toy-[0-9a-f]+: begun with other settings: sha256"):
        wk.store_features(out, {"a": BAGS["a"] + 1}, encoder="toy", source="drawn")
    with pytest.raises(ChangedError, match="slide 'a': its tiles are at other places"):
        wk.store_features(out, {"a": BAGS["b"]}, encoder="toy", source="drawn")


@pytest.mark.parametrize(
    ("bags", "options", "message"),
    [
        ({}, {}, "no features"),
        ({"a": np.ones((3, 4)), "b": np.ones((3, 5))}, {}, r"widths \[4, 5\], expected \(N, D\) with one D"),
        ({"a": np.ones(3)}, {}, r"widths \[\], expected \(N, D\)"),
        ({"a": np.array([[1.0], [7e4]])}, {}, "'a': 1 of 2 rows hold NaN, infinity, or values beyond 65504"),
        ({"a": np.ones((0, 4))}, {}, "'a': no rows"),
        ({"../a": np.ones((3, 4))}, {}, "cannot name a folder"),
        ({"a": np.ones((3, 4))}, {"coords": {}}, "'a' has features but no coords"),
        ({"a": np.ones((3, 4))}, {"coords": {"a": np.ones((3, 2))}}, r"float64; expected \(3, 2\) whole"),
        ({"a": np.ones((1, 4))}, {"coords": {"a": np.array([[-1, 0]])}}, "coords from -1 to 0"),
        ({"a": np.ones((1, 4))}, {"mpp": 0}, "mpp=0, expected numbers above 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_kept_is_refused(tmp_path, bags, options, message):
    with pytest.raises(ConfigError, match=message):
        wk.store_features(tmp_path / "s.zarr", bags, encoder="toy", source="drawn", **options)


def test_another_width_under_the_same_name_is_refused(tmp_path):
    wk.store_features(tmp_path / "s.zarr", {"a": np.ones((3, 4))}, encoder="toy", source="drawn")
    with pytest.raises(
        ConfigError, match="encoder 'toy' are 4 wide there .slide 'a'., these are 5; give these another"
    ):
        wk.store_features(tmp_path / "s.zarr", {"b": np.ones((3, 5))}, encoder="toy", source="drawn")
    store = wk.store_features(tmp_path / "s.zarr", {"b": np.ones((3, 5))}, encoder="toy5", source="drawn")
    assert store.bag("b", encoder="toy5").x.shape == (3, 5)
