"""One run at a time on a store, or in a folder of results: a lease with an owner and a heartbeat.

Leases are numbered files, or objects of a bucket. The holder of the highest number has the store. Who finds that lease
expired creates the next number with "create only if absent", which one contender alone can win; a
holder that was only asleep finds the higher number at its next heartbeat and stops. No file locks
are used: network file systems do not keep them.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from wsikit.errors import LockedError, StoreLockedError
from wsikit.store.format import Layout
from wsikit.store.objects import create_only, rename, renew
from wsikit.store.places import StorePath

HEARTBEAT_S = 5.0
EXPIRES_S = 60.0
_RELEASED = ".released"


@dataclass(frozen=True)
class Kind:
    """What a lease is on.

    Attributes:
        word: For it.
        advice: To whom it is refused.
        error: What is raised.
    """

    word: str
    advice: str
    error: type[LockedError]


STORE = Kind("store", "wait for it (--wait), or stop it first", StoreLockedError)
RESULTS = Kind("folder", "let it end or stop it first, or write into another folder (--out)", LockedError)


class Lease:
    """The right to write to a store, taken on entering the ``with`` and given back on leaving it.

    Args:
        root: The store's folder, or one of results.
        kind: Which of these it is.
        heartbeat_s: Seconds between signs of life.
        expires_s: A lease without a sign of life for this long may be taken over.
        wait: If another run is alive, wait for it to end instead of raising.
        say: Called with a line of text when there is something to wait for.

    Attributes:
        lost: Whether another run has taken the store over.

    Raises:
        StoreLockedError: Another run is alive on this store.
        LockedError: Another process is alive in this folder of results.
    """

    def __init__(
        self,
        root: StorePath,
        *,
        kind: Kind = STORE,
        heartbeat_s: float = HEARTBEAT_S,
        expires_s: float = EXPIRES_S,
        wait: bool = False,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._folder, self._kind, self._name = Layout(root).leases, kind, f"{kind.word} {root}"
        self._heartbeat_s, self._expires_s, self._wait, self._say = heartbeat_s, expires_s, wait, say
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._path: StorePath | None = None
        self.lost = False

    def __enter__(self) -> Lease:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._path = self._take()
        self._thread = threading.Thread(target=self._beat, name="wsikit-lease", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if self._path is not None and not self.lost:
            # On a full or unplugged disk the lease cannot be given back; it then expires by itself.
            with contextlib.suppress(OSError):
                rename(self._path, self._path.with_suffix(_RELEASED))

    def check(self) -> None:
        """Raise the error of the kind if another run has taken the store over meanwhile."""
        if self.lost:
            raise self._kind.error(
                f"{self._name}: this run gave no sign of life for {self._expires_s:.0f} s and another has taken "
                f"the {self._kind.word} over; nothing is lost: let that one end, then run the same command again"
            )

    def _take(self) -> StorePath:
        seen: dict[StorePath, int] = {}
        told = False
        while True:
            current = self.current()
            if current is None or current.suffix == _RELEASED or self.expired(current):
                taken = self._create(int(current.stem) + 1 if current is not None else 1)
                if taken is not None:
                    return taken
                continue  # another contender was faster: look again
            beat = _mtime_ns(current)
            alive = seen.setdefault(current, beat) != beat
            if alive and not self._wait:
                raise self._kind.error(f"{self._name}: in use by {_describe(current)}; {self._kind.advice}")
            if not told:
                self._say(f"{self._name} is held by {_describe(current)}; looking whether it is alive ...")
                told = True
            time.sleep(min(1.0, self._heartbeat_s / 4))

    def current(self) -> StorePath | None:
        """The lease with the highest number, held or given back: numbers are never used twice."""
        numbered = [p for p in self._folder.iterdir() if p.stem.isdigit()]
        # While a bucket's lease is given back it has both names: then it is given back.
        return max(numbered, key=lambda p: (int(p.stem), p.suffix), default=None)

    def _create(self, number: int) -> StorePath | None:
        path = self._folder / f"{number:08d}"
        owner = {"host": platform.node(), "pid": os.getpid(), "started": _started(os.getpid()), "user": _user()}
        owner["pids"] = _pid_namespace()
        owner["since"] = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        if not create_only(path, json.dumps(owner).encode()):
            return None
        if self.current() != path:  # the number was taken, used and given back since we looked
            path.unlink(missing_ok=True)
            return None
        for other in self._folder.iterdir():  # those it took over from
            if other.stem.isdigit() and int(other.stem) < number:
                other.unlink(missing_ok=True)
        return path

    def expired(self, path: StorePath) -> bool:
        """Whether a lease's holder is surely dead (of this machine) or silent for too long (of another)."""
        owner = _owner(path)
        here = owner.get("host") == platform.node() and owner.get("pids", _pid_namespace()) == _pid_namespace()
        if here and "pid" in owner and _started(owner["pid"]) != owner.get("started"):
            return True  # it ran on this machine, and is not running any more
        return self._now_ns() - _mtime_ns(path) > self._expires_s * 1e9

    def _now_ns(self) -> int:
        """The time of the file system's clock, which may differ from this machine's."""
        probe = self._folder / f"clock-{uuid.uuid4().hex}"
        try:
            probe.write_bytes(b"")
        except OSError:  # somebody who may only look at the store
            return time.time_ns()
        try:
            return _mtime_ns(probe)
        finally:
            probe.unlink(missing_ok=True)

    def _beat(self) -> None:
        assert self._path is not None
        while not self._stop.wait(self._heartbeat_s):
            with contextlib.suppress(OSError):  # an unplugged disk may come back; the next beat tells
                current = self.current()
                if current != self._path:
                    self.lost = True
                    return
                renew(self._path)


def _mtime_ns(path: StorePath) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0  # given back a moment ago


def _owner(path: StorePath) -> dict[str, Any]:
    try:
        owner = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError):
        return {}  # just being written, or given back
    return owner if isinstance(owner, dict) else {}


def _describe(path: StorePath) -> str:
    owner = _owner(path)
    since = f" since {owner['since']}" if "since" in owner else ""  # earlier versions did not write it
    return f"process {owner.get('pid', '?')} of {owner.get('user', '?')} on {owner.get('host', '?')}{since}"


def _started(pid: int) -> float | None:
    """When a process of this machine began, or None if it does not run."""
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else round(process.create_time(), 2)
    except psutil.Error:
        return None


def _pid_namespace() -> str:
    """Among which processes a pid counts: a container of the same host name may have others. Empty if unknown."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # no name in a container
        return "unknown"


def holder(root: StorePath) -> str:
    """Who holds a store now, in words, or an empty string."""
    lease = Lease(root)
    try:
        current = lease.current()
        if current is None or current.suffix == _RELEASED or lease.expired(current):
            return ""
    except OSError:
        return ""  # no lease was ever taken
    return _describe(current)
