"""Where a store lies: a folder, or a prefix in a bucket of an object store that a URL names.

Folders stay plain ``pathlib.Path``. A URL (``s3://bucket/cohort.zarr``, ``gs://``, ``az://``) becomes an
:class:`ObjectPath`, which has those of pathlib's methods that the store uses, so that one code serves both; the few
things that differ in kind (syncing, renaming, hashing) are in ``store.objects``. Nothing is cached: no listing, no
object.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from wsikit.errors import ConfigError, StoreAccessError

_SCHEMES = ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss", "adl", "memory")

RETRIES, RETRY_S = 8, 60.0
"""A request that fails is sent again up to so often, and for so long: about 15 s where the server is gone."""


@dataclass(frozen=True, order=True)
class ObjectPath:
    """A key in a bucket, or a prefix of keys that stands for a folder.

    Args:
        bucket: Scheme and bucket, ``s3://bucket``.
        key: The rest, without a slash at its ends.

    Example:
        >>> ObjectPath("s3://bucket", "cohort.zarr") / "slides"
        s3://bucket/cohort.zarr/slides
    """

    bucket: str
    key: str

    def __str__(self) -> str:
        return f"{self.bucket}/{self.key}"

    __repr__ = __str__

    def __truediv__(self, other: str) -> ObjectPath:
        key = (PurePosixPath(self.key) / other).as_posix()
        return ObjectPath(self.bucket, "" if key == "." else key)

    @property
    def name(self) -> str:
        """The last part of the key."""
        return PurePosixPath(self.key).name

    @property
    def stem(self) -> str:
        """The name without its last ending."""
        return PurePosixPath(self.key).stem

    @property
    def suffix(self) -> str:
        """The last ending of the name, with its dot."""
        return PurePosixPath(self.key).suffix

    @property
    def parent(self) -> ObjectPath:
        """The prefix that it lies in."""
        key = PurePosixPath(self.key).parent.as_posix()
        return ObjectPath(self.bucket, "" if key == "." else key)

    def with_name(self, name: str) -> ObjectPath:
        """Its neighbour of that name."""
        return self.parent / name

    def with_suffix(self, suffix: str) -> ObjectPath:
        """Its neighbour with another last ending."""
        return self.parent / PurePosixPath(self.key).with_suffix(suffix).name

    def absolute(self) -> ObjectPath:
        """Itself: a URL does not depend on the working directory."""
        return self

    def mkdir(self, *, parents: bool = True, exist_ok: bool = True) -> None:
        """Nothing: prefixes come with the keys below them."""

    def is_file(self) -> bool:
        """Whether there is an object of this key."""
        try:
            self.stat()
        except FileNotFoundError:
            return False
        return True

    def is_dir(self) -> bool:
        """Whether there are keys below this one."""
        return next(self._pages(1), None) is not None

    def exists(self) -> bool:
        """Whether it is either."""
        return self.is_file() or self.is_dir()

    def stat(self) -> ObjectStat:
        """Size and time of an object, by the server's clock."""
        import obstore

        with self._clear():
            return ObjectStat.of(obstore.head(self.connect(), self.key))

    def read_bytes(self) -> bytes:
        """The whole object."""
        import obstore

        with self._clear():
            return bytes(obstore.get(self.connect(), self.key).bytes())

    def read_text(self) -> str:
        """The whole object as UTF-8 text."""
        return self.read_bytes().decode()

    def read_end(self, size: int) -> bytes:
        """The last bytes of the object; all of a shorter one."""
        import obstore

        with self._clear():
            return bytes(obstore.get(self.connect(), self.key, options={"range": {"suffix": size}}).bytes())

    def read_ranges(self, spans: Sequence[slice]) -> list[bytes]:
        """Pieces of the object; neighbours come with one request."""
        import obstore

        starts, ends = [span.start for span in spans], [span.stop for span in spans]
        with self._clear():
            return [bytes(piece) for piece in obstore.get_ranges(self.connect(), self.key, starts=starts, ends=ends)]

    def write_bytes(self, content: bytes) -> None:
        """Put the object, whole or not at all."""
        import obstore

        with self._clear(writing=True):
            # One request: an upload in parts has no single moment at which the object is there.
            obstore.put(self.connect(), self.key, content, use_multipart=False)

    def create(self, content: bytes) -> bool:
        """Put the object only if there is none (``If-None-Match: *``); of many who try at once one succeeds."""
        import obstore
        from obstore.exceptions import AlreadyExistsError

        try:
            with self._clear(writing=True):
                obstore.put(self.connect(), self.key, content, mode="create", use_multipart=False)
        except AlreadyExistsError:
            return False
        return True

    def touch(self) -> None:
        """Give the object, or an empty one where there is none, the server's present time."""
        try:
            content = self.read_bytes()
        except FileNotFoundError:
            content = b""
        self.write_bytes(content)

    def unlink(self, missing_ok: bool = True) -> None:
        """Delete the object; one that is not there is passed over."""
        self._delete([self.key])

    def remove_tree(self) -> None:
        """Delete every object below this prefix."""
        self._delete([path.key for path, _ in self.below()])

    def iterdir(self) -> Iterator[ObjectPath]:
        """Objects and prefixes one step below; none where there are none."""
        import obstore

        with self._clear():
            found = obstore.list_with_delimiter(self.connect(), self.key)
        for key in [*found["common_prefixes"], *(str(meta["path"]) for meta in found["objects"])]:
            yield ObjectPath(self.bucket, key)

    def below(self) -> Iterator[tuple[ObjectPath, ObjectStat]]:
        """Every object below this prefix with its size and time, a thousand for each request."""
        for page in self._pages():
            for meta in page:
                yield ObjectPath(self.bucket, str(meta["path"])), ObjectStat.of(meta)

    def connect(self) -> Any:
        """Obstore's connection to the bucket, made once in a process."""
        return _connect(self.bucket, *(os.environ.get(name, "") for name in _DECIDES))

    def _pages(self, size: int = 1000) -> Iterator[Any]:
        import obstore

        with self._clear():
            yield from obstore.list(self.connect(), self.key, chunk_size=size)

    def _delete(self, keys: list[str]) -> None:
        import obstore

        try:
            with self._clear(writing=True):
                obstore.delete(self.connect(), keys)
        except FileNotFoundError:
            pass  # some servers say so

    @contextmanager
    def _clear(self, *, writing: bool = False) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            explain(error, self, writing=writing)


@dataclass(frozen=True)
class ObjectStat:
    """What ``stat`` says of an object: ``st_size`` bytes, written at ``st_mtime``, seconds since the epoch."""

    st_size: int
    st_mtime: float

    @property
    def st_mtime_ns(self) -> int:
        """The time in nanoseconds; S3 counts whole seconds."""
        return round(self.st_mtime * 1e9)

    @classmethod
    def of(cls, meta: Any) -> ObjectStat:
        """From obstore's answer."""
        return cls(int(meta["size"]), meta["last_modified"].timestamp())


StorePath = Path | ObjectPath
"""A place in a store: in a folder, or in a bucket."""


def name_in(root: StorePath, path: StorePath) -> str:
    """A path as it is called within a store: parts joined by ``/``."""
    if isinstance(root, ObjectPath) or isinstance(path, ObjectPath):
        return PurePosixPath(str(path)).relative_to(str(root)).as_posix()
    return path.relative_to(root).as_posix()


def place_of(given: str | PathLike[str] | ObjectPath) -> StorePath:
    """What the user wrote, as a path of either kind; a ``file://`` URL is a folder.

    Raises:
        ConfigError: A URL without a bucket or a key, one of an unknown scheme, or one that went through ``pathlib``,
            which drops a slash; or the package for object storage is not installed.

    Example:
        >>> place_of("s3://bucket/cohort.zarr/").name
        'cohort.zarr'
    """
    if isinstance(given, ObjectPath):
        return given
    text = os.fspath(given)
    scheme, separator, rest = text.partition("://")
    if scheme == "file" and separator:
        from urllib.request import url2pathname

        return Path(url2pathname(rest))
    if not separator or "/" in scheme or "\\" in scheme:
        if re.match(rf"({'|'.join(_SCHEMES)}):[/\\][^/\\]", text):
            raise ConfigError(f"{text}: pathlib has dropped a slash of this URL; give it as text: 's3://bucket/name'")
        return Path(text)
    if scheme not in _SCHEMES:
        raise ConfigError(f"{text}: no object storage {scheme}://; expected one of {', '.join(_SCHEMES)}, or a folder")
    bucket, _, key = rest.partition("/")
    parts = [part for part in key.split("/") if part]
    if not (bucket and parts) or {".", ".."} & set(parts):
        raise ConfigError(f"{text}: expected {scheme}://BUCKET/NAME, a name in a bucket and no '..'")
    if not _installed():
        raise ConfigError(f"{text}: object storage needs a package more: pip install 'wsikit[cloud]'")
    return ObjectPath(f"{scheme}://{bucket}", "/".join(parts))


def is_url(given: object) -> bool:
    """Whether it names a place in a bucket."""
    return isinstance(given, ObjectPath) or (isinstance(given, str) and "://" in given)


def explain(error: Exception, path: ObjectPath, *, writing: bool = False) -> NoReturn:
    """Raise an error of obstore as one line that says what is wrong with which object.

    Raises:
        StoreAccessError: No such bucket, no permission, or no answer.
        FileNotFoundError: No such object.
    """
    from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, UnauthenticatedError

    if isinstance(error, (AlreadyExistsError, StoreAccessError)) or not isinstance(error, (BaseError, OSError)):
        raise error
    if "NoSuchBucket" in str(error) or (writing and isinstance(error, FileNotFoundError)):
        raise StoreAccessError(f"{path}: there is no bucket {path.bucket}; create it, or mend the name") from error
    if isinstance(error, FileNotFoundError):
        raise FileNotFoundError(f"{path}: no such object") from error
    if isinstance(error, (PermissionDeniedError, UnauthenticatedError)) or "403 Forbidden" in str(error):
        who = os.environ.get("AWS_ACCESS_KEY_ID", "")
        raise StoreAccessError(
            f"{path}: no permission{' to write' if writing else ''} with the credentials of the environment"
            + (f" (AWS_ACCESS_KEY_ID={who})" if path.bucket.startswith("s3") else "")
        ) from error
    first = str(error).partition("\n")[0].strip()
    raise StoreAccessError(
        f"{path}: the object storage does not answer as expected: {first}; what is done so far is kept: run the same "
        "command again when it does"
    ) from error


_DECIDES = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN")
"""What of the environment decides which server is asked, and as whom."""


@lru_cache(maxsize=16)
def _connect(bucket: str, *environment: str) -> Any:
    from obstore.store import from_url

    if bucket.startswith("memory:"):
        return from_url("memory:///")
    options: dict[str, Any] = {}
    endpoint = environment[1] or environment[0]
    if bucket.startswith("s3") and endpoint:
        options = {"endpoint": endpoint, "client_options": {"allow_http": endpoint.startswith("http://")}}
    return from_url(
        bucket, retry_config={"max_retries": RETRIES, "retry_timeout": timedelta(seconds=RETRY_S)}, **options
    )


def _installed() -> bool:
    from importlib.util import find_spec

    return find_spec("obstore") is not None
