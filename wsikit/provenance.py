"""Where numbers come from: the identity of files, and the versions of what computed them."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_EDGE = 1 << 16
_PROBES, _PROBE = 16, 1 << 14


def fingerprint(path: Path) -> str:
    """Identity of a slide file by its content, never by its name: sha256, 64 hex digits.

    Hashed are the size, the first and last 64 kB and 16 probes of 16 kB spread evenly through the
    file: a few milliseconds on a network disk for a file of any size. The price is that a change
    between the probes is not seen; ``verify --re-extract`` sees such a change in the tiles it draws.
    A MIRAX slide is its ``.mrxs`` file and the folder beside it.
    """
    digest = hashlib.sha256()
    for file in files_of(path):
        size = file.stat().st_size
        digest.update(f"{size};".encode())
        with file.open("rb") as handle:
            digest.update(handle.read(_EDGE))
            for i in range(_PROBES):
                handle.seek(size * (i + 1) // (_PROBES + 1))
                digest.update(handle.read(_PROBE))
            handle.seek(max(0, size - _EDGE))
            digest.update(handle.read(_EDGE))
    return digest.hexdigest()


def file_bytes(path: Path) -> int:
    """Bytes of a slide on disk, the folder beside a MIRAX file included."""
    return sum(file.stat().st_size for file in files_of(path))


def files_of(path: Path) -> Sequence[Path]:
    """The files of a slide: the one that is named, first; of MIRAX those in the folder beside it, too."""
    beside = path.with_suffix("")
    if path.suffix.lower() == ".mrxs" and beside.is_dir():
        return [path, *sorted(f for f in beside.iterdir() if f.is_file())]
    return [path]


def versions(names: Sequence[str]) -> dict[str, str]:
    """Installed version of each distribution, and Python's; "absent" where there is none."""
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def sha256_file(path: Path) -> str:
    """sha256 of a file, 64 hex digits."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
