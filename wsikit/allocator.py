"""How the C library hands out memory: keep what is freed, for it is needed again in a moment."""

from __future__ import annotations

import ctypes
import os

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # of <malloc.h>
_MOST = (1 << 31) - 1  # an int; a block of 2 GiB or more is still given back


def keep_freed_memory() -> bool:
    """Let glibc keep freed memory in this process, rather than fetch it anew from the system for every large array.

    Each forward pass of a network frees and asks again for the same tens of megabytes. By default, and more so under
    Dask, whose nannies set ``MALLOC_TRIM_THRESHOLD_=65536``, these go back to the system in between, and every page
    of them is zeroed and faulted in again: a ViT-S takes 1.2, and under Dask 1.4 times the CPU time. The process holds
    more in turn, 0.74 against Dask's 0.65 GB, and gives nothing back before its end (``benchmarks/allocator.py``).

    Threads that start afterwards share one heap: one of their own, of 64 MB at most, keeps nothing larger. (Threads
    that started before keep theirs, and may lend it: ``MALLOC_ARENA_MAX=1`` in the environment is heard in time.)

    Returns:
        Whether it could be set: False without glibc.
    """
    libc = _glibc()
    settings = ((_MMAP_THRESHOLD, _MOST), (_TRIM_THRESHOLD, _MOST), (_ARENA_MAX, 1))
    return libc is not None and all(libc.mallopt(which, value) for which, value in settings)


def give_back_freed_memory() -> None:
    """Back to glibc's defaults, and what is free to the system; nothing without glibc."""
    libc = _glibc()
    if libc is not None:
        libc.mallopt(_MMAP_THRESHOLD, 128 << 10)
        libc.mallopt(_TRIM_THRESHOLD, 128 << 10)
        libc.mallopt(_ARENA_MAX, 8 * (os.cpu_count() or 1))
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    try:
        libc = ctypes.CDLL(None)
    except (OSError, TypeError):  # Windows has no such handle
        return None
    return libc if hasattr(libc, "mallopt") else None  # macOS and musl have none
