"""Slides under other names: a key file outside the store that alone leads from one to the other.

A key file is CSV with the columns ``slide_id`` and ``pseudonym``. Its row ``*secret*`` (no slide id may
hold a star) has 256 random bits; the others follow from them, unless somebody wrote pseudonyms of their own.
Whoever has the file can lead a store back to its slides; without it names and fingerprints are noise.
"""

from __future__ import annotations

import base64
import csv
import hmac
import io
import os
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

from wsikit.errors import ConfigError
from wsikit.extract.inputs import SlideEntry
from wsikit.store.format import check_slide_id, folder_name
from wsikit.store.places import StorePath

COLUMNS = ["slide_id", "pseudonym"]
SECRET = "*secret*"


@dataclass(frozen=True)
class Key:
    """What a key file holds.

    Attributes:
        secret: 64 hex digits.
        names: Pseudonym by slide id.
    """

    secret: str
    names: dict[str, str]

    @property
    def identity(self) -> str:
        """A name for the key that tells nothing of it, 12 hex digits: it stands in the store's configuration."""
        return _keyed(self.secret, "identity")[:12]


def pseudonymise(
    entries: Sequence[SlideEntry], path: str | PathLike[str], *, outside: Iterable[StorePath] = ()
) -> tuple[list[SlideEntry], str]:
    """The same slides under pseudonyms, sorted by them, and the key's identity.

    The key file is created where there is none, and slides that it does not know are added to it.

    Args:
        entries: Slides under their own ids.
        path: The key file.
        outside: Folders that are passed on, in which it must not lie: the store and its report.

    Raises:
        ConfigError: It lies there, or is no key file, or two slides have one pseudonym.
    """
    path = Path(path)
    for folder in outside:
        if isinstance(folder, Path) and path.resolve().is_relative_to(folder.resolve()):
            raise ConfigError(
                f"key file {path}: it would lie inside {folder}, and whoever gets that could undo the pseudonyms; "
                "keep it elsewhere"
            )
    key = _extended(path, [entry.slide_id for entry in entries])
    renamed = [replace(e, slide_id=key.names[e.slide_id], secret=key.secret) for e in entries]
    return sorted(renamed, key=lambda e: e.slide_id), key.identity


def _extended(path: Path, slide_ids: Sequence[str]) -> Key:
    """The key with a pseudonym for each of the slides, as it then is on disk."""
    known = _read(path) if path.exists() else Key("", {})
    secret = known.secret or secrets.token_hex(32)
    fresh = {s: _name(secret, s) for s in slide_ids if s not in known.names}
    key = Key(secret, {**known.names, **fresh})
    owner: dict[str, str] = {}
    for slide_id, name in key.names.items():
        check_slide_id(name)
        other = owner.setdefault(folder_name(name), slide_id)
        if other != slide_id:
            raise ConfigError(f"key file {path}: {other!r} and {slide_id!r} have one pseudonym, {name!r}")
    if fresh or not known.secret:
        _write(path, key)
    return key


def _name(secret: str, slide_id: str) -> str:
    """80 bits as 16 letters and digits: alike for two of a million slides with a chance of 4e-13."""
    return base64.b32encode(bytes.fromhex(_keyed(secret, f"slide {slide_id}")[:20])).decode().lower()


def _keyed(secret: str, text: str) -> str:
    return hmac.digest(bytes.fromhex(secret), text.encode(), "sha256").hex()


def _read(path: Path) -> Key:
    try:
        with path.open(newline="", encoding="utf-8-sig") as handle:
            rows = [row for row in csv.reader(handle) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"key file {path}: {error}") from error
    if not rows or rows[0] != COLUMNS:
        found = ",".join(rows[0]) if rows else "an empty file"
        raise ConfigError(f"key file {path}: expected the columns {','.join(COLUMNS)}, found {found}")
    names: dict[str, str] = {}
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != 2 or row[0] in names:
            raise ConfigError(f"key file {path}, row {number}: expected a slide id that is new and its pseudonym")
        names[row[0]] = row[1]
    secret = names.pop(SECRET, "")
    if secret and (len(secret) != 64 or set(secret) - set("0123456789abcdef")):
        raise ConfigError(f"key file {path}: its secret is not 64 hex digits; it was altered, and no store knows it")
    return Key(secret, names)


def _write(path: Path, key: Key) -> None:
    """Whole or not at all, readable by its owner only (on Windows: as the folder's rights have it)."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, [SECRET, key.secret], *key.names.items()])
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as handle:
            handle.write(text.getvalue().encode())
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise ConfigError(f"key file {path}: cannot be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
