"""Slides that a worker keeps open from one shard to the next: opening one costs as much as reading 200 tiles."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from wsikit.slides.slide import Slide


class OpenSlides:
    """A few open slides. Each is lent to one borrower at a time; whoever comes second gets another handle.

    Args:
        kept: How many stay open while nobody reads them; the one given back longest ago is closed first.
    """

    def __init__(self, kept: int = 2) -> None:
        self._idle: list[tuple[str, Slide]] = []
        self._kept, self._lock = kept, threading.Lock()

    @contextlib.contextmanager
    def borrow(self, slide_id: str, open_it: Callable[[], Slide]) -> Iterator[Slide]:
        """A slide that was kept, or is opened now. After an error it is closed: the next borrower begins anew."""
        slide = self._take(slide_id) or open_it()
        try:
            yield slide
        except BaseException:
            slide.close()
            raise
        with self._lock:
            self._idle.append((slide_id, slide))
            over = [self._idle.pop(0) for _ in range(len(self._idle) - self._kept)]
        for _, old in over:
            old.close()

    def _take(self, slide_id: str) -> Slide | None:
        with self._lock:
            for i, (name, slide) in enumerate(self._idle):
                if name == slide_id:
                    del self._idle[i]
                    return slide
        return None

    def close(self) -> None:
        """Close those that nobody reads."""
        with self._lock:
            idle, self._idle = self._idle, []
        for _, slide in idle:
            slide.close()
