"""Reading ahead of the encoder: the same tiles in order, in memory that does not grow, and faults where they belong."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from wsikit.extract.read_ahead import Buffers, read_ahead
from wsikit.extract.usage import Usage


def coords_of(count):
    return np.stack([np.arange(count), np.zeros(count)], 1).astype(np.int32)


def fill(coords, out):
    """Each tile holds its own x; odd ones cannot be read."""
    out[:] = coords[:, 0].reshape(-1, 1, 1, 1) % 251
    return (coords[:, 0] % 2).astype(np.uint8)


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 100])
def test_every_tile_comes_once_in_order(count):
    seen, status = [], []
    for batch in read_ahead(fill, coords_of(count), batch_size=8, tile_px=4, buffers=Buffers()):
        assert batch.pixels.shape == (batch.rows.stop - batch.rows.start, 4, 4, 3)
        seen += batch.pixels[:, 0, 0, 0].tolist()
        status += batch.status.tolist()
    assert seen == [i % 251 for i in range(count)]
    assert status == [i % 2 for i in range(count)]


def test_memory_is_used_again_within_and_between_shards():
    buffers, places = Buffers(), set()
    for _ in range(3):
        for batch in read_ahead(fill, coords_of(200), batch_size=8, tile_px=4, buffers=buffers):
            places.add(batch.pixels.__array_interface__["data"][0])
    assert len(places) <= 3  # one in use, two ahead


def test_reading_goes_on_while_a_batch_is_used_but_not_further_than_asked():
    read = []

    def slow(coords, out):
        read.append(int(coords[0, 0]))
        return fill(coords, out)

    batches = read_ahead(slow, coords_of(80), batch_size=8, tile_px=4, buffers=Buffers(), ahead=2)
    first = next(batches)
    deadline = time.monotonic() + 10
    while len(read) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert read == [0, 8, 16]  # the one in use and two ahead
    assert (first.pixels[:, 0, 0, 0] == np.arange(8)).all()  # not written over while it is in use
    batches.close()


def test_an_error_comes_where_its_batch_would_have_come_and_ends_the_thread():
    def broken(coords, out):
        if coords[0, 0] == 16:
            raise OSError("disk gone")
        return fill(coords, out)

    batches = read_ahead(broken, coords_of(80), batch_size=8, tile_px=4, buffers=Buffers())
    assert [next(batches).rows.start for _ in range(2)] == [0, 8]
    with pytest.raises(OSError, match="disk gone"):
        next(batches)
    assert not [t for t in threading.enumerate() if t.name == "wsikit-read"]


def test_waiting_is_what_is_left_of_the_time_that_workers_were_at_shards():
    usage = Usage()
    usage.add("a", 10, 100.0, 10.0, 4.0)
    usage.add("a", 10, 105.0, 10.0, 5.0)  # two at once for 5 s: 15 s in all, 9 of them encoding
    usage.add("b", 10, 500.0, 5.0, 5.0)  # another machine with another clock
    assert usage.waited() == pytest.approx(1 - 14 / 20)
    assert usage.tiles_per_s() == pytest.approx(30 / 20)
    assert Usage().waited() == Usage().tiles_per_s() == 0
