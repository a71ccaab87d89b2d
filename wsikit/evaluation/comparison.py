"""Is one model better than another on the same patients: paired differences, and how many were looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.cohort.endpoints import ClassTarget, ContinuousTarget, SurvivalTarget, Target, endpoint_settings
from wsikit.cohort.several_labels import LabelsTarget
from wsikit.errors import ConfigError
from wsikit.evaluation.bootstrap import Interval, resamples
from wsikit.evaluation.result import Metric
from wsikit.evaluation.run_files import StoredRun
from wsikit.evaluation.scores import Statistic, mean_statistic, strata_of_rounds
from wsikit.metrics.delong import DeLong, delong_test
from wsikit.metrics.undefined import UndefinedMetricError
from wsikit.tasks.task import create_task


@dataclass(frozen=True)
class Difference:
    """Two runs.

    Attributes:
        first: Name of the one.
        second: Name of the other.
        value: The first's metric minus the second's.
        interval: Of it, over patients, both runs on the same resamples.
        p: Two-sided: twice the smaller share of resamples on either side of 0, (1 + k) / (1 + draws). It is below
            0.05 where the 95 % interval leaves out 0 (up to one resample), and never 0.
        p_holm: The same, after Holm's correction for all pairs compared here.
        delong: DeLong's test, where both runs are of one model each on held-out patients; else None.
    """

    first: str
    second: str
    value: float
    interval: Interval
    p: float
    p_holm: float
    delong: DeLong | None


@dataclass(frozen=True)
class Comparison:
    """Runs on the same patients, folds and outcomes.

    Attributes:
        metric: What is compared.
        names: Of the runs.
        values: The metric of each, with its own interval. Overlapping intervals do not mean that runs are alike.
        differences: Of every pair.
        patients: How many.
        held_out: Whether the patients are no run's own.
        endpoint: What is predicted, for headings.
        tuning: How much each run was tuned, in words.
        notes: What makes the comparison unfair.
    """

    metric: str
    names: tuple[str, ...]
    values: tuple[Metric, ...]
    differences: tuple[Difference, ...]
    patients: int
    held_out: bool
    endpoint: str
    tuning: tuple[str, ...]
    notes: tuple[str, ...]


def compare_runs(runs: Sequence[StoredRun], *, draws: int = 2000, level: float = 0.95, seed: int = 0) -> Comparison:
    """Compare the main metric of runs, pair by pair, on the same resamples of patients.

    The interval and p are conditional on the fitted models: they say whether these models differ on
    patients of this kind, not whether one recipe is better than the other with other training
    patients or seeds. For that use ``splits: {repeats: ...}`` in both runs; the metric is then the mean.

    Args:
        runs: Two or more, from :func:`~wsikit.evaluation.run_files.read_run`.
        draws: Resamples.
        level: Of the intervals.
        seed: Of the resamples.

    Raises:
        ConfigError: Fewer than two runs; runs with other patients, outcomes, endpoints, folds or repeats,
            which are named.
        UndefinedMetricError: A metric that is not defined on the patients.

    Reference:
        Efron and Tibshirani, 1993, An Introduction to the Bootstrap, chapters 13 and 15; Holm, 1979, Scand J Stat
        6(2):65-70; of AUCs on held-out patients DeLong et al., see :func:`wsikit.metrics.delong_test`.
    """
    if len(runs) < 2:
        raise ConfigError(f"{len(runs)} run to compare, expected two or more")
    if draws < 100 or not 0 < level < 1:
        raise ConfigError(f"{draws} draws at level {level}, expected at least 100, and a level between 0 and 1")
    names = _names(runs)
    first = runs[0]
    for run, name in zip(runs[1:], names[1:], strict=True):
        _check_same(first, names[0], run, name)
    target, count = first.target, len(first.patients)
    task = create_task(first.endpoint, target)
    each = [mean_statistic(task, run.rounds, target) for run in runs]
    every = np.arange(count)
    whole = [one(every) for one in each]
    kept = strata_of_rounds(target, first.rounds)
    drawn, failed = _drawn(each, count, draws, seed, kept)
    values = tuple(
        Metric(task.metric, value, _interval(column, level, draws, failed))
        for value, column in zip(whole, drawn.T, strict=True)
    )
    pairs = list(combinations(range(len(runs)), 2))
    gaps = [drawn[:, i] - drawn[:, j] for i, j in pairs]
    p = [_two_sided(gap) for gap in gaps]
    differences = tuple(
        Difference(
            names[i], names[j], whole[i] - whole[j], _interval(gap, level, draws, failed), one, corrected,
            _delong(runs[i], runs[j]),
        )
        for (i, j), gap, one, corrected in zip(pairs, gaps, p, holm(p), strict=True)
    )  # fmt: skip
    held_out = all(run.held_out for run in runs)
    return Comparison(
        task.metric, names, values, differences, count, held_out, first.endpoint.title,
        tuning=tuple(run.tuning for run in runs), notes=tuple(_unfair(runs, names)),
    )  # fmt: skip


def _unfair(runs: Sequence[StoredRun], names: Sequence[str]) -> list[str]:
    """Budgets that are not equal, and settings chosen on the patients that are compared."""
    notes, trials = [], [run.trials for run in runs]
    known = [(name, n) for name, n in zip(names, trials, strict=True) if n is not None]
    if len({n for _, n in known}) > 1:
        listed = ", ".join(f"{name} {n or 'no'} trial{'' if n == 1 else 's'}" for name, n in known)
        notes.append(
            f"Tuned unequally: {listed}. Part of a difference may be the search and not the model; give every method "
            "the same number of trials."
        )
    here = [name for name, run in zip(names, runs, strict=True) if run.chosen_here]
    if here:
        notes.append(
            f"The settings of {', '.join(here)} were chosen on these same patients: such a number is too good; compare "
            "what 'wsikit tune --for estimate' wrote."
        )
    return notes


def holm(p: Sequence[float]) -> list[float]:
    """Holm's correction: p values that stay right when the smallest of several is looked for.

    The k-th smallest of m is multiplied by m - k + 1, and none becomes smaller than one before it.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = np.argsort(p, kind="stable")
    raised = np.maximum.accumulate(np.asarray(p, np.float64)[order] * np.arange(len(p), 0, -1))
    out = np.empty(len(p))
    out[order] = np.minimum(raised, 1)
    return [float(value) for value in out]


def _two_sided(differences: npt.NDArray[np.float64]) -> float:
    least = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    return min(1.0, 2 * (1 + least) / (1 + len(differences)))


def _drawn(
    each: Sequence[Statistic], patients: int, draws: int, seed: int, kept: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float64], int]:
    """The metric of every run on the same resamples (M, R), and how many resamples had none."""
    found, failed = [], 0
    for rows in resamples(patients, draws=draws, seed=seed, strata=kept):
        try:
            found.append([one(rows) for one in each])
        except UndefinedMetricError:
            failed += 1
    if not found:
        raise UndefinedMetricError(f"the metric is not defined on any of {draws} resamples of {patients} patients")
    return np.array(found), failed


def _interval(values: npt.NDArray[np.float64], level: float, draws: int, failed: int) -> Interval:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2]).tolist()
    return Interval(low, high, level, draws, failed)


def _delong(a: StoredRun, b: StoredRun) -> DeLong | None:
    target = a.target
    if not (a.held_out and b.held_out and isinstance(target, ClassTarget)) or len(target.classes) != 2:
        return None
    try:
        return delong_test(a.rounds[0].prediction[:, 1], b.rounds[0].prediction[:, 1], target.label == 1)
    except UndefinedMetricError:
        return None


def _names(runs: Sequence[StoredRun]) -> tuple[str, ...]:
    """The runs' own names where they differ, else those of their folders, else their paths."""
    for names in ([r.name for r in runs], [r.path.name for r in runs], [Path(r.path).as_posix() for r in runs]):
        if len(set(names)) == len(names):
            return tuple(names)
    raise ConfigError(f"run {runs[0].path} is given twice; a run cannot be compared with itself")


def _check_same(a: StoredRun, name_a: str, b: StoredRun, name_b: str) -> None:
    pair = f"runs {name_a!r} and {name_b!r} cannot be compared"
    if a.endpoint != b.endpoint:
        one, other = endpoint_settings(a.endpoint), endpoint_settings(b.endpoint)
        raise ConfigError(f"{pair}: they predict different outcomes, {one} and {other}")
    for here, there, where in ((a, b, name_a), (b, a, name_b)):
        only = sorted(set(here.patients) - set(there.patients))
        if only:
            raise ConfigError(
                f"{pair}: {len(only)} patients are in {where!r} only ({', '.join(only[:5])}"
                f"{' ...' if len(only) > 5 else ''}); compare on the patients that both have"
            )
    if a.patients != b.patients:
        raise ConfigError(f"{pair}: their tables have the same patients in another order; sort them by patient_id")
    for i, (x, y) in enumerate(zip(_outcomes(a.target), _outcomes(b.target), strict=True)):
        if x != y:
            raise ConfigError(f"{pair}: patient {a.patients[i]!r} has outcome {x} in {name_a!r} and {y} in {name_b!r}")
    if len(a.rounds) != len(b.rounds) or a.held_out != b.held_out:
        raise ConfigError(f"{pair}: {_kind(a)} and {_kind(b)}; run both the same way")
    for number, (x, y) in enumerate(zip(a.rounds, b.rounds, strict=True)):
        together = {(int(f), int(g)) for f, g in zip(x.fold, y.fold, strict=True)}
        if len(together) > max(len(np.unique(x.fold)), len(np.unique(y.fold))):
            i = _parted(x.fold, y.fold)
            again = f" of repeat {number + 1}" if number else ""
            raise ConfigError(
                f"{pair}: their folds{again} differ, as those of patient {a.patients[i]!r}; give both the same splits "
                "('splits: {file: FIRST_RUN/splits.csv}')"
            )


def _outcomes(target: Target) -> list[Any]:
    if isinstance(target, ClassTarget):
        return [target.classes[i] for i in target.label.tolist()]
    if isinstance(target, SurvivalTarget):
        return [f"{t:g} {'with' if e else 'without'} event" for t, e in zip(target.time, target.event, strict=True)]
    if isinstance(target, LabelsTarget):
        return [" / ".join(map(str, row)) for row in zip(*target.cells().values(), strict=True)]
    assert isinstance(target, ContinuousTarget)  # several outcomes are compared one by one
    return list(target.value.tolist())


def _parted(x: npt.NDArray[np.int64], y: npt.NDArray[np.int64]) -> int:
    """The first patient whose company in the one dealing is not that in the other."""
    return next(i for i in range(len(x)) if not np.array_equal(x == x[i], y == y[i]))


def _kind(run: StoredRun) -> str:
    return "held-out predictions" if run.held_out else f"{len(run.rounds)} cross-validation(s)"
