"""Nested cross-validation: what the interval of Bates, Hastie and Tibshirani needs beside a cross-validation.

For the fold k they cross-validate the recipe on the other folds: for each other fold j a model without j and k is
tested on j. A model without j and k is the same for k and j, so it is fitted once and tested on both: K (K - 1) / 2
fits in place of K (K - 1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

from wsikit.cohort.endpoints import ClassTarget, ContinuousTarget, Target
from wsikit.cohort.site_splits import inner_site_splits
from wsikit.cohort.splits import Fold, Splits, hold_out, inner_splits
from wsikit.cohort.table import Cohort
from wsikit.errors import ConfigError
from wsikit.evaluation.members import REPEAT_SEED, MemberJob, MemberResult
from wsikit.evaluation.result import Metric
from wsikit.evaluation.settings import Experiment
from wsikit.evaluation.unconditional import nested_crossval_interval
from wsikit.tasks.task import Values

Losses = npt.NDArray[np.float64]


def plan_pairs(experiment: Experiment, cohort: Cohort, dealt: Sequence[Splits]) -> list[MemberJob]:
    """The models more that a nested cross-validation needs: without any two folds, tested on both.

    Args:
        experiment: Whose ``inner_folds`` models each pair has, too.
        cohort: Patients.
        dealt: Splits of each repeat.

    Raises:
        ConfigError: An outcome without a loss that is a mean over patients, fewer than three folds, settings that
            were tuned for each fold, or too few patients outside two folds.
    """
    loss_name(cohort.target)
    if experiment.tuned is not None and experiment.tuned.folds:
        raise ConfigError(
            "evaluation.nested: the settings were tuned for each fold, and each pair of folds would need a study of "
            "its own; leave 'nested' out, or fix the settings (remove 'tuned')"
        )
    jobs = []
    for repeat, splits in enumerate(dealt):
        if len(splits.folds) < 3:
            raise ConfigError(f"evaluation.nested: {len(splits.folds)} folds, expected three or more")
        for one, other in combinations(range(len(splits.folds)), 2):
            without = _without(splits.folds[one], splits.folds[other])
            parts = _parts(experiment, cohort, without, seed=_seed(experiment, repeat, one, other, len(splits.folds)))
            test = cohort.index(without.test)
            jobs += [MemberJob(one, j, fit, watch, test, repeat, second=other) for j, (fit, watch) in enumerate(parts)]
    return jobs


def cost_words(jobs: Sequence[MemberJob], target: Target) -> str:
    """What it costs, said before anything is fitted."""
    pairs = len({(job.repeat, job.fold, job.second) for job in jobs})
    return (
        f"nested cross-validation: {len(jobs)} models more, without each of {pairs} pairs of folds, for the "
        f"unconditional interval of the {loss_name(target)}"
    )


def nested_metric(
    pairs: Sequence[MemberResult], predictions: Sequence[Values], folds: Sequence[npt.NDArray[np.int64]], target: Target
) -> Metric:
    """The loss of the recipe with its unconditional interval.

    Args:
        pairs: Every fitted model of :func:`plan_pairs`.
        predictions: (P, K) out of fold, of each repeat.
        folds: (P,) the fold that tested each patient, of each repeat.
        target: Of the patients.
    """
    inner, outer = [], []
    for repeat, (prediction, fold) in enumerate(zip(predictions, folds, strict=True)):
        without = _averages([m for m in pairs if m.job.repeat == repeat], prediction.shape)
        numbers = np.unique(fold).tolist()
        outer.append([patient_losses(target, prediction)[fold == k] for k in numbers])
        inner.append([_inner(k, numbers, without, fold, target) for k in numbers])
    found = nested_crossval_interval(inner, outer)
    note = (
        "not conditional on the fitted models: Bates, Hastie and Tibshirani's interval by nested cross-validation, "
        f"over {found.interval.draws} folds of {len(folds)} cross-validation{'' if len(folds) == 1 else 's'}; "
        f"{found.inflation:.2f} times as wide as if losses were independent (1 to the root of the number of folds)"
        + ("; from one dealing of the folds the width is itself uncertain" if len(folds) == 1 else "")
    )
    return Metric(f"{loss_name(target)}, nested cross-validation", found.error, found.interval, note)


def loss_name(target: Target) -> str:
    """What is averaged over patients.

    Raises:
        ConfigError: No such loss: Cox's risks have none for one patient.
    """
    if isinstance(target, ClassTarget):
        return "Brier score"
    if isinstance(target, ContinuousTarget):
        return "mean squared error"
    raise ConfigError(
        "evaluation.nested: this outcome has no loss that is a mean over patients, which the interval is for (classes "
        "and numbers have one); 'splits: {repeats: 5}' gives an unconditional interval of the main metric"
    )


def patient_losses(target: Target, prediction: Values) -> Losses:
    """Squared error of each patient, (P,); of more than two classes the sum over classes, as the Brier score's."""
    if isinstance(target, ContinuousTarget):
        return np.square(prediction[:, 0] - target.value)
    assert isinstance(target, ClassTarget)
    error = np.square(prediction - np.eye(len(target.classes))[target.label])  # (P, C)
    return error[:, 1] if len(target.classes) == 2 else error.sum(1)


def _inner(
    k: int,
    numbers: Sequence[int],
    without: Mapping[tuple[int, int], Values],
    fold: npt.NDArray[np.int64],
    target: Target,
) -> Losses:
    """Losses of all patients outside fold k, each by models without k and without the patient's own fold."""
    found = []
    for j in numbers:
        if j != k:
            found.append(patient_losses(target, without[min(j, k), max(j, k)])[fold == j])
    return np.concatenate(found)


def _averages(pairs: Sequence[MemberResult], shape: tuple[int, ...]) -> dict[tuple[int, int], Values]:
    """Mean prediction (P, K) of the models without each two folds; NaN for patients that they were fitted on."""
    of: dict[tuple[int, int], list[MemberResult]] = {}
    for member in pairs:
        assert member.job.second is not None
        of.setdefault((member.job.fold, member.job.second), []).append(member)
    found = {}
    for key, members in of.items():
        mean = np.full(shape, np.nan)
        mean[members[0].job.test] = np.mean([m.prediction for m in members], axis=0)
        found[key] = mean
    return found


def _without(one: Fold, other: Fold) -> Fold:
    """Those who train or watch in both folds, and those who are tested in either."""
    rest = {*one.train, *one.validation} & {*other.train, *other.validation}
    return Fold(tuple(sorted(rest)), (), tuple(sorted({*one.test, *other.test})))


def _parts(
    experiment: Experiment, cohort: Cohort, fold: Fold, *, seed: int
) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    wanted = experiment.splits
    if wanted.inner_folds == 1:
        return [hold_out(cohort.index(fold.train), cohort.target, None, share=wanted.validation, seed=seed)]
    if wanted.site is None:
        return inner_splits(fold, cohort, parts=wanted.inner_folds, seed=seed)
    return inner_site_splits(fold, cohort, site=wanted.site, parts=wanted.inner_folds, seed=seed)


def _seed(experiment: Experiment, repeat: int, one: int, other: int, folds: int) -> int:
    """Apart from those of the folds themselves, which are the first."""
    return (experiment.splits.seed + REPEAT_SEED * repeat) * 1000 + folds * (one + 1) + other
