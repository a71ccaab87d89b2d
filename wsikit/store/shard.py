"""Rows of a sharded array straight from its files, several times faster than through zarr-python; or from a bucket.

A shard is its inner chunks one after the other and an index at the end: for each chunk its offset
and length as little-endian uint64 (all ones where there is none), then a crc32c of the index
(Zarr v3, codec ``sharding_indexed``).
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from wsikit.errors import StoreError
from wsikit.store.places import ObjectPath, StorePath

_ABSENT = np.iinfo(np.uint64).max
_CRC_BYTES = 4


def read_rows(array: StorePath, rows: Sequence[int] | None = None) -> npt.NDArray[np.float16]:
    """Rows of a (N, D) float16 array sharded along its rows, as the store writes them.

    Args:
        array: Folder of the Zarr array.
        rows: Which rows, in any order; default all. Only the chunks that hold them are read.

    Returns:
        (len(rows), D) float16, a fresh array.

    Raises:
        StoreError: A shard is missing or cut short.
        IndexError: A row out of range.
    """
    meta = json.loads((array / "zarr.json").read_bytes())
    total, dim = meta["shape"]
    shard_rows = meta["chunk_grid"]["configuration"]["chunk_shape"][0]
    chunk_rows = meta["codecs"][0]["configuration"]["chunk_shape"][0]
    wanted = np.arange(total) if rows is None else np.asarray(rows, np.int64)
    if len(wanted) and not (wanted.min() >= 0 and wanted.max() < total):
        raise IndexError(f"{array}: rows {wanted.min()} to {wanted.max()} of an array of {total}")
    out = np.empty((len(wanted), dim), np.float16)
    for shard in np.unique(wanted // shard_rows):
        here = np.flatnonzero(wanted // shard_rows == shard)
        inside = wanted[here] - shard * shard_rows
        chunks, path = np.unique(inside // chunk_rows), array / f"c.{shard}.0"
        whole = 2 * len(chunks) * chunk_rows > min(shard_rows, total - shard * shard_rows)
        blocks = _blocks(path, chunks.tolist(), shard_rows // chunk_rows, chunk_rows * dim * 2, whole)
        for chunk, block in zip(chunks, blocks, strict=True):
            block = block.view("<f2").reshape(chunk_rows, dim)
            of_chunk = inside // chunk_rows == chunk
            picked = inside[of_chunk] - chunk * chunk_rows
            target = here[of_chunk]
            if rows is None:  # consecutive: copy as one piece
                out[target[0] : target[-1] + 1] = block[: len(picked)]
            else:
                out[target] = block[picked]
    return out


def _blocks(
    path: StorePath, wanted: Sequence[int], chunks: int, chunk_bytes: int, whole: bool
) -> list[npt.NDArray[np.uint8]]:
    """Bytes of some chunks of a shard of ``chunks`` chunks; ``whole`` if most of the shard is wanted."""
    size = chunks * 16 + _CRC_BYTES
    # From a bucket a whole shard comes with one request; a part of it with one for its index and one for its chunks.
    part = isinstance(path, ObjectPath) and not whole
    blob = _end(path, size) if part and isinstance(path, ObjectPath) else _all(path)
    if len(blob) < size:
        raise StoreError(f"{path}: {len(blob)} bytes are too few for a shard; run 'wsikit verify'")
    index = np.frombuffer(bytes(blob[-size:-_CRC_BYTES]), "<u8").reshape(chunks, 2)
    spans = []
    for chunk in wanted:
        offset, length = (int(v) for v in index[chunk])
        if offset == _ABSENT or length != chunk_bytes or not (part or offset + length <= len(blob)):
            raise StoreError(f"{path}: chunk {chunk} is missing or cut short; run 'wsikit verify'")
        spans.append(slice(offset, offset + length))
    if not (part and isinstance(path, ObjectPath)):
        return [blob[span] for span in spans]
    found = path.read_ranges(spans)
    if any(len(piece) != chunk_bytes for piece in found):
        raise StoreError(f"{path}: a chunk is cut short; run 'wsikit verify'")
    return [np.frombuffer(piece, np.uint8) for piece in found]


def _all(path: StorePath) -> npt.NDArray[np.uint8]:
    try:
        if isinstance(path, ObjectPath):
            return np.frombuffer(path.read_bytes(), np.uint8)
        return np.memmap(path, np.uint8, "r")
    except (FileNotFoundError, ValueError) as error:
        raise StoreError(f"{path}: missing or empty; run 'wsikit verify'") from error


def _end(path: ObjectPath, size: int) -> npt.NDArray[np.uint8]:
    try:
        return np.frombuffer(path.read_end(size), np.uint8)
    except FileNotFoundError as error:
        raise StoreError(f"{path}: missing; run 'wsikit verify'") from error
