"""A store in a bucket: the same bytes, few requests, one holder, and one clear line where the bucket says no."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsikit.errors import ConfigError, StoreAccessError, StoreLockedError, UnknownNameError
from wsikit.extract.run import part_store, report_folder
from wsikit.store import format as fmt
from wsikit.store.lease import Lease, holder
from wsikit.store.merge import merge_stores, remove_slides
from wsikit.store.objects import files_below, write_atomic
from wsikit.store.places import ObjectPath, StorePath, name_in, place_of
from wsikit.store.reader import FeatureStore, open_store
from wsikit.store.verify import verify_store
from wsikit.store.writer import add_features, begin_store, missing_shards, write_labels, write_plan, write_shard

CONFIG = {"tiling": {"tile_px": 256, "target_mpp": 0.5}, "tissue": {"method": "whole"}}
KEY, DIM = "colour-00000000", 32
ODD = "ü 7#1 ~50% {a}+b&c=d"  # a slide id that a URL could trip over
SLIDES = {"big": 9000, ODD: 300}
CHUNK_BYTES = fmt.CHUNK_ROWS * DIM * 2
INDEX_BYTES = fmt.SHARD_ROWS // fmt.CHUNK_ROWS * 16 + 4


def make(root: StorePath) -> FeatureStore:
    """A store as a run writes it, with one unreadable row in each shard."""
    root.mkdir(exist_ok=True)
    begin_store(root, CONFIG)
    for slide_id, rows in SLIDES.items():
        rng = np.random.default_rng(rows)
        coords = np.stack([np.arange(rows) % 300 * 256, np.arange(rows) // 300 * 256], 1).astype(np.int32)
        facts = {"fingerprint": "f" * 64, "size_level0_px": [100_000, 100_000], "tile_level0_px": [256.0, 256.0]}
        quality = rng.random((rows, 1)).astype(np.float32)
        write_plan(root, slide_id, attributes=facts, coords=coords, quality=quality)
        card = {"card": {"name": "colour", "dim": DIM}, "run": {"batch_size": 64, "threads": 1}}
        add_features(root, slide_id, KEY, dim=DIM, attributes=card, quality_names=["focus"])
        write_labels(root, slide_id, {"tumour": quality[:, 0]}, source={"sha256": "0"})
        for shard in range(fmt.shards_of(rows)):
            span = fmt.rows_of(shard, rows)
            count = span.stop - span.start
            status = np.zeros(count, np.uint8)
            status[count // 2] = fmt.UNREADABLE
            values = rng.normal(size=(count, DIM)).astype(np.float16)
            write_shard(
                root, slide_id, KEY, shard, values=values, status=status, facts={}, quality=quality[span]
            )  # fmt: skip
    return open_store(root)


def contents(root: StorePath) -> dict[str, bytes]:
    return {name_in(root, path): path.read_bytes() for path in files_below(root)}


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory) -> FeatureStore:
    return make(tmp_path_factory.mktemp("disk") / "a.zarr")


@pytest.fixture(scope="module")
def stored(shared_bucket) -> FeatureStore:
    return make(place_of(f"{shared_bucket}/some/folder/a.zarr"))


@pytest.fixture
def copy(on_disk, bucket) -> FeatureStore:
    merge_stores(f"{bucket}/copy.zarr", [on_disk.path])
    return open_store(f"{bucket}/copy.zarr")


# Names.


NAMES = st.lists(st.text("ab.-_ é", min_size=1).filter(lambda t: t not in (".", "..")), min_size=2, max_size=4)


@given(NAMES)
def test_parts_of_a_key_are_called_as_pathlib_does(parts):
    ours, theirs = ObjectPath("s3://b", "/".join(parts)), PurePosixPath("/".join(parts))
    assert (ours.name, ours.stem, ours.suffix) == (theirs.name, theirs.stem, theirs.suffix)
    assert ours.parent.key == theirs.parent.as_posix()
    assert (ours / "x/y").key == (theirs / "x/y").as_posix()
    assert ours.with_suffix(".z").key == theirs.with_suffix(".z").as_posix()
    assert place_of(str(ours)) == ours
    assert name_in(ours.parent, ours) == theirs.name


def test_places(tmp_path):
    assert place_of(tmp_path) == tmp_path
    assert place_of(tmp_path.as_uri()) == tmp_path
    assert place_of("a.zarr") == Path("a.zarr")
    there = place_of("s3://bucket/x//cohort.zarr/")
    assert str(there) == "s3://bucket/x/cohort.zarr"
    assert place_of(there) is there
    assert str(part_store(there, (3, 8))) == "s3://bucket/x/cohort-part-3-of-8.zarr"
    assert report_folder(there) == Path("cohort.report")


@pytest.mark.parametrize(
    ("given_", "match"),
    [
        ("s3://bucket", "expected s3://BUCKET/NAME"),
        ("s3://bucket/a/../b", "no '..'"),
        ("foo://bucket/a", "no object storage foo://; expected one of s3, "),
        (Path("s3://bucket/a.zarr"), "pathlib has dropped a slash"),
    ],
)
def test_urls_that_name_no_store(given_, match):
    with pytest.raises(ConfigError, match=match):
        place_of(given_)


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(ConfigError, match=r"pip install 'wsikit\[cloud\]'"):
        open_store("s3://bucket/a.zarr")


# The same as on a disk.


def test_every_object_has_the_bytes_that_it_has_on_disk(stored, on_disk):
    assert contents(stored.path) == contents(on_disk.path)  # records too
    assert verify_store(stored) == []


def test_nothing_is_written_beside_the_store(stored, shared_bucket):
    above = place_of(f"{shared_bucket}/x").parent
    assert [p.key for p in above.iterdir()] == ["some"]
    assert [p.key for p in (above / "some/folder").iterdir()] == ["some/folder/a.zarr"]


def test_all_that_can_be_read_is_equal(stored, on_disk):
    assert stored.slide_ids == on_disk.slide_ids
    assert stored.configuration == on_disk.configuration
    for slide_id in SLIDES:
        assert stored.slide(slide_id) == on_disk.slide(slide_id)
        assert stored.keys(slide_id) == [KEY]
        assert stored.encoder(slide_id, "colour") == on_disk.encoder(slide_id, "colour")
        assert stored.digest(slide_id, "colour") == on_disk.digest(slide_id, "colour")
        bounds = {"focus": (0.2, None)}
        ours, theirs = (s.bag(slide_id, encoder="colour", where=bounds) for s in (stored, on_disk))
        assert len(theirs) > 100
        np.testing.assert_array_equal(ours.x, theirs.x)
        np.testing.assert_array_equal(ours.coords, theirs.coords)
        np.testing.assert_array_equal(stored.labels(slide_id)["tumour"], on_disk.labels(slide_id)["tumour"])
    with pytest.raises(UnknownNameError, match="no slide 'bgi'; did you mean 'big'"):
        stored.bag("bgi", encoder="colour")


@pytest.mark.parametrize("rows", [[5], [4095, 4096], [8999, 0, 300, 8999], list(range(3000))])
def test_rows_of_a_slide(stored, on_disk, rows):
    ours, theirs = (s.values("big", encoder="colour", rows=rows) for s in (stored, on_disk))
    np.testing.assert_array_equal(ours, theirs)


# How much is asked of the server.


def of_values(server, began: int) -> list[str]:
    return [path for _, path in server.requests[began:] if "/values/c." in path]


def test_a_row_is_read_by_its_chunk_and_a_bag_by_its_shards(stored, s3_server):
    began, bytes_before = len(s3_server.requests), s3_server.bytes_sent
    stored.values("big", encoder=KEY, rows=[5])
    assert len(of_values(s3_server, began)) == 2  # the shard's index, and one chunk
    few = s3_server.bytes_sent - bytes_before
    began, bytes_before = len(s3_server.requests), s3_server.bytes_sent
    stored.values("big", encoder=KEY)
    assert len(of_values(s3_server, began)) == len(set(of_values(s3_server, began))) == 3  # each of its shards once
    all_ = s3_server.bytes_sent - bytes_before
    shards_bytes = 36 * CHUNK_BYTES + 3 * INDEX_BYTES
    assert all_ >= shards_bytes
    # Beside the rows both read the same records and listings, so that the difference is the shards' alone.
    assert abs((all_ - few) - (shards_bytes - CHUNK_BYTES - INDEX_BYTES)) < 3000


def test_a_bag_takes_a_bounded_number_of_requests(stored, s3_server):
    """However many slides the store has: nothing lists them."""
    began = len(s3_server.requests)
    stored.bag("big", encoder=KEY)
    asked = [path for _, path in s3_server.requests[began:]]
    assert len(asked) <= 40
    assert not [path for path in asked if "list-type" in path and path.endswith("done/")]


def test_listings_are_never_remembered(copy):
    assert copy.slide_ids == sorted(SLIDES)
    code = f"from wsikit.store.merge import remove_slides; remove_slides({str(copy.path)!r}, ['big'])"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert copy.slide_ids == [ODD]


# Damage, merging, removing.


@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
@pytest.mark.parametrize("name", ["coords/c.0.0", f"features/{KEY}/values/c.1.0", f"features/{KEY}/zarr.json"])
def test_verify_finds_damage(copy, name, harm):
    path = copy.path / "slides" / "big" / name
    data = path.read_bytes()
    if harm == "remove":
        path.unlink()
    else:
        write_atomic(path, data[:-1] if harm == "cut" else data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    findings = verify_store(copy)
    assert [f.kind for f in findings] == ["damaged"]
    assert name in findings[0].what
    expected = [] if harm == "flip" or "values" not in name else [1]  # its size or absence is seen by resume as well
    if "values" in name:
        assert missing_shards(copy.path, "big", KEY) == expected


def test_merge_from_a_bucket_and_into_one(copy, on_disk, tmp_path):
    back = tmp_path / "back.zarr"
    assert merge_stores(back, [copy.path]) == sorted(SLIDES)
    strip = {name: data for name, data in contents(back).items() if "/lease/" not in name}
    assert strip == contents(on_disk.path)


def test_removed_slides_leave_nothing(copy):
    remove_slides(copy.path, ["big"])
    assert [name for name in contents(copy.path) if "big" in name] == []
    assert verify_store(copy) == []


# The lease.


def test_of_many_that_create_one_object_one_succeeds(s3_server, bucket):
    """``If-None-Match: *``, which the server must keep: here it does."""
    path = place_of(f"{bucket}/a")
    assert [path.create(b"first"), path.create(b"second")] == [True, False]
    assert path.read_bytes() == b"first"


HOLD = """
import sys, time
from wsikit.store.lease import Lease
from wsikit.store.places import place_of
with Lease(place_of(sys.argv[1]), heartbeat_s=0.3):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other(bucket):
    """Another process that holds the lease on ``<bucket>/a.zarr``."""
    code = [sys.executable, "-c", HOLD, f"{bucket}/a.zarr"]
    process = subprocess.Popen(code, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_living_run_is_refused_and_a_dead_one_replaced(bucket, other):
    root = place_of(f"{bucket}/a.zarr")
    assert f"process {other.pid}" in holder(root)
    with pytest.raises(StoreLockedError, match=f"in use by process {other.pid} of .*--wait"), Lease(root):
        pass
    other.kill()
    other.wait()
    with Lease(root) as lease:
        lease.check()
    assert holder(root) == ""
    assert [p.name for p in (root / ".wsikit" / "lease").iterdir()] == ["00000002.released"]


def test_a_silent_run_of_another_machine_is_replaced_after_its_time_by_the_servers_clock(bucket):
    root = place_of(f"{bucket}/a.zarr")
    owner = {"host": "node17", "pid": 1, "started": 1.0, "user": "ada"}
    write_atomic(root / ".wsikit" / "lease" / "00000001", json.dumps(owner).encode())
    began = time.monotonic()
    with Lease(root, expires_s=3, heartbeat_s=0.5) as lease:
        lease.check()
    assert time.monotonic() - began >= 2  # S3 counts whole seconds


def test_who_was_taken_over_from_stops(bucket):
    root = place_of(f"{bucket}/a.zarr")
    with Lease(root, heartbeat_s=0.1) as asleep:
        write_atomic(root / ".wsikit" / "lease" / "00000002", b"{}")
        deadline = time.monotonic() + 10
        while not asleep.lost and time.monotonic() < deadline:
            time.sleep(0.05)
        with pytest.raises(StoreLockedError, match="another has taken the store over; nothing is lost"):
            asleep.check()


def test_a_number_that_was_used_up_meanwhile_is_not_taken_again(bucket, tmp_path):
    """Who looked when 1 was the highest number, and comes back when 2 was held and given back."""
    for root in (place_of(f"{bucket}/a.zarr"), tmp_path):
        folder = root / ".wsikit" / "lease"
        folder.mkdir(parents=True)
        write_atomic(folder / "00000002.released", b"{}")
        assert Lease(root)._create(2) is None
        assert [p.name for p in folder.iterdir()] == ["00000002.released"]
        with Lease(root):
            assert "00000003" in {p.name for p in folder.iterdir()}


RACE = """
import sys, time
from wsikit.errors import StoreLockedError
from wsikit.store.lease import Lease
from wsikit.store.places import place_of
root = place_of(sys.argv[1])
while not (root / "go").is_file():
    time.sleep(0.01)
try:
    with Lease(root, heartbeat_s=0.5):
        print("won", flush=True)
        time.sleep(8)
except StoreLockedError:
    print("refused", flush=True)
"""


@pytest.mark.slow
def test_of_many_that_find_a_free_store_one_wins(bucket):
    url = f"{bucket}/a.zarr"
    runs = [
        subprocess.Popen([sys.executable, "-c", RACE, url], stdout=subprocess.PIPE, text=True) for _ in range(5)
    ]  # fmt: skip
    time.sleep(2)
    write_atomic(place_of(url) / "go", b"")
    said = [run.communicate(timeout=60)[0].split() for run in runs]
    assert sorted(said) == [["refused"]] * 4 + [["won"]]


# Where the bucket says no.


def test_no_such_bucket(s3_server, on_disk):
    url = "s3://nobody-made-this/a.zarr"
    with pytest.raises(StoreAccessError, match="there is no bucket s3://nobody-made-this; create it, or mend the name"):
        open_store(url)
    with pytest.raises(StoreAccessError, match="there is no bucket"):
        merge_stores(url, [on_disk.path])


def test_no_permission(copy, s3_server):
    s3_server.denied = ("PUT",)
    try:
        assert len(copy.bag("big", encoder="colour")) == SLIDES["big"] - 3  # reading is allowed
        with pytest.raises(StoreAccessError, match=r"no permission to write with .*AWS_ACCESS_KEY_ID=wsikit"):
            remove_slides(copy.path, ["big"])
        s3_server.denied = ("PUT", "GET", "HEAD")
        with pytest.raises(StoreAccessError, match="no permission with the credentials of the environment"):
            open_store(copy.path)
    finally:
        s3_server.denied = ()
    assert verify_store(copy) == []


def test_a_golden_store_is_read_from_a_bucket(golden, bucket, tmp_path):
    """Stores of the first version, copied into a bucket by any tool."""
    local = tmp_path / "a.zarr"
    shutil.copytree(golden / "store-v1.zarr", local)
    for path in files_below(local):
        write_atomic(place_of(f"{bucket}/a.zarr/{name_in(local, path)}"), path.read_bytes())
    theirs, ours = open_store(local), open_store(f"{bucket}/a.zarr")
    assert verify_store(ours) == verify_store(theirs) == []
    for slide_id in theirs.slide_ids:
        for key in theirs.keys(slide_id):
            np.testing.assert_array_equal(
                ours.bag(slide_id, encoder=key).x, theirs.bag(slide_id, encoder=key).x
            )  # fmt: skip
