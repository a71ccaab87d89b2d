"""How the C library hands out memory: keep what is freed, for it is needed again in a moment."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of <malloc.h>
_MOST = (1 << 31) - 1  # an int; a block of 2 GiB or more is still given back


def keep_freed_memory() -> bool:
    """Let glibc keep freed memory in this process, rather than fetch it anew from the system for every large array.

    Each forward pass of a network frees and asks again for the same tens of megabytes. By default, and more so under
    Dask, whose nannies set ``MALLOC_TRIM_THRESHOLD_=65536``, these go back to the system in between, and every page
    of them is zeroed and faulted in again: a fifth of the CPU time of a ViT-S. The process holds more in turn, 0.9
    against 0.7 GB for a ViT-S, and gives nothing back before its end.

    Returns:
        Whether it could be set: False without glibc.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has none
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _MOST)) and bool(mallopt(_TRIM_THRESHOLD, _MOST))


def give_back_freed_memory() -> None:
    """Back to glibc's defaults, and what is free to the system; nothing without glibc."""
    if sys.platform != "linux":
        return
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_THRESHOLD, 128 << 10)
        libc.mallopt(_TRIM_THRESHOLD, 128 << 10)
        libc.malloc_trim(0)
    except (OSError, AttributeError):
        return
