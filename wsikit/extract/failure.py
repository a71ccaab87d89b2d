"""Failures of one slide, as values: they go into the table, and the run goes on."""

from __future__ import annotations

import contextlib
import errno
import traceback
from collections.abc import Iterator
from dataclasses import dataclass

from wsikit.errors import ConfigError, SlideOpenError, StoreAccessError, WsikitError
from wsikit.extract.inputs import SlideEntry
from wsikit.store.format import Layout
from wsikit.store.places import ObjectPath, StorePath


class StoreWriteError(WsikitError, OSError):
    """The store cannot be written: full disk, no permission, unplugged mount, server gone. It ends the run."""

    state = "store-error"


class MixedDevicesError(ConfigError):
    """Features of one key by several kinds of device, without leave or in disagreement. It ends the run."""


@dataclass(frozen=True)
class Failure:
    """Why a slide is not done.

    Attributes:
        state: One word, as it stands in the results table.
        reason: What is wrong, and what to do.
        traceback: For errors that no check foresaw.
        fatal: Whether no other slide can be done either.
    """

    state: str
    reason: str
    traceback: str = ""
    fatal: bool = False


def failure_of(error: Exception, entry: SlideEntry) -> Failure:
    """An error as a row of the table; the slide goes by its id there, because paths may name patients.

    Of a slide with a pseudonym no message is kept at all, which may quote the file: only what kind of error it
    was, and where in the code.
    """
    fatal = isinstance(error, (StoreWriteError, StoreAccessError, MixedDevicesError))
    if entry.secret is not None and not fatal:
        kind = (type(error).__doc__ or "").strip().partition("\n")[0] if isinstance(error, WsikitError) else ""
        state = error.state if isinstance(error, WsikitError) else "failed"
        trace = "" if isinstance(error, WsikitError) else "".join(traceback.format_tb(error.__traceback__))
        return Failure(
            state,
            f"slide {entry.slide_id}: {type(error).__name__}: {kind or 'not foreseen'} (Its message is left out with "
            "the slide's name; 'wsikit doctor' on the file itself shows it.)",
            trace,
        )
    if isinstance(error, WsikitError):
        state, reason, trace = error.state, str(error), ""
    elif isinstance(error, OSError) and not entry.path.exists():
        state, trace = SlideOpenError.state, ""
        reason = f"slide {entry.slide_id}: no such file any more: it was moved, or its disk is gone ({error})"
    else:
        state, reason = "failed", f"{type(error).__name__}: {error}"
        trace = "".join(traceback.format_exception(error))
    reason, trace = (text.replace(str(entry.path), entry.slide_id) for text in (reason, trace))
    return Failure(state, reason, trace, fatal=fatal)


def gone(root: StorePath) -> StoreWriteError | None:
    """The error of a begun store that is not there any more, or None. Writing on would fill its mount point."""
    if isinstance(root, ObjectPath) or (Layout(root).private / "zarr.json").exists():
        return None
    return StoreWriteError(
        f"store {root}: it is not there any more: a disk that was unplugged, or a folder that was moved; bring it "
        "back, then run the same command again"
    )


@contextlib.contextmanager
def writing(root: StorePath) -> Iterator[None]:
    """Turn the system's refusal to write to the store into an error that ends the run, not one slide."""
    if (error := gone(root)) is not None:
        raise error
    try:
        yield
    except WsikitError:
        raise
    except OSError as refusal:
        what = {
            errno.ENOSPC: "the disk is full",
            getattr(errno, "EDQUOT", -1): "the disk quota is used up",  # Windows has no such number
            errno.EROFS: "the file system is read-only",
            errno.EACCES: "no permission",
        }.get(refusal.errno or 0, str(refusal))
        raise StoreWriteError(
            f"store {root}: cannot be written: {what}; what is done so far is kept: mend it, then run the same "
            "command again"
        ) from refusal
