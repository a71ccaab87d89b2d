"""Progress of a tuning: a bar in a terminal, a line for each trial in a log."""

from __future__ import annotations

from types import TracebackType


class TrialProgress:
    """How many trials are done, what the last one came to, and how long it will take."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("trials"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("", total=None, state="")

    def __enter__(self) -> TrialProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def say(self, line: str) -> None:
        """Something to know."""
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def trial(self, done: int, total: int, line: str) -> None:
        """A trial has ended."""
        self._bar.update(self._task, completed=done, total=total, state=line)
        if not self._console.is_terminal:
            self.say(f"{done} of {total}: {line}")
