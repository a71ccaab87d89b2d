"""Errors that name the thing, what was found, what was expected, and the next step.

Each one also subclasses the builtin that a caller would catch anyway, and carries a
``state``: the word that stands in a run's results table for a slide that failed so.
"""

from __future__ import annotations

from typing import ClassVar


class WsikitError(Exception):
    """The base of every error that wsikit raises on purpose."""

    state: ClassVar[str] = "failed"


class UnknownNameError(WsikitError, KeyError):
    """A registry, store or table has no entry of that name."""

    def __str__(self) -> str:  # KeyError would show the message in quotes
        return str(self.args[0])


class ConfigError(WsikitError, ValueError):
    """A setting, a manifest row or an argument that cannot be used as given."""

    state = "bad-config"


class SlideOpenError(WsikitError, OSError):
    """No reader opens the file; the message has every reader's reason."""

    state = "unreadable"


class TruncatedSlideError(SlideOpenError):
    """The file ends before its contents do: an interrupted copy."""

    state = "truncated"


class TileReadError(WsikitError, OSError):
    """The decoder failed on a region of a slide."""

    state = "unreadable"


class MissingMppError(WsikitError, ValueError):
    """The file records no usable micrometres per pixel, and none were given."""

    state = "no-mpp"


class UnequalMppError(WsikitError, ValueError):
    """Micrometres per pixel differ between x and y by more than 1 %."""

    state = "unequal-mpp"


class SceneError(WsikitError, ValueError):
    """The file holds several scenes or focal planes and none was chosen, or an unknown one."""

    state = "choose-scene"


class NotBrightfieldError(WsikitError, ValueError):
    """The pixels are not a bright-field scan (fluorescence, single channel, 16 bit)."""

    state = "not-brightfield"


class UpsamplingError(WsikitError, ValueError):
    """The slide is coarser than the requested resolution."""

    state = "too-coarse"


class NoTissueError(WsikitError, ValueError):
    """No tile of the slide holds enough tissue."""

    state = "no-tissue"


class ChangedError(WsikitError, ValueError):
    """A slide or a setting is not the one that the store was begun with."""

    state = "changed"


class StoreError(WsikitError, ValueError):
    """The path is not a wsikit store, or the store is damaged."""

    state = "store-error"


class StoreAccessError(WsikitError, OSError):
    """A store in a bucket cannot be reached: no such bucket, no permission, or the server does not answer."""

    state = "store-error"


class LockedError(WsikitError, RuntimeError):
    """Another process writes into the folder."""

    state = "locked"


class StoreLockedError(LockedError):
    """Another run holds the store."""
