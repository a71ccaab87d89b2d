"""Objects on disk: written whole or not at all, synced, and hashed.

Zarr's local store renames a finished file into place but does not sync it, so that a power cut can
leave an empty object behind a record that says it is done. Here the objects are synced first.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from wsikit.provenance import sha256_file


def sync(paths: Iterable[Path]) -> None:
    """Force files, and the folders that name them, to disk."""
    folders = set()
    for path in paths:
        with path.open("rb+") as handle:  # Windows syncs only what is open for writing
            os.fsync(handle.fileno())
        folders.add(path.parent)
    for folder in folders:
        sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Force a folder's entries to disk, where the system can (Windows cannot open a folder)."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
    finally:
        os.close(handle)


_CANNOT_SYNC = {22, 95}  # EINVAL, EOPNOTSUPP: some network file systems sync folders by themselves


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file under another name, sync it, and rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with partial.open("wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_record(path: Path, root: Path, objects: Iterable[Path], facts: dict[str, Any]) -> None:
    """Sync objects, then write the done record that names and hashes them.

    Args:
        path: Where the record goes.
        root: The store; objects are named relative to it.
        objects: Every object that the task wrote.
        facts: What else the record says (counts, versions).
    """
    objects = list(objects)
    sync(objects)
    named = {
        o.relative_to(root).as_posix(): {"sha256": sha256_file(o), "bytes": o.stat().st_size} for o in sorted(objects)
    }
    content = json.dumps({"objects": named, **facts}, sort_keys=True, indent=1)
    write_atomic(path, content.encode())


def read_record(path: Path) -> dict[str, Any] | None:
    """A done record, or None where there is none (or a torn one, which a rename cannot leave)."""
    try:
        record = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return None
    return record if isinstance(record, dict) and isinstance(record.get("objects"), dict) else None


def is_whole(root: Path, record: dict[str, Any] | None) -> bool:
    """Whether every object of a record is there with its size (``verify`` compares the hashes too)."""
    if record is None:
        return False
    for name, facts in record["objects"].items():
        try:
            if (root / name).stat().st_size != facts["bytes"]:
                return False
        except OSError:
            return False
    return True


def sweep_partials(folder: Path) -> None:
    """Delete what killed writers left unfinished below a folder. Only for the holder of the lease."""
    if folder.is_dir():
        for path in folder.rglob("*.partial"):
            path.unlink(missing_ok=True)
