"""The features of several encoders as the columns of one bag, tile by tile."""

from __future__ import annotations

import numpy as np
import pytest

from wsikit.cohort.bags import Bags
from wsikit.cohort.endpoints import ClassLabel
from wsikit.cohort.table import load_cohort
from wsikit.errors import ConfigError, StoreError, UnknownNameError
from wsikit.store.reader import open_store
from wsikit.store.writer import add_features, begin_store, write_plan, write_shard

TILES = 300


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two slides with features of two encoders; of slide b, one tile has those of the first only."""
    path = tmp_path_factory.mktemp("several") / "features.zarr"
    path.mkdir()
    begin_store(path, {"tiling": {"tile_px": 256}})
    for number, name in enumerate("ab"):
        coords = np.stack([np.arange(TILES), np.zeros(TILES)], 1).astype(np.int32) * 256
        facts = {"fingerprint": name * 64, "stride_level0_px": [256, 256]}
        write_plan(path, name, attributes=facts, coords=coords, quality=np.ones((TILES, 1), np.float32))
        for key, dim in (("one-0000", 3), ("two-0000", 5)):
            x = np.random.default_rng([number, dim]).normal(size=(TILES, dim)).astype(np.float16)
            status = np.zeros(TILES, np.uint8)
            status[7] = 1
            if (name, dim) == ("b", 5):
                status[9] = 1
            x[status > 0] = np.nan
            card = {"card": {"name": key[:3], "dim": dim}, "run": {}, "key": key}
            add_features(path, name, key, dim=dim, attributes=card)
            write_shard(path, name, key, 0, values=x, status=status, facts={})
    (path.parent / "cohort.csv").write_text("slide_id,label\na,0\n")
    return path


def test_columns_stand_side_by_side_in_the_order_that_was_asked_for(root):
    store = open_store(root)
    one, two, both = (store.bag("a", encoder=name) for name in ("one", "two", "one+two"))
    np.testing.assert_array_equal(both.x, np.concatenate([one.x, two.x], axis=1))
    np.testing.assert_array_equal(both.rows, one.rows)
    np.testing.assert_array_equal(store.bag("a", encoder="two-0000+one").x, np.concatenate([two.x, one.x], axis=1))
    np.testing.assert_array_equal(
        store.values("a", encoder="one+two", rows=[5, 2]), store.values("a", encoder="one+two")[[5, 2]]
    )
    assert store.resolve("a", "one+two") == "one-0000+two-0000"
    facts = store.encoder("a", "one+two")
    assert (facts["key"], facts["card"]) == ("one-0000+two-0000", {"name": "one+two", "dim": 8})
    assert [part["card"]["dim"] for part in facts["parts"]] == [3, 5]
    assert store.finished("a", "one+two")
    digests = {store.digest("a", name) for name in ("one", "two", "one+two", "two+one")}
    assert len(digests) == 4


def test_tiles_that_differ_are_refused_with_the_slide_and_the_encoders(root):
    with pytest.raises(StoreError, match="slide 'b': 1 tiles have features of only one of one-0000 and two-0000"):
        open_store(root).bag("b", encoder="one+two")
    with pytest.raises(UnknownNameError, match="no features of encoder 'three'"):
        open_store(root).bag("a", encoder="one+three")
    assert not open_store(root).has("a", "one+three")


def test_a_cohort_of_several_encoders(root):
    label = ClassLabel("label", ("0", "1"))
    cohort = load_cohort(root.parent / "cohort.csv", endpoint=label, stores=root, encoder=["one", "two"])
    assert cohort.encoder == "one-0000+two-0000"
    for cache in (0, 1 << 20):
        bags = Bags(cohort.slides, encoder=cohort.encoder, cache_bytes=cache)
        assert bags.dim == 8
        np.testing.assert_array_equal(bags.take(0, np.array([250, 3])).x, bags[0].x[[250, 3]])
    with pytest.raises(ConfigError, match="no store has features of encoder 'tow'"):
        load_cohort(root.parent / "cohort.csv", endpoint=label, stores=root, encoder=["one", "tow"])
