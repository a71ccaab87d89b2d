"""A progress bar on standard error, and lines instead of it where there is no terminal."""

from __future__ import annotations

from types import TracebackType
from typing import TypeVar

BarT = TypeVar("BarT", bound="Bar")


class Bar:
    """A bar in a terminal; what it shows is up to those who make one of it.

    Args:
        field: Name of the words behind the count, a field of every task of the bar.
    """

    def __init__(self, field: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(f"{{task.fields[{field}]}}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )

    def __enter__(self: BarT) -> BarT:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def say(self, line: str) -> None:
        """Something to know."""
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)
