"""Names and shapes of the feature store, version 1: where everything lies, and nothing else.

The specification in words is ``docs/reference/store-format.md``.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any

from wsikit.errors import ConfigError
from wsikit.slides.base import OK as OK
from wsikit.slides.base import UNREADABLE as UNREADABLE
from wsikit.store.places import StorePath

STORE_TYPE, SLIDE_TYPE, FEATURES_TYPE = "wsikit-store", "wsikit-slide", "wsikit-features"
VERSION = "1"

SHARD_ROWS = 4096
"""Rows of one unit of work: one object of ``values``, one chunk of ``status``."""

CHUNK_ROWS = 256
"""Rows of one inner chunk of ``values``: the least that is read."""

NOT_FINITE = 2
STATUS_NAMES = {OK: "ok", UNREADABLE: "unreadable", NOT_FINITE: "encoder gave no finite number"}

QUALITY_NAMES = ("tissue_fraction",)
"""What is known of a tile when it is planned; what is measured on its pixels lies beside each encoder's features."""

PRIVATE = ".wsikit"
"""Run records. It carries the metadata of an empty Zarr array, because Zarr warns of any folder in a
group that is neither a group nor an array, and does not look inside arrays."""

_ID = re.compile(r"[^\x00-\x1f/\\:*?\"<>|]+")
_RESERVED = {"con", "prn", "aux", "nul", *(f"{d}{i}" for d in ("com", "lpt") for i in "123456789¹²³")}
"""Devices of Windows, with any ending; superscript digits count there."""

_MAX_BYTES = 200
"""Of a slide id in UTF-8: 255 are a name's most, and records and partial files add up to 46 to it."""


def check_slide_id(slide_id: str) -> str:
    """The id, if it can name a folder on every file system and a node in Zarr.

    Raises:
        ConfigError: Empty, longer than 128 characters or 200 bytes, with a character that some file
            system refuses, one of Windows' device names (CON), or with a leading dot, two leading
            underscores or a trailing dot or space.
    """
    bad = (
        not _ID.fullmatch(slide_id)
        or len(slide_id) > 128
        or not _encodable(slide_id)
        or slide_id.startswith((".", "__", " "))
        or slide_id.endswith((".", " "))
        or slide_id.split(".")[0].rstrip().lower() in _RESERVED
        or slide_id == "zarr.json"
    )
    if bad:
        raise ConfigError(
            f"slide id {slide_id!r} cannot name a folder everywhere: expected 1 to 128 characters (200 bytes) without "
            "/ \\ : * ? \" < > |, not beginning with '.', '__' or a space, not ending in '.' or a space, no device of "
            "Windows; give another in the manifest's column 'slide_id'"
        )
    return slide_id


def folder_name(slide_id: str) -> str:
    """A slide id as file systems compare names: two with one folder name are one folder on Windows or macOS."""
    return unicodedata.normalize("NFC", slide_id).casefold()


def _encodable(slide_id: str) -> bool:
    """Whether it is text (a file name that is not comes with surrogates in it) and short enough on disk."""
    try:
        return len(slide_id.encode()) <= _MAX_BYTES
    except UnicodeEncodeError:
        return False


def shards_of(rows: int) -> int:
    """How many shards hold that many rows."""
    return -(-rows // SHARD_ROWS)


def rows_of(shard: int, rows: int) -> slice:
    """The rows of one shard of an array of ``rows`` rows."""
    return slice(shard * SHARD_ROWS, min((shard + 1) * SHARD_ROWS, rows))


class Layout:
    """Paths inside one store.

    Args:
        root: The store's folder, or its prefix in a bucket.
    """

    def __init__(self, root: StorePath) -> None:
        self.root = root
        self.slides = root / "slides"
        self.private = root / PRIVATE
        self.outcomes = self.private / "outcomes"
        self.leases = self.private / "lease"

    def slide(self, slide_id: str) -> StorePath:
        """Group of a slide."""
        return self.slides / slide_id

    def features(self, slide_id: str, key: str) -> StorePath:
        """Group of one encoder's features of a slide."""
        return self.slides / slide_id / "features" / key

    def done(self, slide_id: str) -> StorePath:
        """Folder of a slide's done records."""
        return self.private / "done" / slide_id

    def plan_record(self, slide_id: str) -> StorePath:
        """Done record of a slide's plan: its coords and quality."""
        return self.done(slide_id) / "plan"

    def shard_record(self, slide_id: str, key: str, shard: int) -> StorePath:
        """Done record of one shard of one encoder's features."""
        return self.done(slide_id) / key / str(shard)

    def labels_record(self, slide_id: str) -> StorePath:
        """Done record of a slide's labels."""
        return self.done(slide_id) / "labels" / "0"

    def outcome(self, slide_id: str) -> StorePath:
        """What the last run said of a slide that is not finished."""
        return self.outcomes / f"{slide_id}.json"


def array_options(shape: tuple[int, ...], dtype: str, *, rows: int, sharded: bool = False) -> dict[str, Any]:
    """Arguments of ``zarr.Group.create_array`` for every array of the store.

    Chunk keys have the ``.`` separator (no folder per axis), nothing is compressed (float features
    shrink by at most 12 % at 4 to 5 times the cost of reading), and chunks that hold only the fill
    value are written all the same, so that an object is missing only if its task did not run.
    """
    rest = shape[1:]
    return {
        "shape": shape,
        "dtype": dtype,
        "chunks": (CHUNK_ROWS if sharded else rows, *rest),
        "shards": (rows, *rest) if sharded else None,
        "compressors": None,
        "filters": None,
        "fill_value": float("nan") if dtype.startswith("float") else 0,
        "chunk_key_encoding": {"name": "default", "separator": "."},
        "config": {"write_empty_chunks": True},
    }
