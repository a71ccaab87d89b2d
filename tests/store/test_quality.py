"""Measures of the pixels lie beside the features: written, checked, merged with them, and filtered when reading."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import zarr

from wsikit.errors import ChangedError, ConfigError, UnknownNameError
from wsikit.store import format as fmt
from wsikit.store.merge import merge_stores
from wsikit.store.reader import open_store
from wsikit.store.verify import verify_store
from wsikit.store.writer import add_features, begin_store, missing_shards, write_plan, write_shard

KEY, OLD, ROWS, NAMES = "colour-00000000", "old-00000000", 5000, ("focus", "pen")
FACTS = {"fingerprint": "f" * 64, "size_level0_px": [10**6, 10**6], "tile_level0_px": [256.0, 256.0]}
FEATURES = {"card": {"name": "colour", "dim": 4}, "run": {"batch_size": 64, "threads": 1}}


def measures(rows=ROWS):
    return np.random.default_rng(1).random((rows, 2)).astype(np.float32)


def fill(root, shard, *, key=KEY, quality=True):
    where = fmt.rows_of(shard, ROWS)
    count = where.stop - where.start
    status = np.zeros(count, np.uint8)
    status[[3, 5]] = fmt.UNREADABLE, fmt.NOT_FINITE
    x = np.arange(where.start, where.stop)[:, None] % 1000 * np.ones((1, 4))
    given = measures()[where] if quality else None
    write_shard(root, "a", key, shard, values=x.astype(np.float16), status=status, facts={}, quality=given)


def begin(root):
    root.mkdir()
    begin_store(root, {"tiling": {"tile_px": 256}})
    coords = np.stack([np.arange(ROWS) * 128, np.zeros(ROWS)], 1).astype(np.int32)
    write_plan(root, "a", attributes=FACTS, coords=coords, quality=np.full((ROWS, 1), 0.5, np.float32))
    add_features(root, "a", KEY, dim=4, attributes=FEATURES, quality_names=NAMES)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    root = tmp_path_factory.mktemp("stores") / "a.zarr"
    begin(root)
    for shard in (1, 0):
        fill(root, shard)
    return root


def test_columns_come_back_by_name_and_are_missing_only_where_nothing_was_read(finished):
    found = open_store(finished).quality("a")
    assert list(found) == ["tissue_fraction", "focus", "pen"]
    expected = measures()
    expected[[3, 4096 + 3]] = np.nan
    np.testing.assert_array_equal(found["focus"], expected[:, 0])
    np.testing.assert_array_equal(found["pen"], expected[:, 1])
    assert verify_store(open_store(finished)) == []


def test_bags_within_bounds(finished):
    store, values = open_store(finished), measures()
    bag = store.bag(
        "a", encoder="colour", where={"focus": (0.2, None), "pen": (None, 0.1), "tissue_fraction": (0.5, 0.5)}
    )
    keep = (values[:, 0] >= 0.2) & (values[:, 1] <= 0.1) & (store.status("a", encoder="colour") == 0)
    assert bag.rows.tolist() == np.flatnonzero(keep).tolist()
    np.testing.assert_array_equal(bag.x[:, 0], (bag.rows % 1000).astype(np.float16))
    np.testing.assert_array_equal(bag.coords[:, 0], bag.rows * 128)
    np.testing.assert_array_equal(store.bag("a", encoder="colour", where={}).x, store.bag("a", encoder="colour").x)
    assert len(store.bag("a", encoder="colour", where={"focus": (2, None)})) == 0


@pytest.mark.parametrize(
    ("where", "error", "words"),
    [
        (
            {"fokus": (0, 1)},
            UnknownNameError,
            r"no quality measure 'fokus'; did you mean 'focus'\? .*tissue_fraction, f",
        ),
        ({"focus": 0.2}, ConfigError, r"focus=0\.2; expected \(least, most\)"),
        ({"focus": ("low", 1)}, ConfigError, "expected"),
        ({"focus": (0.9, 0.2)}, ConfigError, "the least is above the most"),
    ],
)
def test_bounds_that_cannot_be_used(finished, where, error, words):
    with pytest.raises(error, match=words):
        open_store(finished).bag("a", encoder="colour", where=where)


def test_features_without_measures_borrow_another_encoders(finished, tmp_path):
    root = tmp_path / "b.zarr"
    shutil.copytree(finished, root)
    add_features(root, "a", OLD, dim=4, attributes={**FEATURES, "card": {"name": "old"}})
    for shard in (0, 1):
        fill(root, shard, key=OLD)  # a newer wsikit goes on with features that were begun without
    store = open_store(root)
    assert list(store.quality("a", encoder="old")) == ["tissue_fraction"]
    bags = [store.bag("a", encoder=name, where={"focus": (0.5, None)}) for name in ("old", "colour")]
    assert bags[0].rows.tolist() == bags[1].rows.tolist()
    shutil.rmtree(root / "slides" / "a" / "features" / KEY)
    with pytest.raises(UnknownNameError, match="no quality measure 'focus'.*before"):
        open_store(root).bag("a", encoder="old", where={"focus": (0.5, None)})


def test_a_shard_is_done_only_with_its_measures_and_damage_is_found(finished, tmp_path):
    root = tmp_path / "b.zarr"
    shutil.copytree(finished, root)
    chunk = root / "slides" / "a" / "features" / KEY / "quality" / "c.1.0"
    before = chunk.read_bytes()
    chunk.unlink()
    assert missing_shards(root, "a", KEY) == [1]
    fill(root, 1)
    assert chunk.read_bytes() == before
    chunk.write_bytes(before[::-1])
    assert [f.kind for f in verify_store(open_store(root))] == ["damaged"]
    fill(root, 1)
    wrong = measures()[4096:]
    wrong[7, 1] = np.nan
    status = np.zeros(ROWS - 4096, np.uint8)
    write_shard(root, "a", KEY, 1, values=np.ones((len(wrong), 4), np.float16), status=status, facts={}, quality=wrong)
    (finding,) = verify_store(open_store(root))
    assert "'pen' is missing for 1 tiles that were read, the first 4103" in finding.what


def test_merging_takes_them_along(finished, tmp_path):
    merge_stores(tmp_path / "all.zarr", [finished])
    merged = open_store(tmp_path / "all.zarr")
    assert verify_store(merged) == []
    np.testing.assert_array_equal(merged.quality("a")["pen"], open_store(finished).quality("a")["pen"])


def test_other_measures_are_refused_while_unfinished_and_passed_over_when_done(finished, tmp_path):
    add_features(finished, "a", KEY, dim=4, attributes=FEATURES, quality_names=("sharpness",))  # nothing is to be done
    root = tmp_path / "b.zarr"
    begin(root)
    fill(root, 0)
    with pytest.raises(ChangedError, match=r"begun with the quality measures \['focus', 'pen'\]"):
        add_features(root, "a", KEY, dim=4, attributes=FEATURES, quality_names=("sharpness",))
    with pytest.raises(ValueError, match=r"quality of shape None, expected \(904, 2\)"):
        fill(root, 1, quality=False)


def test_any_zarr_reader_sees_them(finished):
    array = zarr.open_array(finished / "slides" / "a" / "features" / KEY / "quality", mode="r")
    assert array.chunks == (fmt.SHARD_ROWS, 2)
    assert array.attrs["names"] == list(NAMES)


def test_a_slide_of_10_000_tiles_takes_35_inodes(tmp_path):
    root = tmp_path / "s.zarr"
    root.mkdir()
    begin_store(root, {})
    coords = np.stack([np.arange(10_000), np.zeros(10_000)], 1).astype(np.int32)
    write_plan(root, "a", attributes=FACTS, coords=coords, quality=np.ones((10_000, 1), np.float32))
    add_features(root, "a", KEY, dim=4, attributes=FEATURES, quality_names=NAMES)
    for shard in range(3):
        n = len(range(10_000)[fmt.rows_of(shard, 10_000)])
        x, status = np.ones((n, 4), np.float16), np.zeros(n, np.uint8)
        write_shard(root, "a", KEY, shard, values=x, status=status, facts={}, quality=np.ones((n, 2), np.float32))
    inodes = [*(root / "slides" / "a").rglob("*"), *(root / ".wsikit" / "done" / "a").rglob("*")]
    assert len(inodes) + 2 == 35  # and the two folders themselves
