"""Rows of a sharded array straight from its files, several times faster than through zarr-python; or from a bucket.

A shard is its inner chunks one after the other and an index at the end: for each chunk its offset
and length as little-endian uint64 (all ones where there is none), then a crc32c of the index
(Zarr v3, codec ``sharding_indexed``).
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wsikit.errors import StoreError
from wsikit.store.places import ObjectPath, StorePath

_ABSENT = np.iinfo(np.uint64).max
_CRC_BYTES = 4


def read_rows(
    array: StorePath, rows: Sequence[int] | None = None, out: npt.NDArray[np.float16] | None = None
) -> npt.NDArray[np.float16]:
    """Rows of a (N, D) float16 array sharded along its rows, as the store writes them.

    Args:
        array: Folder of the Zarr array.
        rows: Which rows, in any order; default all. Only the chunks that hold them are read.
        out: Where they go, (len(rows), D); default a fresh array.

    Returns:
        (len(rows), D) float16.

    Raises:
        StoreError: A shard is missing or cut short, or ``out`` has another shape.
        IndexError: A row out of range.
    """
    meta = json.loads((array / "zarr.json").read_bytes())
    total, dim = meta["shape"]
    shard_rows = meta["chunk_grid"]["configuration"]["chunk_shape"][0]
    chunk_rows = meta["codecs"][0]["configuration"]["chunk_shape"][0]
    shape = (total if rows is None else len(rows), dim)
    out = np.empty(shape, np.float16) if out is None else out
    if out.shape != shape:
        raise StoreError(
            f"{array}: features of shape {shape}, expected {out.shape}, as the others have; mixed encoders?"
        )
    if rows is None:
        for first in range(0, total, shard_rows):
            part = out[first : first + shard_rows]
            _read_shard(array / f"c.{first // shard_rows}.0", part, shard_rows // chunk_rows, chunk_rows)
        return out
    wanted = np.asarray(rows, np.int64)
    if len(wanted) and not (wanted.min() >= 0 and wanted.max() < total):
        raise IndexError(f"{array}: rows {wanted.min()} to {wanted.max()} of an array of {total}")
    for shard in np.unique(wanted // shard_rows):
        here = np.flatnonzero(wanted // shard_rows == shard)
        inside = wanted[here] - shard * shard_rows
        chunks, path = np.unique(inside // chunk_rows), array / f"c.{shard}.0"
        whole = 2 * len(chunks) * chunk_rows > min(shard_rows, total - shard * shard_rows)
        blocks = _blocks(path, chunks.tolist(), shard_rows // chunk_rows, chunk_rows * dim * 2, whole)
        for chunk, block in zip(chunks, blocks, strict=True):
            block = block.view("<f2").reshape(chunk_rows, dim)
            of_chunk = inside // chunk_rows == chunk
            out[here[of_chunk]] = block[inside[of_chunk] - chunk * chunk_rows]
    return out


def _read_shard(path: StorePath, out: npt.NDArray[np.float16], chunks: int, chunk_rows: int) -> None:
    """The first rows of a shard of ``chunks`` chunks into ``out``; from a file they go there without another copy."""
    wanted, chunk_bytes = range(-(-len(out) // chunk_rows)), chunk_rows * out.shape[1] * 2
    if isinstance(path, Path) and out.flags.c_contiguous and _read_joined(path, out, chunks, wanted, chunk_bytes):
        return
    for chunk, block in zip(wanted, _blocks(path, wanted, chunks, chunk_bytes, whole=True), strict=True):
        part = out[chunk * chunk_rows :][:chunk_rows]
        part[:] = block.view("<f2").reshape(chunk_rows, -1)[: len(part)]


def _read_joined(path: Path, out: npt.NDArray[np.float16], chunks: int, wanted: range, chunk_bytes: int) -> bool:
    """The same where chunks lie one after the other, as the store writes them; False where they do not."""
    size = chunks * 16 + _CRC_BYTES
    try:
        with path.open("rb", buffering=0) as file:
            length = file.seek(0, os.SEEK_END)
            file.seek(max(length - size, 0))
            spans = _spans(path, file.read(size), length, wanted, chunks, chunk_bytes)
            if any(a.stop != b.start for a, b in itertools.pairwise(spans)):
                return False
            file.seek(spans[0].start)
            if file.readinto(out.data.cast("B")) != out.nbytes:
                raise StoreError(f"{path}: it was cut short while it was read; run 'wsikit verify'")
            return True
    except FileNotFoundError as error:
        raise StoreError(f"{path}: missing; run 'wsikit verify'") from error


def _spans(
    path: StorePath, tail: bytes, length: int | None, wanted: Sequence[int], chunks: int, chunk_bytes: int
) -> list[slice]:
    """Where chunks lie in a shard, by the index at its end.

    Args:
        path: Of the shard, for errors.
        tail: Its last bytes.
        length: All its bytes; None where that is not known.
        wanted: Which chunks.
        chunks: How many there are.
        chunk_bytes: Bytes of each.
    """
    if len(tail) < chunks * 16 + _CRC_BYTES:
        raise StoreError(f"{path}: {len(tail)} bytes are too few for a shard; run 'wsikit verify'")
    index = np.frombuffer(tail[-chunks * 16 - _CRC_BYTES : -_CRC_BYTES], "<u8").reshape(chunks, 2).tolist()
    spans = []
    for chunk in wanted:
        offset, size = index[chunk]
        if offset == _ABSENT or size != chunk_bytes or (length is not None and offset + size > length):
            raise StoreError(f"{path}: chunk {chunk} is missing or cut short; run 'wsikit verify'")
        spans.append(slice(offset, offset + size))
    return spans


def _blocks(
    path: StorePath, wanted: Sequence[int], chunks: int, chunk_bytes: int, whole: bool
) -> list[npt.NDArray[np.uint8]]:
    """Bytes of some chunks of a shard of ``chunks`` chunks; ``whole`` if most of the shard is wanted."""
    size = chunks * 16 + _CRC_BYTES
    if not isinstance(path, ObjectPath) or whole:
        blob = _all(path)
        return [blob[s] for s in _spans(path, bytes(blob[-size:]), len(blob), wanted, chunks, chunk_bytes)]
    # From a bucket a whole shard comes with one request; a part of it with one for its index and one for its chunks.
    found = path.read_ranges(_spans(path, bytes(_end(path, size)), None, wanted, chunks, chunk_bytes))
    if any(len(piece) != chunk_bytes for piece in found):
        raise StoreError(f"{path}: a chunk is cut short; run 'wsikit verify'")
    return [np.frombuffer(piece, np.uint8) for piece in found]


def _all(path: StorePath) -> npt.NDArray[np.uint8]:
    try:
        if isinstance(path, ObjectPath):
            return np.frombuffer(path.read_bytes(), np.uint8)
        return np.asarray(np.memmap(path, np.uint8, "r"))
    except (FileNotFoundError, ValueError) as error:
        raise StoreError(f"{path}: missing or empty; run 'wsikit verify'") from error


def _end(path: ObjectPath, size: int) -> npt.NDArray[np.uint8]:
    try:
        return np.frombuffer(path.read_end(size), np.uint8)
    except FileNotFoundError as error:
        raise StoreError(f"{path}: missing; run 'wsikit verify'") from error
