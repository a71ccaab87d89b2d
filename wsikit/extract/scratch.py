"""Copies of slides on a node's own disk, shared by all processes of the node, within a budget.

What is there, who copies it and who reads it stands in a ledger, an SQLite file beside the copies: one
process at a time changes it, and a process that is killed leaves it whole. Processes are known by
number and start time, so that what belongs to a dead one is seen and taken over.
"""

from __future__ import annotations

import contextlib
import enum
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

_LEDGER = "ledger.sqlite"
_TABLES = (
    "CREATE TABLE IF NOT EXISTS copies (name TEXT PRIMARY KEY, bytes INTEGER, copier TEXT, used REAL)",
    "CREATE TABLE IF NOT EXISTS readers (name TEXT, process TEXT, UNIQUE (name, process))",
    "CREATE TABLE IF NOT EXISTS processes (process TEXT PRIMARY KEY)",
)
_SAME_START_S = 2.0  # start times are computed from the machine's clock, which may be set meanwhile


class Claim(enum.Enum):
    """What a process that wants a copy is told."""

    WHOLE = "it is there, and this process is one of its readers now"
    COPY = "it is this process's to make, and its room is reserved"
    WAIT = "another process, or thread, is making it"
    FULL = "there is no room for it beside those in use"


class Scratch:
    """The copies of one node.

    Args:
        folder: Where they lie: a folder of its own, private to the user.
        budget_bytes: What all copies together may take, those of other runs included.
    """

    def __init__(self, folder: Path, budget_bytes: int) -> None:
        self.folder, self._budget = folder, budget_bytes
        self._me = f"{os.getpid()} {psutil.Process().create_time():.2f}"

    def enter(self) -> None:
        """Take part, and remove what dead processes left unfinished.

        Raises:
            OSError: The folder cannot be created.
            sqlite3.Error: The ledger cannot be written.
        """
        for tries_left in range(9, -1, -1):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                with self._ledger() as db:
                    self._forget_dead(db)
                    known = {name for (name,) in db.execute("SELECT name FROM copies")}
                    for path in self.folder.iterdir():
                        if path.is_dir() and path.name not in known:
                            shutil.rmtree(path, ignore_errors=True)
                    db.execute("INSERT OR IGNORE INTO processes VALUES (?)", (self._me,))
                with self._ledger() as db:  # unless the last one out has just removed the file that was written to
                    if db.execute("SELECT 1 FROM processes WHERE process = ?", (self._me,)).fetchone():
                        return
            except (sqlite3.OperationalError, FileNotFoundError):
                if not tries_left:
                    raise
            time.sleep(0.1)
        raise OSError(f"{self.folder}: the ledger vanishes again and again")

    def claim(self, name: str, size: int) -> Claim:
        """Ask for a copy of ``size`` bytes; least recently used ones that nobody reads make room for it."""
        with self._ledger() as db:
            self._forget_dead(db)
            row = db.execute("SELECT copier FROM copies WHERE name = ?", (name,)).fetchone()
            if row is not None and row[0] is not None:
                return Claim.WAIT
            if row is None:
                if not self._make_room(db, size):
                    return Claim.FULL
                db.execute("INSERT INTO copies VALUES (?, ?, ?, ?)", (name, size, self._me, time.time()))
            db.execute("UPDATE copies SET used = ? WHERE name = ?", (time.time(), name))
            db.execute("INSERT OR IGNORE INTO readers VALUES (?, ?)", (name, self._me))
            return Claim.COPY if row is None else Claim.WHOLE

    def finished(self, name: str) -> None:
        """A copy that was this process's to make is whole."""
        with self._ledger() as db:
            db.execute("UPDATE copies SET copier = NULL, used = ? WHERE name = ?", (time.time(), name))

    def discard(self, name: str) -> None:
        """A copy is no good: it goes, whoever reads it."""
        with self._ledger() as db:
            self._remove(db, name)

    def release(self, name: str, *, remove: bool) -> None:
        """This process reads a copy no more; with ``remove`` it goes, unless others read it."""
        with self._ledger() as db:
            db.execute("DELETE FROM readers WHERE name = ? AND process = ?", (name, self._me))
            db.execute("UPDATE copies SET used = ? WHERE name = ?", (time.time(), name))
            if remove and name in {idle for idle, _ in self._idle(db)}:
                self._remove(db, name)

    def leave(self) -> None:
        """Take part no more: copies that nobody reads go, and the last one out removes the folder."""
        with self._ledger() as db:
            for table in ("readers", "processes"):
                db.execute(f"DELETE FROM {table} WHERE process = ?", (self._me,))
            self._forget_dead(db)
            for (name,) in db.execute("SELECT name FROM copies WHERE copier = ?", (self._me,)).fetchall():
                self._remove(db, name)
            for name, _ in self._idle(db):
                self._remove(db, name)
        with self._ledger() as db:
            if db.execute("SELECT 1 FROM processes").fetchone() is None:
                shutil.rmtree(self.folder, ignore_errors=True)  # Windows keeps the open ledger, for the next run

    @contextlib.contextmanager
    def _ledger(self) -> Iterator[sqlite3.Connection]:
        """The ledger, for this process and thread alone until the block ends."""
        db = sqlite3.connect(self.folder / _LEDGER, timeout=60, isolation_level=None)
        with contextlib.closing(db):
            db.execute("PRAGMA synchronous = OFF")  # it need not outlive a power cut: neither do the copies
            db.execute("BEGIN IMMEDIATE")
            try:
                for table in _TABLES:
                    db.execute(table)
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")

    def _make_room(self, db: sqlite3.Connection, size: int) -> bool:
        (used,) = db.execute("SELECT COALESCE(SUM(bytes), 0) FROM copies").fetchone()
        idle = self._idle(db)
        if used - sum(freed for _, freed in idle) + size > self._budget:
            return False  # not even without all of them: they stay
        for name, freed in idle:
            if used + size <= self._budget:
                break
            self._remove(db, name)
            used -= freed
        return True

    @staticmethod
    def _idle(db: sqlite3.Connection) -> list[tuple[str, int]]:
        """Whole copies that nobody reads, and their bytes, least recently used first."""
        return db.execute(
            "SELECT name, bytes FROM copies WHERE copier IS NULL AND name NOT IN (SELECT name FROM readers) "
            "ORDER BY used"
        ).fetchall()

    def _remove(self, db: sqlite3.Connection, name: str) -> None:
        shutil.rmtree(self.folder / name, ignore_errors=True)
        db.execute("DELETE FROM copies WHERE name = ?", (name,))
        db.execute("DELETE FROM readers WHERE name = ?", (name,))

    def _forget_dead(self, db: sqlite3.Connection) -> None:
        """Free what dead processes read, and remove what they were about to copy."""
        found = db.execute(
            "SELECT process FROM processes UNION SELECT process FROM readers "
            "UNION SELECT copier FROM copies WHERE copier IS NOT NULL"
        ).fetchall()
        for process in (process for (process,) in found if not _alive(process)):
            for (name,) in db.execute("SELECT name FROM copies WHERE copier = ?", (process,)).fetchall():
                self._remove(db, name)
            for table in ("readers", "processes"):
                db.execute(f"DELETE FROM {table} WHERE process = ?", (process,))


def _alive(process: str) -> bool:
    number, started = process.split()
    try:
        found = psutil.Process(int(number))
        same = abs(found.create_time() - float(started)) < _SAME_START_S
        return same and found.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
