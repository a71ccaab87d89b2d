"""A typed name -> builder table with a card for each entry, filled by decorators, read by users.

A new encoder, reader or segmenter is a new file in the registry's package and nothing else: the
table imports the files of that package when it is first asked, and joins what other installed
distributions offer under the same entry-point group. One of those that cannot be imported is named in the log and
wherever a name is not known.
"""

from __future__ import annotations

import difflib
import fnmatch
import importlib
import logging
import pkgutil
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, Protocol, TypeVar

from wsikit.errors import UnknownNameError

log = logging.getLogger(__name__)


class Named(Protocol):
    """Anything with a name: the least that a card has."""

    @property
    def name(self) -> str:
        """As users write it."""
        ...


CardT = TypeVar("CardT", bound=Named)


@dataclass(frozen=True)
class Entry(Generic[CardT]):
    """One registered thing: its card, and the callable that builds it."""

    card: CardT
    build: Callable[..., Any]


def nearest(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'uni2-h'?"``, or nothing where no known name is close."""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


class Registry(Generic[CardT]):
    """Names of one kind ("encoder", "reader"), each with a card and a builder.

    Args:
        kind: The word that error messages use.
        package: Its modules are imported on first use; each registers what it defines.
        group: Entry-point group through which other distributions add theirs.

    Example:
        >>> from wsikit.encoders import ENCODERS
        >>> "colour" in ENCODERS.names()
        True
    """

    def __init__(self, kind: str, *, package: str, group: str) -> None:
        self.kind, self._package, self._group = kind, package, group
        self._entries: dict[str, Entry[CardT]] = {}
        self._broken: list[str] = []  # what other distributions offer and cannot be imported
        self._lock = threading.RLock()  # workers ask from several threads at once
        self._loading = self._loaded = False

    def register(self, card: CardT) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Class or function decorator: enter the builder under ``card.name``."""

        def decorate(build: Callable[..., Any]) -> Callable[..., Any]:
            if card.name in self._entries:
                other = self._entries[card.name].build
                raise ValueError(
                    f"{self.kind} {card.name!r} is already registered by {other.__module__}; choose another name"
                )
            self._entries[card.name] = Entry(card, build)
            return build

        return decorate

    def _load(self) -> None:
        if self._loaded:
            return
        with self._lock:
            if self._loaded or self._loading:  # the latter: a module asks while it is being imported
                return
            self._loading = True
            try:
                package = importlib.import_module(self._package)
                for module in pkgutil.iter_modules(package.__path__):
                    importlib.import_module(f"{self._package}.{module.name}")
                for point in entry_points(group=self._group):
                    self._join(point)
                self._loaded = True
            finally:
                self._loading = False

    def _join(self, point: EntryPoint) -> None:
        """Import what another distribution offers; one that is broken does not take the others with it."""
        try:
            point.load()
        except Exception as error:
            owner = point.dist.name if point.dist is not None else "a distribution without a name"
            text = f"{point.name!r} of {owner} cannot be used: {type(error).__name__}: {error}"
            log.warning("%s %s", self.kind, text)
            self._broken.append(text)

    def names(self, pattern: str = "*") -> list[str]:
        """Registered names that match a shell pattern, sorted."""
        self._load()
        return sorted(fnmatch.filter(self._entries, pattern))

    def cards(self) -> list[CardT]:
        """The card of every entry, sorted by name."""
        return [self._entries[name].card for name in self.names()]

    def __getitem__(self, name: str) -> Entry[CardT]:
        self._load()
        try:
            return self._entries[name]
        except KeyError:
            raise UnknownNameError(
                f"no {self.kind} named {name!r}{nearest(name, self._entries)} "
                f"(known: {', '.join(sorted(self._entries))}{''.join('; ' + text for text in self._broken)})"
            ) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())
