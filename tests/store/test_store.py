"""The store keeps what is written, says what is missing, and finds every kind of damage."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from wsikit.errors import ChangedError, ConfigError, StoreError, UnknownNameError
from wsikit.store import format as fmt
from wsikit.store.merge import merge_stores, remove_slides
from wsikit.store.objects import read_record, write_atomic
from wsikit.store.reader import open_store
from wsikit.store.shard import read_rows
from wsikit.store.verify import verify_store
from wsikit.store.writer import add_features, begin_store, missing_shards, planned, write_plan, write_shard

CONFIG = {"tiling": {"tile_px": 256, "target_mpp": 0.5}, "tissue": {"method": "whole"}}
KEY = "colour-00000000"
FEATURES = {"card": {"name": "colour", "dim": 8}, "run": {"batch_size": 64, "threads": 1}}


def attributes(fingerprint="f" * 64):
    return {"fingerprint": fingerprint, "size_level0_px": [100_000, 100_000], "tile_level0_px": [256.0, 256.0]}


def make(root: Path, slides: dict[str, int], *, dim=8, seed=0, finish=True, key=KEY):
    """A store with planned slides of so many rows, and (unless not finished) features with one bad row each."""
    root.mkdir(exist_ok=True)
    begin_store(root, CONFIG)
    for slide_id, rows in slides.items():
        rng = np.random.default_rng([seed, rows])
        coords = np.stack([np.arange(rows) % 300 * 256, np.arange(rows) // 300 * 256], 1).astype(np.int32)
        write_plan(
            root, slide_id, attributes=attributes(), coords=coords, quality=rng.random((rows, 1)).astype(np.float32)
        )
        add_features(root, slide_id, key, dim=dim, attributes=FEATURES)
        for shard in range(fmt.shards_of(rows)) if finish else ():
            fill(root, slide_id, shard, rng, dim=dim, key=key)
    return open_store(root)


def fill(root, slide_id, shard, rng, *, dim=8, key=KEY):
    where = fmt.rows_of(shard, open_store(root).coords(slide_id).shape[0])
    count = where.stop - where.start
    status = np.zeros(count, np.uint8)
    status[count // 2] = fmt.UNREADABLE
    write_shard(
        root, slide_id, key, shard, values=rng.normal(size=(count, dim)).astype(np.float16), status=status, facts={}
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    root = tmp_path_factory.mktemp("stores") / "a.zarr"
    make(root, {"big": 9000, "small": 5, "edge": 4096})
    return root


@pytest.fixture
def copy(tmp_path, finished):
    shutil.copytree(finished, tmp_path / "copy.zarr")
    return tmp_path / "copy.zarr"


def test_bag_leaves_out_rows_without_features(finished):
    store = open_store(finished)
    assert store.slide_ids == ["big", "edge", "small"]
    bag = store.bag("big", encoder="colour")
    status = store.status("big", encoder="colour")
    assert len(status) == 9000
    assert np.flatnonzero(status).tolist() == [2048, 4096 + 2048, 8192 + 404]
    assert len(bag) == 8997
    assert bag.x.shape == (8997, 8)
    assert np.isfinite(bag.x).all()
    assert bag.slide_id == "big"
    np.testing.assert_array_equal(bag.coords, store.coords("big")[bag.rows])
    assert set(np.flatnonzero(status)).isdisjoint(bag.rows)


def test_any_zarr_reader_sees_the_same_values_without_a_warning(finished):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        root = zarr.open_group(finished, mode="r")
        members = dict(root.members(max_depth=None))
        assert f"slides/big/features/{KEY}/values" in members
        assert root.tree() is not None
        values = root[f"slides/big/features/{KEY}/values"][:]
    np.testing.assert_array_equal(open_store(finished).values("big", encoder=KEY), values)
    assert np.isnan(values[2048]).all()
    assert values.dtype == np.float16


@given(rows=st.lists(st.integers(0, 8999), max_size=40))
def test_rows_read_straight_from_the_shards_are_zarrs_rows(finished, rows):
    array = finished / "slides" / "big" / "features" / KEY / "values"
    np.testing.assert_array_equal(read_rows(array, rows), zarr.open_array(array, mode="r")[:][rows])


def test_rows_out_of_range_are_refused(finished):
    with pytest.raises(IndexError, match="rows 9000 to 9000 of an array of 9000"):
        read_rows(finished / "slides" / "big" / "features" / KEY / "values", [9000])


def test_at_most_30_inodes_for_10_000_tiles(tmp_path):
    root = tmp_path / "s.zarr"
    make(root, {"a": 10_000})
    inodes = [*(root / "slides" / "a").rglob("*"), *(root / ".wsikit" / "done" / "a").rglob("*")]
    assert len(inodes) + 2 <= 30  # and the two folders themselves


def test_shards_hold_fixed_chunks_without_compression(finished):
    meta = json.loads((finished / "slides" / "big" / "features" / KEY / "values" / "zarr.json").read_text())
    assert meta["chunk_grid"]["configuration"]["chunk_shape"] == [4096, 8]
    assert meta["codecs"][0]["name"] == "sharding_indexed"
    assert meta["codecs"][0]["configuration"]["chunk_shape"] == [256, 8]
    assert [c["name"] for c in meta["codecs"][0]["configuration"]["codecs"]] == ["bytes"]
    assert meta["chunk_key_encoding"]["configuration"]["separator"] == "."
    assert meta["fill_value"] == "NaN"


def test_a_shard_of_unreadable_tiles_leaves_its_objects_all_the_same(tmp_path):
    root = tmp_path / "s.zarr"
    make(root, {"a": 300}, finish=False)
    values, status = np.ones((300, 8), np.float16), np.full(300, fmt.UNREADABLE, np.uint8)
    write_shard(root, "a", KEY, 0, values=values, status=status, facts={})
    assert missing_shards(root, "a", KEY) == []
    assert np.isnan(open_store(root).values("a", encoder=KEY)).all()
    assert len(open_store(root).bag("a", encoder=KEY)) == 0
    assert verify_store(open_store(root)) == []


def test_no_attribute_holds_a_path_a_time_or_a_host(finished):
    import platform

    for path in finished.rglob("zarr.json"):
        text = path.read_text()
        assert str(finished.parent) not in text
        assert platform.node() not in text or len(platform.node()) < 4
        assert "20" + str(np.datetime64("now"))[2:4] + "-" not in text


def test_equal_work_gives_equal_bytes_in_any_order(tmp_path):
    def tree(root):
        return {p.relative_to(root).as_posix(): p.read_bytes() for p in (root / "slides").rglob("*") if p.is_file()} | {
            "zarr.json": (root / "zarr.json").read_bytes()
        }

    one, two = tmp_path / "one.zarr", tmp_path / "two.zarr"
    make(one, {"a": 5000, "b": 10}, finish=False)
    make(two, {"b": 10, "a": 5000}, finish=False)
    for root, order in ((one, [("a", 0), ("a", 1), ("b", 0)]), (two, [("b", 0), ("a", 1), ("a", 0), ("a", 1)])):
        for slide_id, shard in order:
            fill(root, slide_id, shard, np.random.default_rng(shard))
    assert tree(one) == tree(two)


def test_unfinished_features_are_refused_with_the_way_out(tmp_path):
    root = tmp_path / "s.zarr"
    store = make(root, {"a": 5000}, finish=False)
    fill(root, "a", 1, np.random.default_rng(0))
    assert missing_shards(root, "a", KEY) == [0]
    with pytest.raises(StoreError, match=r"1 shards are not finished.*extract"):
        store.bag("a", encoder="colour")


def test_done_needs_the_record_and_every_object_whole(copy):
    values = copy / "slides" / "big" / "features" / KEY / "values"
    (copy / ".wsikit" / "done" / "big" / KEY / "1").unlink()
    assert missing_shards(copy, "big", KEY) == [1]
    with (values / "c.2.0").open("rb+") as handle:
        handle.truncate(1000)
    (copy / "slides" / "big" / "features" / KEY / "status" / "c.0").unlink()
    assert missing_shards(copy, "big", KEY) == [0, 1, 2]


def test_features_count_as_done_only_beside_their_coords(copy):
    store = open_store(copy)
    coords = store.coords("small")
    (copy / ".wsikit" / "done" / "small" / "plan").unlink()
    assert not planned(copy, "small")
    write_plan(copy, "small", attributes=attributes(), coords=coords, quality=np.ones((5, 1), np.float32))
    assert missing_shards(copy, "small", KEY) == []  # the same plan again: nothing is lost
    (copy / ".wsikit" / "done" / "small" / "plan").unlink()
    write_plan(copy, "small", attributes=attributes(), coords=coords + 1, quality=np.ones((5, 1), np.float32))
    assert missing_shards(copy, "small", KEY) == [0]


def test_other_settings_are_refused_with_both_values(finished):
    other = {**CONFIG, "tiling": {"tile_px": 512, "target_mpp": 0.5}}
    with pytest.raises(ChangedError, match=r"tiling\.tile_px: stored 256, asked for 512"):
        begin_store(finished, other)
    with pytest.raises(ChangedError, match=r"batch_size: stored 64, asked for 32"):
        add_features(finished, "big", KEY, dim=8, attributes={**FEATURES, "run": {"batch_size": 32, "threads": 1}})


def test_what_is_not_a_store_is_named(tmp_path, finished):
    with pytest.raises(StoreError, match="no such folder"):
        open_store(tmp_path / "nowhere.zarr")
    (tmp_path / "things").mkdir()
    (tmp_path / "things" / "thesis.docx").touch()
    with pytest.raises(StoreError, match=r"is not a wsikit store \(it holds thesis.docx\)"):
        begin_store(tmp_path / "things", CONFIG)
    zarr.create_group(tmp_path / "other.zarr")
    with pytest.raises(StoreError, match="Zarr group but not a wsikit store"):
        open_store(tmp_path / "other.zarr")
    zarr.create_group(tmp_path / "later.zarr", attributes={"encoding-type": "wsikit-store", "encoding-version": "9"})
    with pytest.raises(StoreError, match="store version '9', this wsikit reads '1'"):
        open_store(tmp_path / "later.zarr")
    shutil.copytree(finished / "slides", tmp_path / "bare.zarr" / "slides")
    shutil.copy(finished / "zarr.json", tmp_path / "bare.zarr")
    with pytest.raises(StoreError, match=r"its folder \.wsikit is missing.*hidden files"):
        open_store(tmp_path / "bare.zarr")
    with pytest.raises(UnknownNameError, match=r"no slide 'bigg'; did you mean 'big'\?"):
        open_store(finished).bag("bigg", encoder="colour")
    with pytest.raises(UnknownNameError, match=f"no features of encoder 'color'.*it has: {KEY}"):
        open_store(finished).bag("big", encoder="color")


def test_two_encodings_of_one_name_must_be_told_apart(copy):
    add_features(copy, "small", "colour-11111111", dim=8, attributes=FEATURES)
    with pytest.raises(
        UnknownNameError, match="several features of encoder 'colour'; give the key: colour-0.*colour-1"
    ):
        open_store(copy).bag("small", encoder="colour")
    assert len(open_store(copy).bag("small", encoder=KEY)) == 4


@pytest.mark.parametrize(
    "bad", ["", ".hidden", "a/b", "..", "a\\b", "con", "NUL.x", "a:b", "x" * 129, "__a", "end.", "end ", "tab\t"]
)
def test_slide_ids_that_cannot_be_folders_are_refused(bad):
    with pytest.raises(ConfigError, match="cannot name a folder everywhere"):
        fmt.check_slide_id(bad)


@pytest.mark.parametrize("good", ["TCGA-A1-A0SB-01Z-00-DX1.UUID", "slide 7", "ünïcode", "a" * 128])
def test_usual_slide_ids_are_accepted(good):
    assert fmt.check_slide_id(good) == good


def test_verify_is_content_with_a_whole_store(finished):
    assert verify_store(open_store(finished)) == []


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


OBJECTS = [
    "coords/c.0.0", "quality/c.1.0", f"features/{KEY}/values/c.1.0", f"features/{KEY}/status/c.2",
    "zarr.json", f"features/{KEY}/zarr.json", f"features/{KEY}/values/zarr.json",
]  # fmt: skip


@pytest.mark.parametrize("name", OBJECTS)
@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_verify_finds_every_changed_object(copy, name, harm):
    path = copy / "slides" / "big" / name
    if harm == "flip":
        _flip(path)
    elif harm == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        path.unlink()
    findings = verify_store(open_store(copy))
    assert [f.kind for f in findings] == ["damaged"]
    assert name in findings[0].what
    assert findings[0].slide_id == "big"


def test_verify_finds_values_that_contradict_their_status(copy):
    status = copy / "slides" / "small" / "features" / KEY / "status" / "c.0"
    data = bytearray(status.read_bytes())
    data[0] = fmt.UNREADABLE
    status.write_bytes(data)
    record_path = copy / ".wsikit" / "done" / "small" / KEY / "0"
    record = read_record(record_path)
    from wsikit.provenance import sha256_file

    record["objects"][status.relative_to(copy).as_posix()]["sha256"] = sha256_file(status)
    write_atomic(record_path, json.dumps(record).encode())  # as if a task had written it so
    findings = verify_store(open_store(copy))
    assert [(f.kind, f.slide_id) for f in findings] == [("inconsistent", "small")]
    assert "1 rows whose values contradict their status" in findings[0].what


def test_verify_names_unfinished_and_unknown(copy):
    (copy / ".wsikit" / "done" / "big" / KEY / "1").unlink()
    (copy / "slides" / "left-behind").mkdir()
    kinds = {(f.slide_id, f.kind) for f in verify_store(open_store(copy))}
    assert ("big", "unfinished") in kinds
    assert ("big", "unknown") in kinds  # the objects of the shard whose record is gone
    assert ("left-behind", "unfinished") in kinds


def test_merge_joins_stores_and_is_repeatable(tmp_path):
    one, two, out = tmp_path / "1.zarr", tmp_path / "2.zarr", tmp_path / "all.zarr"
    make(one, {"a": 5000, "b": 7})
    make(two, {"c": 300})
    assert merge_stores(out, [one, two]) == ["a", "b", "c"]
    merged = open_store(out)
    assert verify_store(merged) == []
    for source, slide_id in ((one, "a"), (one, "b"), (two, "c")):
        ours, theirs = merged.bag(slide_id, encoder=KEY), open_store(source).bag(slide_id, encoder=KEY)
        np.testing.assert_array_equal(ours.x, theirs.x)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("c.*")}
    merge_stores(out, [one, two])
    assert {p: p.stat().st_mtime_ns for p in out.rglob("c.*")} == before


def test_merge_brings_a_second_encoders_features_to_the_same_slide(tmp_path):
    one, two, out = tmp_path / "1.zarr", tmp_path / "2.zarr", tmp_path / "all.zarr"
    make(one, {"a": 50})
    make(two, {"a": 50}, key="other-22222222")
    merge_stores(out, [one, two])
    assert open_store(out).keys("a") == [KEY, "other-22222222"]
    assert verify_store(open_store(out)) == []


def test_merge_refuses_what_does_not_belong_together(tmp_path):
    one, two, out = tmp_path / "1.zarr", tmp_path / "2.zarr", tmp_path / "all.zarr"
    make(one, {"a": 50})
    two.mkdir()
    begin_store(two, {**CONFIG, "tissue": {"method": "saturation"}})
    with pytest.raises(ChangedError, match="tissue.method: stored 'whole', asked for 'saturation'"):
        merge_stores(out, [one, two])
    assert not out.exists()
    shutil.rmtree(two)
    two.mkdir()
    begin_store(two, CONFIG)
    write_plan(
        two, "a", attributes=attributes("e" * 64), coords=np.zeros((1, 2), np.int32), quality=np.ones((1, 1), "f4")
    )
    with pytest.raises(ChangedError, match="slide 'a' is one file in .*another slide_id"):
        merge_stores(out, [one, two])
    with pytest.raises(StoreError, match="both a source and the target"):
        merge_stores(one, [one])


def test_merge_does_not_copy_damage(tmp_path):
    one, out = tmp_path / "1.zarr", tmp_path / "all.zarr"
    make(one, {"a": 50})
    _flip(one / "slides" / "a" / "features" / KEY / "values" / "c.0.0")
    with pytest.raises(StoreError, match="not what its record says"):
        merge_stores(out, [one])


def test_merge_writes_nothing_outside_of_its_store(tmp_path):
    """A store from somebody else whose records name other places."""
    one, out = tmp_path / "1.zarr", tmp_path / "all.zarr"
    make(one, {"a": 50})
    (tmp_path / "evil").write_bytes(b"x")
    record = one / ".wsikit" / "done" / "a" / "plan"
    facts = json.loads(record.read_bytes())
    for name in ("../evil", str(tmp_path / "evil2")):
        facts["objects"] = {name: {"sha256": hashlib.sha256(b"x").hexdigest(), "bytes": 1}}
        record.write_text(json.dumps(facts))
        with pytest.raises(StoreError, match="outside of the store; do not trust it"):
            merge_stores(out, [one])
    assert {p.name for p in tmp_path.iterdir()} == {"1.zarr", "all.zarr", "evil"}


def test_remove_takes_all_or_nothing(copy):
    with pytest.raises(UnknownNameError, match="no slide 'nope'.*none was removed"):
        remove_slides(copy, ["big", "nope"])
    assert "big" in open_store(copy).slide_ids
    remove_slides(copy, ["big"])
    assert open_store(copy).slide_ids == ["edge", "small"]
    assert not (copy / "slides" / "big").exists()
    assert verify_store(open_store(copy)) == []


def test_the_golden_store_of_version_1_reads_the_same_for_ever(golden):
    store = open_store(golden / "store-v1.zarr")
    assert store.slide_ids == ["tiny"]
    bag = store.bag("tiny", encoder="golden")
    expected = json.loads((golden / "store-v1.json").read_text())
    assert bag.coords.tolist() == expected["coords"]
    np.testing.assert_array_equal(bag.x.astype(float), np.array(expected["x"]))
    assert store.status("tiny", encoder="golden").tolist() == expected["status"]
    assert verify_store(store) == []


def test_todays_writer_still_writes_the_golden_bytes(tmp_path, golden):
    script = golden / "make_store_v1.py"
    subprocess.run([sys.executable, str(script), str(tmp_path)], check=True)
    new, old = tmp_path / "store-v1.zarr", golden / "store-v1.zarr"
    names = sorted(p.relative_to(old) for p in old.rglob("*") if p.is_file() and ".wsikit" not in p.parts)
    assert names == sorted(p.relative_to(new) for p in new.rglob("*") if p.is_file() and ".wsikit" not in p.parts)
    for name in names:
        assert (new / name).read_bytes() == (old / name).read_bytes(), name
