"""Rows straight from the files of a sharded array: whatever the order of its chunks, and never half of them."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from wsikit.errors import StoreError
from wsikit.store.format import Layout
from wsikit.store.from_arrays import store_features
from wsikit.store.shard import read_rows

ROWS, DIM = 5000, 6
"""Two shards of several chunks, the last of which is not full."""
CHUNKS, SIZE = 16, 256 * DIM * 2
"""Of a shard, and bytes of each."""


@pytest.fixture
def array(tmp_path):
    x = np.random.default_rng(0).standard_normal((ROWS, DIM)).astype(np.float16)
    store = store_features(tmp_path / "store.zarr", {"a": x}, encoder="toy", source="drawn")
    return Layout(store.path).features("a", store.resolve("a", "toy")) / "values", x


def test_all_rows_and_some_of_them_into_fresh_memory_and_given(array):
    folder, x = array
    np.testing.assert_array_equal(read_rows(folder), x)
    out = np.zeros((ROWS + 2, DIM), np.float16)
    assert read_rows(folder, out=out[1:-1]).base is out
    np.testing.assert_array_equal(out[1:-1], x)
    assert not out[[0, -1]].any()
    wide = np.zeros((ROWS, 2 * DIM), np.float16)  # columns beside others
    read_rows(folder, out=wide[:, DIM:])
    np.testing.assert_array_equal(wide, np.concatenate([np.zeros_like(x), x], axis=1))
    rows = [4999, 0, 4096, 7, 7]
    np.testing.assert_array_equal(read_rows(folder, rows), x[rows])
    with pytest.raises(StoreError, match=r"features of shape \(5000, 6\), expected \(5000, 7\).*mixed encoders"):
        read_rows(folder, out=np.zeros((ROWS, 7), np.float16))


def test_chunks_in_another_order(array):
    """Another writer may lay them down as it likes: the index says where they are."""
    folder, x = array
    path = folder / "c.0.0"
    data = path.read_bytes()
    assert len(data) == CHUNKS * (SIZE + 16) + 4
    chunks = [data[i * SIZE : (i + 1) * SIZE] for i in reversed(range(CHUNKS))]
    index = b"".join(struct.pack("<QQ", (CHUNKS - 1 - i) * SIZE, SIZE) for i in range(CHUNKS))
    path.write_bytes(b"".join([*chunks, index, data[-4:]]))
    np.testing.assert_array_equal(read_rows(folder), x)
    np.testing.assert_array_equal(read_rows(folder, [3, 300, 4095]), x[[3, 300, 4095]])


@pytest.mark.parametrize("keep", [0, 3, 100, -100])
def test_a_shard_that_was_cut_off(array, keep):
    folder, _ = array
    path = folder / "c.1.0"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(StoreError, match="run 'wsikit verify'"):
        read_rows(folder)


def test_a_shard_that_is_gone(array):
    folder, _ = array
    (folder / "c.0.0").unlink()
    with pytest.raises(StoreError, match="c.0.0: missing"):
        read_rows(folder)
