"""Objects of a store, in a folder or in a bucket: written whole or not at all, synced, and hashed.

Zarr's local store renames a finished file into place but does not sync it, so that a power cut can
leave an empty object behind a record that says it is done. Here the objects are synced first. A bucket
has nothing to sync: an object is there, whole, once its PUT is answered.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from wsikit.provenance import sha256_file
from wsikit.store.places import ObjectPath, StorePath, name_in


def sync(paths: Iterable[StorePath]) -> None:
    """Force files, and the folders that name them, to disk."""
    folders = set()
    for path in paths:
        if isinstance(path, ObjectPath):
            continue
        with path.open("rb+") as handle:  # Windows syncs only what is open for writing
            os.fsync(handle.fileno())
        folders.add(path.parent)
    for folder in folders:
        sync_folder(folder)


def sync_folder(folder: StorePath) -> None:
    """Force a folder's entries to disk, where the system can (Windows cannot open a folder)."""
    if os.name == "nt" or isinstance(folder, ObjectPath):
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


def write_atomic(path: StorePath, content: bytes) -> None:
    """Write a file under another name, sync it, and rename it into place; in a bucket, one PUT."""
    if isinstance(path, ObjectPath):
        path.write_bytes(content)
        return
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


def create_only(path: StorePath, content: bytes) -> bool:
    """Write a file only if there is none of that name; of many who try at once, on any machine, one succeeds."""
    if isinstance(path, ObjectPath):
        return path.create(content)
    try:
        with path.open("xb") as handle:
            handle.write(content)
    except FileExistsError:
        return False
    return True


def rename(path: StorePath, new: StorePath) -> None:
    """Give a small file another name. In a bucket both are there for a moment."""
    if isinstance(path, ObjectPath) and isinstance(new, ObjectPath):
        new.write_bytes(path.read_bytes())
        path.unlink()
    else:
        os.replace(str(path), str(new))


def renew(path: StorePath) -> None:
    """Give a small file that is there the present time, by the clock of its file system or server."""
    if isinstance(path, ObjectPath):
        path.touch()
    else:
        os.utime(path)


def remove_tree(folder: StorePath) -> None:
    """Delete a folder with all that is below it, if it is there."""
    if isinstance(folder, ObjectPath):
        folder.remove_tree()
    else:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder)


def files_below(folder: StorePath) -> list[StorePath]:
    """Every file below a folder, sorted; none where there is no such folder."""
    if isinstance(folder, ObjectPath):
        return sorted(path for path, _ in folder.below())
    return sorted(path for path in folder.rglob("*") if path.is_file())


def sha256_of(path: StorePath) -> str:
    """sha256 of an object, 64 hex digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if isinstance(path, ObjectPath) else sha256_file(path)


def attributes_of(node: StorePath) -> dict[str, Any]:
    """Attributes of a Zarr group or array: one small file, where zarr looks for several.

    Raises:
        FileNotFoundError: There is no such node.
    """
    attributes: dict[str, Any] = json.loads((node / "zarr.json").read_bytes()).get("attributes", {})
    return attributes


def zarr_place(path: StorePath) -> Any:
    """What zarr's functions take for a place in a store."""
    if isinstance(path, Path):
        return path
    from wsikit.store.zarr_place import bucket_of

    return bucket_of(path)


def read_array(path: StorePath) -> Any:
    """An array of the store, opened for reading."""
    import zarr

    return zarr.open_array(zarr_place(path), mode="r", zarr_format=3)


def write_record(path: StorePath, root: StorePath, objects: Iterable[StorePath], facts: dict[str, Any]) -> None:
    """Sync objects, then write the done record that names and hashes them.

    Args:
        path: Where the record goes.
        root: The store; objects are named relative to it.
        objects: Every object that the task wrote.
        facts: What else the record says (counts, versions).
    """
    objects = list(objects)
    sync(objects)
    named = {name_in(root, o): {"sha256": sha256_of(o), "bytes": o.stat().st_size} for o in objects}
    content = json.dumps({"objects": named, **facts}, sort_keys=True, indent=1)
    write_atomic(path, content.encode())


def read_record(path: StorePath) -> dict[str, Any] | None:
    """A done record, or None where there is none (or a torn one, which a rename cannot leave)."""
    try:
        record = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return None
    return record if isinstance(record, dict) and isinstance(record.get("objects"), dict) else None


def is_whole(root: StorePath, record: dict[str, Any] | None) -> bool:
    """Whether every object of a record is there with its size (``verify`` compares the hashes too)."""
    if record is None:
        return False
    if isinstance(root, ObjectPath):
        return _is_whole_in_bucket(root, record["objects"])
    for name, facts in record["objects"].items():
        try:
            if (root / name).stat().st_size != facts["bytes"]:
                return False
        except OSError:
            return False
    return True


def _is_whole_in_bucket(root: ObjectPath, objects: Mapping[str, Mapping[str, Any]]) -> bool:
    """The same by one listing of the folder that holds them, which has the sizes, in place of a request for each."""
    if not objects:
        return True
    folder = root / os.path.commonpath([os.path.dirname(name) for name in objects]).replace(os.sep, "/")
    there = {path: stat.st_size for path, stat in folder.below()}
    return all(there.get(root / name) == facts["bytes"] for name, facts in objects.items())


def sweep_partials(folder: StorePath) -> None:
    """Delete what killed writers left unfinished below a folder. Only for the holder of the lease."""
    if isinstance(folder, Path) and folder.is_dir():
        for path in folder.rglob("*.partial"):
            path.unlink(missing_ok=True)
