"""Progress of a tuning: a bar in a terminal, a line for each trial in a log."""

from __future__ import annotations

from wsikit.cli._bar import Bar


class TrialProgress(Bar):
    """How many trials are done, what the last one came to, and how long it will take."""

    def __init__(self) -> None:
        super().__init__("state")
        self._task = self._bar.add_task("trials", total=None, state="")

    def trial(self, done: int, total: int, line: str) -> None:
        """A trial has ended."""
        self._bar.update(self._task, completed=done, total=total, state=line)
        if not self._console.is_terminal:
            self.say(f"{done} of {total}: {line}")
