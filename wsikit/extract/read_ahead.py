"""Tiles read ahead: a thread fills the next batches while the one before is encoded."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Read = Callable[[npt.NDArray[np.int32], npt.NDArray[np.uint8]], npt.NDArray[np.uint8]]
"""(coords (n, 2), out (n, px, px, 3)) -> status (n,): fills ``out``."""


@dataclass(frozen=True)
class Batch:
    """A batch of tiles.

    Attributes:
        rows: Which of the coords.
        pixels: (n, tile_px, tile_px, 3) RGB uint8; written over once the next batch is asked for.
        status: (n,) uint8, codes of the store.
    """

    rows: slice
    pixels: npt.NDArray[np.uint8]
    status: npt.NDArray[np.uint8]


class Buffers:
    """Memory for batches, kept from shard to shard: fresh memory costs a page fault for every 4 KB.

    Args:
        kept: How many are kept for the next shard.
    """

    def __init__(self, kept: int = 8) -> None:
        self._free: list[npt.NDArray[np.uint8]] = []
        self._kept, self._lock = kept, threading.Lock()

    def take(self, tiles: int, tile_px: int) -> npt.NDArray[np.uint8]:
        """A buffer (tiles, tile_px, tile_px, 3) with anything in it."""
        shape = (tiles, tile_px, tile_px, 3)
        with self._lock:
            for i, buffer in enumerate(self._free):
                if buffer.shape == shape:
                    return self._free.pop(i)
        return np.empty(shape, np.uint8)

    def give_back(self, buffer: npt.NDArray[np.uint8]) -> None:
        """Keep a buffer for the next one who asks."""
        with self._lock:
            self._free = [*self._free, buffer][-self._kept :]


def read_ahead(
    read: Read,
    coords: npt.NDArray[np.int32],
    *,
    batch_size: int,
    tile_px: int,
    buffers: Buffers,
    ahead: int = 2,
) -> Iterator[Batch]:
    """Batches of tiles in order, read by a thread of its own.

    Args:
        read: Reads tiles into a buffer; called from the thread only, one batch after the other.
        coords: (N, 2) of the tiles.
        batch_size: Tiles of a batch; the last has what is left.
        tile_px: Side of a tile.
        buffers: Where the memory comes from and goes back to.
        ahead: Batches that may lie ready beside the one in use.

    Raises:
        Exception: Whatever ``read`` raises, where the batch would have come.
    """
    if not len(coords):
        return
    held = [buffers.take(min(batch_size, len(coords)), tile_px) for _ in range(ahead + 1)]
    free: queue.SimpleQueue[npt.NDArray[np.uint8] | None] = queue.SimpleQueue()
    full: queue.SimpleQueue[tuple[Batch, npt.NDArray[np.uint8]] | BaseException] = queue.SimpleQueue()
    for buffer in held:
        free.put(buffer)

    def fill() -> None:
        try:
            for start in range(0, len(coords), batch_size):
                buffer = free.get()
                if buffer is None:  # nobody wants more
                    return
                rows = slice(start, min(start + batch_size, len(coords)))
                pixels = buffer[: rows.stop - start]
                full.put((Batch(rows, pixels, read(coords[rows], pixels)), buffer))
        except BaseException as error:  # raised again where it can be handled
            full.put(error)

    thread = threading.Thread(target=fill, name="wsikit-read", daemon=True)
    thread.start()
    try:
        for _ in range(0, len(coords), batch_size):
            item = full.get()
            if isinstance(item, BaseException):
                raise item
            batch, buffer = item
            yield batch
            free.put(buffer)
    finally:
        free.put(None)
        thread.join()
        for buffer in held:
            buffers.give_back(buffer)
