"""One study: Optuna proposes settings, and every proposal and result is a line of a journal on disk."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wsikit.errors import ConfigError
from wsikit.evaluation.tuning.space import Choice, Range, Space, Value

SPREAD_TRIALS = 8
"""So many are spread over the space before the sampler learns from them."""

COST = ("fits", "epochs", "cpu_s")


@dataclass(frozen=True)
class Trial:
    """Settings that were tried.

    Attributes:
        number: From 0.
        values: By full names.
        score: Higher is better; None where it is under way, or came to nothing.
        finished: Whether it is over.
        cost: Fits, epochs and processor seconds.
        problem: Why it came to nothing, or "".
    """

    number: int
    values: Mapping[str, Value]
    score: float | None
    finished: bool
    cost: Mapping[str, float]
    problem: str


class Study:
    """Trials of one study, in a journal that only this process writes.

    A proposal depends on the seed, its number and the trials before it, and on nothing else: a study that was
    killed and is opened again proposes what it would have.

    Args:
        journal: The file; an unfinished last line, of a process that was killed, is taken off.
        name: Of the study in it.
        space: What is varied.
        seed: Of the sampler, with anything that tells this study from others.
        first: Settings of the first trial; None: drawn as the others are.

    Raises:
        ConfigError: Optuna is not installed, or the journal holds something else.
    """

    def __init__(
        self, journal: Path, name: str, space: Space, *, seed: tuple[int, ...], first: Mapping[str, Value] | None
    ) -> None:
        self._optuna, self._seed, self._first = _optuna(), seed, first
        self._space, self._distributions = space, {n: _distribution(self._optuna, p) for n, p in space.items()}
        _mend(journal)
        backend = self._optuna.storages.journal
        # Not fcntl, nor symbolic links: a file that is created only where there is none locks on network disks, too.
        lock = backend.JournalFileOpenLock(str(journal))
        try:
            self._storage = self._optuna.storages.JournalStorage(backend.JournalFileBackend(str(journal), lock))
            self._study = self._optuna.create_study(
                storage=self._storage, study_name=name, direction="maximize", load_if_exists=True
            )
        except ValueError as e:
            raise ConfigError(f"{journal}: not a journal of Optuna's ({e}); remove it to begin anew") from e
        self._id = self._storage.get_study_id_from_name(name)

    def trials(self) -> list[Trial]:
        """Every trial, in order."""
        states = self._optuna.trial.TrialState
        found = []
        for one in self._study.get_trials(deepcopy=False):
            score = one.value if one.state == states.COMPLETE else None
            cost = {name: one.user_attrs.get(name, 0) for name in COST}
            problem = str(one.user_attrs.get("problem", ""))
            found.append(Trial(one.number, dict(one.params), score, one.state.is_finished(), cost, problem))
        return found

    def ask(self) -> Trial:
        """The next trial, written down as under way."""
        optuna, before = self._optuna, self._study.get_trials(deepcopy=False)
        number = len(before)
        params = self._proposal(number, before)
        running = optuna.trial.TrialState.RUNNING
        # one line of the journal: a process that is killed leaves a whole trial or none
        made = optuna.trial.create_trial(state=running, params=params, distributions=self._distributions)
        self._study.add_trial(made)
        return Trial(number, params, None, False, dict.fromkeys(COST, 0), "")

    def _proposal(self, number: int, before: list[Any]) -> dict[str, Value]:
        """First the settings as they are, then some spread evenly, then Optuna's own (TPE)."""
        if not number and self._first is not None:
            return dict(self._first)
        if number < SPREAD_TRIALS:
            return spread(self._space, np.random.default_rng(self._seed), SPREAD_TRIALS)[number]
        entropy = np.random.SeedSequence([*self._seed, number]).generate_state(1)[0]
        sampler = self._optuna.samplers.TPESampler(
            seed=int(entropy), n_startup_trials=SPREAD_TRIALS // 2, constant_liar=True
        )
        memory = self._optuna.create_study(direction="maximize", sampler=sampler)
        memory.add_trials(before)
        return dict(memory.ask(fixed_distributions=self._distributions).params)

    def tell(self, number: int, score: float | None, cost: Mapping[str, float], problem: str = "") -> None:
        """Write down what came of a trial; None: nothing."""
        at = self._storage.get_trial_id_from_study_id_trial_number(self._id, number)
        attributes: dict[str, Any] = dict(cost) | ({"problem": problem} if problem else {})
        for name, value in attributes.items():
            self._storage.set_trial_user_attr(at, name, value)
        if score is None:
            self._study.tell(number, state=self._optuna.trial.TrialState.FAIL)
        else:
            self._study.tell(number, score)


def spread(space: Space, rng: np.random.Generator, count: int) -> list[dict[str, Value]]:
    """A Latin hypercube: of each setting the range in ``count`` equal parts, each of which has one point.

    Independent draws leave holes: of eight, two or more parts of a range mostly stay empty.

    Reference:
        McKay, Beckman and Conover, 1979, Technometrics 21(2):239-245, doi:10.1080/00401706.1979.10489755.
    """
    columns = {}
    for name, parameter in space.items():
        columns[name] = [at(parameter, u) for u in ((rng.permutation(count) + rng.random(count)) / count).tolist()]
    return [{name: column[i] for name, column in columns.items()} for i in range(count)]


def at(parameter: Range | Choice, share: float) -> Value:
    """The value at a share of the way through a range or a list, from 0 to below 1."""
    if isinstance(parameter, Choice):
        return parameter.values[int(share * len(parameter.values))]
    low, high = parameter.low, parameter.high + parameter.whole  # of whole numbers the last one has its part, too
    value = low * (high / low) ** share if parameter.log else low + (high - low) * share
    return min(int(value), int(parameter.high)) if parameter.whole else float(value)


def best_of(trials: list[Trial], most: int) -> Trial | None:
    """The best of the first ``most`` trials; of equal ones the first; None where none came to anything."""
    scored = [t for t in trials[:most] if t.score is not None]
    return max(scored, key=lambda t: (t.score, -t.number)) if scored else None


def _optuna() -> Any:
    try:
        import optuna
        import optuna.storages.journal
    except ImportError as e:
        raise ConfigError("tuning needs Optuna: pip install 'wsikit[tune]'") from e
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _distribution(optuna: Any, parameter: Any) -> Any:
    if isinstance(parameter, Choice):
        return optuna.distributions.CategoricalDistribution(list(parameter.values))
    kinds = optuna.distributions
    kind = kinds.IntDistribution if parameter.whole else kinds.FloatDistribution
    return kind(parameter.low, parameter.high, log=parameter.log)


def _mend(journal: Path) -> None:
    """Take an unfinished last line off: what is appended to it could not be read again."""
    if not journal.is_file():
        return
    text = journal.read_bytes()
    whole = text.rfind(b"\n") + 1
    if whole < len(text):
        logging.getLogger(__name__).warning("%s: its last line was cut short and is taken off", journal)
        with journal.open("r+b") as file:
            file.truncate(whole)
            file.flush()
            os.fsync(file.fileno())
