"""Where fits of trials run: in this process one by one, or on the workers of a Dask cluster."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, Protocol, TypeVar

from wsikit.evaluation.tuning.trial import FitOutcome, TrialData, TrialFit, alone, fit_trial
from wsikit.extract.clusters import Crew
from wsikit.processes import WorkerDiedError

Key = tuple[int, int, int]
"""Study, trial and part."""
Job = TypeVar("Job")
Result = TypeVar("Result")

ASKED_S = 5.0
"""How often a cluster is asked whether it still has workers, while nothing finishes."""


class Fitter(Protocol):
    """Takes fits and gives what came of them, in any order."""

    def submit(self, key: Key, wanted: TrialFit) -> None:
        """Take a fit."""
        ...

    def next(self) -> tuple[Key, FitOutcome]:
        """One that is finished; waits for it."""
        ...


class Here:
    """Fits in this process, in the order in which they were given."""

    def __init__(self, data: TrialData) -> None:
        self._data, self._waiting = data, deque[tuple[Key, TrialFit]]()

    def submit(self, key: Key, wanted: TrialFit) -> None:
        """Take a fit."""
        self._waiting.append((key, wanted))

    def next(self) -> tuple[Key, FitOutcome]:
        """The next one."""
        key, wanted = self._waiting.popleft()
        return key, fit_trial(self._data, wanted)


class OnCrew:
    """Fits on the workers of a Dask cluster.

    Args:
        crew: The workers.
        data: Sent to each of them once.
    """

    def __init__(self, crew: Crew, data: TrialData) -> None:
        self._crew, self._flying = crew, _Flying[Key](crew)
        self._data = crew.client.scatter(data, broadcast=True)

    def submit(self, key: Key, wanted: TrialFit) -> None:
        """Take a fit."""
        self._flying.add(key, self._crew.client.submit(fit_trial, self._data, wanted, pure=False))

    def next(self) -> tuple[Key, FitOutcome]:
        """One that is finished."""
        return self._flying.next()


def crew_map(crew: Crew, function: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
    """Results in the order of the jobs, from the workers of a cluster; one job at a time in each process."""
    flying, waiting, done = _Flying[int](crew), list(jobs), dict[int, Result]()
    for number, job in enumerate(waiting):
        flying.add(number, crew.client.submit(alone, function, job, pure=False))
    for number in range(len(waiting)):
        while number not in done:
            key, result = flying.next()
            done[key] = result
        yield done.pop(number)


KeyT = TypeVar("KeyT")


class _Flying(Generic[KeyT]):
    """What is under way on a cluster."""

    def __init__(self, crew: Crew) -> None:
        self._crew, self._keys = crew, dict[Any, KeyT]()

    def add(self, key: KeyT, future: Any) -> None:
        self._keys[future] = key

    def next(self) -> tuple[KeyT, Any]:
        from distributed import KilledWorker, as_completed

        while True:
            try:  # distributed's wait() asks the default client, which that of an existing cluster is not
                future = next(as_completed(list(self._keys), loop=self._crew.client.loop, timeout=ASKED_S))
            except TimeoutError:
                self._crew.threads()  # raises where there has been no worker for too long
                continue
            key = self._keys.pop(future)
            try:
                return key, self._crew.result(future)
            except KilledWorker as e:
                raise WorkerDiedError(
                    f"a fit has ended its worker process several times (mostly for want of memory): {e}; "
                    "use fewer workers on a machine, or a smaller 'training: {cache_gb: ...}'"
                ) from e
