"""Work spread over fresh processes of this machine, with results in order."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context, parent_process
from typing import TypeVar

from wsikit.allocator import keep_freed_memory
from wsikit.errors import WsikitError

Job = TypeVar("Job")
Result = TypeVar("Result")


class WorkerDiedError(WsikitError, RuntimeError):
    """A worker process was killed, mostly for want of memory."""


def cores() -> int:
    """Cores that this process may use; where the system cannot say, all there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_processes(function: Callable[[Job], Result], jobs: Iterable[Job], processes: int) -> Iterator[Result]:
    """Results in the order of the jobs, from fresh processes (or this one, for 1).

    The processes are spawned (torch does not survive a fork) and end with the iteration. They do not
    import the calling script, so it needs no main guard; function and jobs have to come from modules.
    At most twice as many results as there are processes wait to be taken.

    Raises:
        WorkerDiedError: A process was killed.
    """
    if processes <= 1:
        yield from map(function, jobs)
        return
    left = iter(jobs)
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            with script_hidden():  # all processes start with the first job
                waiting.extend(pool.submit(function, job) for job in islice(left, 2 * processes))
            while waiting:
                result = waiting.popleft().result()
                waiting.extend(pool.submit(function, job) for job in islice(left, 1))
                yield result
        except BrokenProcessPool as e:
            raise WorkerDiedError(
                f"one of {processes} worker processes died (killed, or out of memory); use fewer of them"
            ) from e
        finally:
            for future in waiting:
                future.cancel()


def _one_thread() -> None:
    """Not a thread per core in each process, and no process that outlives the one that started it."""
    import cv2

    cv2.setNumThreads(1)
    keep_freed_memory()
    end_with_parent()


def end_with_parent() -> None:
    """Let this process end when the one that started it does, however that ended."""
    threading.Thread(target=_end_with_parent, name="wsikit-parent", daemon=True).start()


def _end_with_parent() -> None:
    """Where the parent is killed, its pool's processes would finish their jobs and then wait for others for ever."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextlib.contextmanager
def script_hidden() -> Iterator[None]:
    """Spawned processes import the file of ``__main__``; for the block it has none."""
    main = sys.modules["__main__"]
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    main.__spec__ = None
    if file is not None:
        del main.__file__
    try:
        yield
    finally:
        main.__spec__ = spec
        if file is not None:
            main.__file__ = file


def outlive_workers(
    function: Callable[[Job], Result], jobs: Iterable[Job], processes: int
) -> Iterator[tuple[Job, Result | None]]:
    """Each job with its result, as they come; None for a job that kills its process whenever it is tried.

    For work that may crash in the machine code of a decoder. The processes are those of
    :func:`in_processes`. One that dies takes jobs with it that had no part in it: all of these are tried
    once more after the others, each by itself.

    Args:
        function: Of a module, as are the jobs; what it raises is raised here.
        jobs: Taken as they are needed.
        processes: How many at once, at least 1.
    """
    suspects = []
    for job, result in _one_pass(function, jobs, processes, 2 * processes):
        if result is None:
            suspects.append(job)
        else:
            yield job, result[0]
    for job, result in _one_pass(function, suspects, 1, 1):
        yield job, None if result is None else result[0]


def _one_pass(
    function: Callable[[Job], Result], jobs: Iterable[Job], processes: int, window: int
) -> Iterator[tuple[Job, tuple[Result] | None]]:
    """Each job with its result, or None for all that were under way when a process died."""
    left = iter(jobs)
    following = list(islice(left, window))
    while following:
        pool = ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=_child)
        flying: dict[Future[Result], Job] = {}
        try:
            while following or flying:
                with script_hidden():
                    while following:
                        flying[pool.submit(function, following[-1])] = following[-1]
                        following.pop()  # not before: a broken pool refuses it
                for future in wait(flying, return_when=FIRST_COMPLETED).done:
                    result = future.result()
                    yield flying.pop(future), (result,)
                    following += islice(left, 1)
        except BrokenProcessPool:
            for future, job in flying.items():
                survived = future.done() and not future.cancelled() and future.exception() is None
                yield job, (future.result(),) if survived else None
            following += islice(left, max(0, window - len(following)))
        finally:
            pool.shutdown(cancel_futures=True)


def _child() -> None:
    """Ctrl-C is the parent's, who then ends the pool."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _one_thread()
