"""One function in several processes that train a model together; if one fails, none waits for it."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import wait
from typing import Any, TypeVar

from wsikit.processes import WorkerDiedError, end_with_parent, script_hidden

Result = TypeVar("Result")
Tell = Callable[[Any], None]

GRACE = 1.0
"""Seconds to find out which rank failed first: the others fail for want of it, and their errors name no cause."""


@dataclass
class _Rank:
    number: int
    process: Any
    reader: Any  # a Connection, on Windows a PipeConnection
    result: bytes | None = None
    error: _Failure | None = None
    ended: bool = False


@dataclass(frozen=True)
class _Failure:
    """An error of a rank, at a time that all processes of a machine share."""

    rank: int
    error: BaseException = field(compare=False)
    trace: str
    at: float


def in_ranks(function: Callable[[Tell], Result], count: int, *, told: Tell, threads: int) -> Result:
    """Run a function in ``count`` fresh processes of this machine and give back what rank 0 returns.

    Each finds its number in ``LOCAL_RANK`` and the others by ``MASTER_ADDR`` and ``MASTER_PORT``, as Lightning
    Fabric and torch look for them. Where one raises or is killed, the others, who would wait for it for ever, are
    ended.

    Args:
        function: Of a module, and so are its arguments (``functools.partial``): they are pickled. It is given
            ``tell``, whose argument comes to ``told`` if it is rank 0's.
        count: Processes.
        told: Called here. What it raises ends the processes.
        threads: Of torch in each.

    Raises:
        WorkerDiedError: A process was killed.
        Exception: What the function raised first, in whichever process.
    """
    context = get_context("spawn")
    port, ranks = _free_port(), []
    work = pickle.dumps(function)
    try:
        for number in range(count):
            reader, writer = context.Pipe(duplex=False)
            process = context.Process(
                target=_rank, args=(number, count, port, threads, writer, work), name=f"wsikit-rank-{number}"
            )
            ranks.append(_Rank(number, process, reader))
            with script_hidden():
                process.start()
            writer.close()  # the rank's own is now the only one: its death ends the pipe
        result: Result = _heard(ranks, told)
        return result
    finally:
        _end(ranks)


def _heard(ranks: list[_Rank], told: Tell) -> Any:
    while not all(rank.ended for rank in ranks):
        _listen(ranks, told, None)
        if any(rank.error is not None or (rank.ended and rank.result is None) for rank in ranks):
            deadline = time.monotonic() + GRACE
            while time.monotonic() < deadline and not all(rank.ended for rank in ranks):
                _listen(ranks, told, deadline - time.monotonic())
            _raise(ranks)
    result = ranks[0].result
    assert result is not None
    return pickle.loads(result)  # of our own process


def _listen(ranks: list[_Rank], told: Tell, timeout: float | None) -> None:
    """Take one message of every rank that has one."""
    by_reader = {rank.reader: rank for rank in ranks if not rank.ended}
    for reader in wait(list(by_reader), timeout):
        rank = by_reader[reader]
        try:
            kind, value = rank.reader.recv()
        except EOFError:
            rank.ended = True
            continue
        if kind == "told":
            told(value)
        elif kind == "result":
            rank.result = value
        else:
            rank.error = value


def _raise(ranks: list[_Rank]) -> None:
    """The error of the rank that failed first; one that was killed had no time to say so, and is the cause."""
    for rank in ranks:
        if rank.ended and rank.error is None and rank.result is None:
            rank.process.join(5)
            raise WorkerDiedError(
                f"process {rank.number + 1} of {len(ranks)} that train together died (exit code "
                f"{rank.process.exitcode}: killed, or out of memory); use fewer devices, or less 'training.cache_gb'"
            )
    first = min((rank.error for rank in ranks if rank.error is not None), key=lambda failure: failure.at)
    first.error.add_note(f"in process {first.rank + 1} of {len(ranks)}:\n{first.trace}")
    raise first.error


def _end(ranks: list[_Rank]) -> None:
    for rank in ranks:
        if rank.process.pid is not None and rank.process.is_alive() and rank.result is None:
            rank.process.terminate()
    for rank in ranks:
        if rank.process.pid is not None:
            rank.process.join(10)
            if rank.process.is_alive():
                rank.process.kill()
                rank.process.join()
        rank.reader.close()


def _rank(number: int, count: int, port: int, threads: int, writer: Any, work: bytes) -> None:
    """What a process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, who then ends its ranks
    end_with_parent()
    os.environ |= {
        "LOCAL_RANK": str(number), "NODE_RANK": "0", "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    try:
        import torch

        torch.set_num_threads(threads)
        function = pickle.loads(work)  # of our own parent

        def tell(value: Any) -> None:
            if number == 0:
                writer.send(("told", value))

        result = function(tell)
        writer.send(("result", pickle.dumps(result) if number == 0 else b""))
    except BaseException as e:
        writer.send(("error", _Failure(number, _plain(e), traceback.format_exc(), time.time())))
    finally:
        writer.close()
        _leave()


def _leave() -> None:
    """Out of the group without waiting for those who may be gone."""
    import torch.distributed

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _plain(error: BaseException) -> BaseException:
    """The error if it can be sent, else its words."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever an exception's own pickling does
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
