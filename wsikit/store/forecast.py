"""How large a store will be, from the format alone: before the disk is full, or the inodes are used up."""

from __future__ import annotations

from wsikit.slides.quality import QUALITY_NAMES
from wsikit.store import format as fmt

_METADATA_BYTES = 6_200
"""zarr.json files and records of a slide without its shards; a few hundred bytes depend on names and cards."""

_RECORD_BYTES = 2_200
"""Done record of one shard: five hashes, versions."""


def slide_bytes(tiles: int, dim: int) -> int:
    """Bytes of a slide with one encoder's features of width ``dim``; right to a kilobyte or two.

    Chunks are written whole: 256 rows of values, 4096 of status and quality.
    """
    shards = fmt.shards_of(tiles)
    values = -(-tiles // fmt.CHUNK_ROWS) * fmt.CHUNK_ROWS * dim * 2
    index = shards * (fmt.SHARD_ROWS // fmt.CHUNK_ROWS * 16 + 4)
    rows = shards * fmt.SHARD_ROWS * (1 + 4 * len(fmt.QUALITY_NAMES) + 4 * len(QUALITY_NAMES))
    return values + index + rows + 8 * tiles + _METADATA_BYTES + shards * _RECORD_BYTES


def slide_inodes(tiles: int) -> int:
    """Files and folders of a slide with one encoder's features."""
    groups = 3  # slide, features, key: a folder and its zarr.json
    arrays = 5  # coords, quality; values, status, quality of the tiles: likewise
    records = 3  # the slide's folder, plan, the key's folder
    per_shard = 5  # values, status, quality twice, and the record
    return 2 * (groups + arrays) + records + 1 + per_shard * fmt.shards_of(tiles)


STORE_INODES = 13
"""Of the store itself: root, slides and .wsikit with their zarr.json, done, lease with a lease, run.json, devices with
the key's folder and a record in it."""
