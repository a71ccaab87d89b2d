"""A log whose errors do not end the training: a server may be away, the model is what counts."""

from __future__ import annotations

import time
from collections.abc import Callable

from wsikit.training.epoch import Epoch, EpochLog


class LastingLog:
    """Gives epochs to another log, and keeps those that it does not take.

    The first error is said; the epochs that are owed are tried again with a later one, in order, and a last time at
    the end. Between two tries ``again_s`` have to pass, as a server that does not answer costs time.

    Args:
        log: It has begun.
        name: As a user knows it.
        say: Called with a line of text at the first of several errors, when they are over, and for what is missing
            in the end.
        again_s: Seconds after a failure without another try.
    """

    def __init__(self, log: EpochLog, name: str, *, say: Callable[[str], None], again_s: float = 60.0) -> None:
        self._log, self._name, self._say, self._again_s = log, name, say, again_s
        self._owed: list[Epoch] = []
        self._failed_at: float | None = None

    def __call__(self, epoch: Epoch) -> None:
        """An epoch has ended."""
        self._owed.append(epoch)
        if self._failed_at is None or time.monotonic() - self._failed_at >= self._again_s:
            self._give()

    def close(self, *, failed: bool = False) -> None:
        """No epoch will follow."""
        if self._owed:
            self._give()
        if self._owed:
            numbers = ", ".join(str(epoch.number) for epoch in self._owed)
            self._say(f"{self._name} has not got the epochs {numbers}; history.csv has all")
        try:
            self._log.close(failed=failed)
        except Exception as e:  # as in _give
            self._say(f"{self._name}: the run is not closed there: {_short(e)}")

    def _give(self) -> None:
        """Anything may go wrong in somebody else's client or server, and nothing of it is worth a training."""
        try:
            while self._owed:
                self._log(self._owed[0])
                del self._owed[0]
        except Exception as e:  # it is said, and tried again
            if self._failed_at is None:
                self._say(f"{self._name} did not take epoch {self._owed[0].number}, training goes on: {_short(e)}")
            self._failed_at = time.monotonic()
            return
        if self._failed_at is not None:
            self._say(f"{self._name} has all epochs again")
        self._failed_at = None


def _short(error: Exception) -> str:
    """In one line: some hold a whole page of HTML."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
