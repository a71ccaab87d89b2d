"""The slides that a worker reads next, copied to its node's own disk while it encodes the ones before.

Dask tells a worker's plugin of every task that it is given, before the task begins: from that follows which slides are
next here, whatever the other nodes do. The store never learns of it: reader, fingerprint and size are the slide's own,
and a copy that cannot be read is passed over for the slide itself.
"""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import os
import platform
import re
import shutil
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from wsikit.errors import ConfigError, WsikitError
from wsikit.extract.inputs import SlideEntry
from wsikit.extract.scratch import Claim, Scratch
from wsikit.provenance import file_bytes, files_of, fingerprint
from wsikit.slides.base import slide_id_of

_WHOLE = (".svs", ".tif", ".tiff", ".ndpi", ".scn", ".mrxs", ".bif", ".svslide", ".qptiff", ".czi")
"""Endings of slides whose files are known: one, or for MIRAX those in the folder beside. DICOM and VMS refer to
neighbours by name."""

_OVER = {"memory", "error", "released", "forgotten", "cancelled"}
_BLOCK = 8 << 20


class StageError(WsikitError, OSError):
    """The copy of a slide on a node's own disk differs from the slide, twice."""

    state = "bad-copy"


@dataclass(frozen=True)
class StageSettings:
    """Where slides are copied to before they are read.

    Args:
        directory: Folder on a disk of each node; environment variables in it are those of the worker.
        gigabytes: What the copies on one node may take together, in 10^9 bytes.

    Raises:
        ConfigError: Not a positive number of gigabytes.
    """

    directory: str
    gigabytes: float

    def __post_init__(self) -> None:
        if not self.gigabytes > 0:
            raise ConfigError(f"stage_gb={self.gigabytes}; expected gigabytes that copies may take on a node, above 0")

    def folder(self) -> Path:
        """The folder of this user and node below ``directory``.

        Raises:
            ConfigError: A variable that this machine's environment does not have, or no absolute path.
        """
        text = os.path.expanduser(os.path.expandvars(self.directory))
        if "$" in text or not os.path.isabs(text):
            raise ConfigError(
                f"--stage {self.directory!r} is {text!r} on {platform.node()}; expected an absolute path with "
                "environment variables that exist there"
            )
        try:
            user = getpass.getuser()
        except (OSError, KeyError, ImportError):  # no name in a container
            user = "user"
        return Path(text) / f"wsikit-{platform.node()}-{user}"


def stage_settings(directory: str | os.PathLike[str] | None, gigabytes: float | None) -> StageSettings | None:
    """What was asked for, or None; a relative path is one from here.

    Raises:
        ConfigError: One without the other.
    """
    if directory is None and gigabytes is None:
        return None
    if directory is None or gigabytes is None:
        raise ConfigError("--stage and --stage-gb go together: a folder on each node's own disk, and its gigabytes")
    text = os.fspath(directory)
    return StageSettings(text if text.startswith(("$", "~")) else os.path.abspath(text), gigabytes)


def task_key(store: str, slide_id: str, shard: int) -> str:
    """Name of a task that encodes a shard; :meth:`Stage.follow` reads the slide from it."""
    return f"encode_shard-{_short(store)}/{slide_id}/{shard}/{uuid.uuid4().hex}"


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class Stage:
    """Copies for one worker process.

    Args:
        settings: Where, and how much.
        store: The run's, whose tasks are followed.
        look_up: Slide id -> the slide, and the fingerprint that its copy must have.
        finished: Slide id -> whether the store has all of it.
        say: Called with a word for the kind of message, and the message.

    Raises:
        ConfigError: The folder cannot be named on this machine.
    """

    def __init__(
        self,
        settings: StageSettings,
        store: str,
        *,
        look_up: Callable[[str], tuple[SlideEntry, str]],
        finished: Callable[[str], bool],
        say: Callable[[str, str], None],
    ) -> None:
        self._settings, self._prefix = settings, f"encode_shard-{_short(store)}/"
        self._look_up, self._finished, self._say = look_up, finished, say
        self._scratch = Scratch(settings.folder(), round(settings.gigabytes * 1e9))
        self._lock, self._stopped, self._changed = threading.Lock(), threading.Event(), threading.Event()
        self._wanted: dict[str, set[object]] = {}  # slide -> tasks that wait for it or are at it
        self._copies: dict[str, Path] = {}  # slide -> copy that this process reads
        self._plans: dict[str, _Plan] = {}
        self._refused: dict[str, StageError | None] = {}  # slide -> why it is not staged; None: read the slide itself
        self._thread = threading.Thread(target=self._copy_ahead, name="wsikit-stage", daemon=True)
        try:
            self._scratch.enter()
        except (OSError, sqlite3.Error) as error:
            self._stopped.set()
            self._trouble(error)
        else:
            self._thread.start()

    def follow(self, key: object, state: str) -> None:
        """Told of every change of a task of this worker; quick, as Dask waits for it."""
        if not isinstance(key, str) or not key.startswith(self._prefix):
            return
        slide_id = key.split("/")[1]
        (self._unwant if state in _OVER else self._want)(slide_id, key)

    @contextlib.contextmanager
    def reading(self, slide_id: str) -> Iterator[Path | None]:
        """The copy of a slide, which stays for the block; or None: read the slide itself.

        Raises:
            StageError: It was copied twice and differs.
        """
        token = object()
        self._want(slide_id, token)
        try:
            yield self._fetch(slide_id, wait=True)
        finally:
            self._unwant(slide_id, token)

    def close(self) -> None:
        """Nothing is copied any more, and what no living process reads is removed."""
        self._stopped.set()
        self._changed.set()
        if self._thread.is_alive():
            self._thread.join(timeout=30)
            with contextlib.suppress(OSError, sqlite3.Error):  # the disk is gone, or full: the next run cleans up
                self._scratch.leave()

    def _want(self, slide_id: str, task: object) -> None:
        with self._lock:
            self._wanted.setdefault(slide_id, set()).add(task)
        self._changed.set()

    def _unwant(self, slide_id: str, task: object) -> None:
        with self._lock:
            tasks = self._wanted.get(slide_id, set())
            tasks.discard(task)
            if not tasks:
                self._wanted.pop(slide_id, None)
        self._changed.set()

    def _copy_ahead(self) -> None:
        """The thread: let go of slides that nobody wants, copy the next one."""
        while not self._stopped.is_set():
            self._changed.wait(1.0)  # room may come by what another process removes
            self._changed.clear()
            with self._lock:
                idle = [s for s in self._copies if s not in self._wanted]
                ahead = [s for s in self._wanted if s not in self._copies and s not in self._refused]
            for slide_id in idle:
                self._let_go(slide_id)
            for slide_id in ahead:
                with contextlib.suppress(Exception):  # said, or met again by the task that needs the slide
                    if self._fetch(slide_id, wait=False) is not None:
                        self._changed.set()
                        break

    def _let_go(self, slide_id: str) -> None:
        try:
            done = self._finished(slide_id)
        except (OSError, WsikitError):  # removed from the store, or the store is away
            done = False
        with self._lock, contextlib.suppress(OSError, sqlite3.Error):
            if slide_id not in self._wanted:
                self._scratch.release(self._copies.pop(slide_id).parent.name, remove=done)

    def _fetch(self, slide_id: str, *, wait: bool) -> Path | None:
        """The copy, made if need be, or None where there is none (or none yet, unless ``wait``)."""
        while not self._stopped.is_set():
            with self._lock:
                copy = self._copies.get(slide_id)
                if slide_id in self._refused and (error := self._refused[slide_id]) is not None:
                    raise error
                if copy is not None or slide_id in self._refused:
                    return copy
            try:
                claim = self._try(slide_id, wait)
            except (OSError, sqlite3.Error) as error:
                self._refused[slide_id] = error if isinstance(error, StageError) else None
                if not isinstance(error, StageError):
                    self._trouble(error)
                continue
            if claim is Claim.FULL or (claim is Claim.WAIT and not wait):
                return None
            if claim is Claim.WAIT:
                time.sleep(0.1)
        return None

    def _try(self, slide_id: str, wait: bool) -> Claim:
        """One attempt at a copy; it is among ``_copies`` where it succeeded."""
        plan = self._plans.get(slide_id) or self._plan(slide_id)
        if plan is None:
            self._refused[slide_id] = None
            return Claim.FULL
        name = plan.copy.parent.name
        claim = self._scratch.claim(name, plan.size)
        if claim is Claim.COPY:
            try:
                self._copy(plan)
                self._scratch.finished(name)
            except BaseException:
                with contextlib.suppress(OSError, sqlite3.Error):
                    self._scratch.discard(name)
                raise
        elif claim is Claim.WHOLE and plan.found() != plan.expected:  # damaged since it was made
            self._scratch.discard(name)
            return Claim.WAIT
        elif claim is Claim.FULL and wait:
            self._say(
                "full",
                f"slide {slide_id} ({plan.size / 1e9:.3g} GB) does not fit into --stage beside what is in use there "
                f"(--stage-gb {self._settings.gigabytes:g}): read from where it is, as are others like it",
            )
        if claim in (Claim.COPY, Claim.WHOLE):
            with self._lock:
                self._copies[slide_id] = plan.copy
        return claim

    def _plan(self, slide_id: str) -> _Plan | None:
        entry, expected = self._look_up(slide_id)
        if not _known_files(entry.path):
            self._say("format", f"slide {slide_id}: it may have files that a copy would lack: read from where it is")
            return None
        ending = entry.path.name.removeprefix(slide_id_of(entry.path))  # some readers go by it
        name = slide_id + ending
        copy = self._scratch.folder / _short(f"{expected}/{name}") / name
        plan = self._plans[slide_id] = _Plan(entry, copy, file_bytes(entry.path), expected)
        return plan

    def _copy(self, plan: _Plan) -> None:
        for _ in range(2):
            shutil.rmtree(plan.copy.parent, ignore_errors=True)
            copy_slide(plan.entry.path, plan.copy, self._stopped)
            found = plan.found()
            if found == plan.expected:
                return
        raise StageError(
            f"slide {plan.entry.slide_id}: its copy on {platform.node()} has fingerprint {found[:12]}, expected "
            f"{plan.expected[:12]}, twice: the slide has changed since it was planned, or a disk or the network "
            "damages files; without --stage it is read from where it is"
        )

    def _trouble(self, error: Exception) -> None:
        if not isinstance(error, InterruptedError):
            what = getattr(error, "strerror", None) or type(error).__name__  # no path: it may name a patient
            self._say("disk", f"--stage on {platform.node()}: {what}: slides are read from where they are")


@dataclass(frozen=True)
class _Plan:
    """A slide to copy, where to, its bytes, and the fingerprint that the copy must have."""

    entry: SlideEntry
    copy: Path
    size: int
    expected: str

    def found(self) -> str:
        """Fingerprint of the copy, or nothing where it cannot be read."""
        try:
            return self.entry.keyed(fingerprint(self.copy))
        except OSError:
            return ""


def _known_files(path: Path) -> bool:
    """Whether a copy of :func:`wsikit.provenance.files_of` a slide is all of the slide."""
    if not path.name.lower().endswith(_WHOLE):
        return False
    if not path.name.lower().endswith((".tif", ".tiff")):
        return True
    import tifffile

    with tifffile.TiffFile(path) as tif:
        text = tif.pages.first.description if tif.is_ome else ""
    return "BinaryOnly" not in text and len(set(re.findall(r'FileName="([^"]*)"', text))) < 2


def copy_slide(source: Path, target: Path, stopped: threading.Event) -> None:
    """Copy a slide's files to a folder that does not exist, under another name.

    Args:
        source: The slide.
        target: Its copy; of MIRAX the folder beside it is renamed with it.
        stopped: Ends the copy where it is.

    Raises:
        InterruptedError: It was stopped.
        OSError: A file cannot be read, or not written: the disk is full.
    """
    for file in files_of(source):
        copy = target if file == source else target.with_suffix("") / file.name
        copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        buffer = memoryview(bytearray(_BLOCK))
        with file.open("rb", buffering=0) as read, copy.open("wb", buffering=0) as write:
            while count := read.readinto(buffer):
                if stopped.is_set():
                    raise InterruptedError("the run has ended")
                block = buffer[:count]
                while block:  # an unbuffered write may take a part only
                    block = block[write.write(block) :]
