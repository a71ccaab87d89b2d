"""Fit the models of a cross-validation, several at once, each in a process and on one thread.

One thread each: small models gain nothing from a second, and equal arguments give equal bits however
many run at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.aggregators.registry import create_aggregator
from wsikit.cohort.bags import Bags
from wsikit.cohort.site_splits import inner_site_splits
from wsikit.cohort.splits import Splits, inner_splits
from wsikit.cohort.table import Cohort
from wsikit.config import config_hash
from wsikit.errors import ConfigError
from wsikit.evaluation.result import Member
from wsikit.evaluation.settings import Experiment
from wsikit.evaluation.tuning.folds import of_fold
from wsikit.processes import in_processes
from wsikit.tasks.task import Values, create_task
from wsikit.training.bundle import Bundle, load_bundle, read_bundle, save_bundle
from wsikit.training.checkpoint import identity_of
from wsikit.training.epoch import history_from, plain_history
from wsikit.training.fit import FitResult, fit, predict
from wsikit.training.settings import ModelSettings, TrainingSettings, graph_of
from wsikit.training.start import StartReport, load_start

Rows = npt.NDArray[np.int64]

Spread = Callable[[Callable[[Any], Any], list[Any]], Iterator[Any]]
"""Gives the results of a function in the order of the jobs, from wherever it runs."""

REPEAT_SEED = 1000
"""Added to the seed of the splits for each further cross-validation."""


@dataclass(frozen=True)
class MemberJob:
    """One model to fit.

    Attributes:
        fold: Its fold.
        number: Its number in the fold.
        train: Positions of the patients that fit it.
        validation: Of those that watch it.
        test: Of those that it predicts.
        repeat: Of which cross-validation, from 0.
        scratch: Whether it is to start from scratch, though others of the experiment start from given weights.
        second: A second fold that it has not seen and predicts, of a nested cross-validation.
    """

    fold: int
    number: int
    train: Rows
    validation: Rows
    test: Rows
    repeat: int = 0
    scratch: bool = False
    second: int | None = None


@dataclass(frozen=True)
class MemberResult:
    """A fitted model and what it says of its fold's patients.

    Attributes:
        job: Who was who.
        member: The model.
        prediction: (n, K) of ``job.test``.
        rest: (m, K) of train and validation, in that order.
        attention: Of each test patient.
    """

    job: MemberJob
    member: Member
    prediction: Values
    rest: Values
    attention: list[npt.NDArray[np.float32] | None]


def plan_members(experiment: Experiment, cohort: Cohort, splits: Splits, *, repeat: int = 0) -> list[MemberJob]:
    """Every model to fit, fold by fold; sites stay whole inside a fold, too, where the experiment names them."""
    wanted, jobs = experiment.splits, []
    for i, fold in enumerate(splits.folds):
        seed = (wanted.seed + REPEAT_SEED * repeat) * 1000 + i
        if wanted.site is None:
            parts = inner_splits(fold, cohort, parts=wanted.inner_folds, seed=seed)
        else:
            parts = inner_site_splits(fold, cohort, site=wanted.site, parts=wanted.inner_folds, seed=seed)
        test = cohort.index(fold.test)
        jobs += [MemberJob(i, j, train, watch, test, repeat) for j, (train, watch) in enumerate(parts)]
    return jobs


def fit_members(
    experiment: Experiment,
    cohort: Cohort,
    jobs: list[MemberJob],
    *,
    facts: dict[str, Any],
    workers: int,
    spread: Spread | None = None,
    done: Callable[[MemberResult], None] = lambda result: None,
) -> list[MemberResult]:
    """Fit all models; results in the order of the jobs.

    Args:
        experiment: What is asked.
        cohort: Patients.
        jobs: From :func:`plan_members`.
        facts: For the bundles: encoder, configuration, versions.
        workers: Processes.
        spread: Instead of processes of this machine: gives a function's results in the order of the jobs.
        done: Called for each model when it is fitted.
    """
    results = []
    for result in _run(experiment, cohort, jobs, facts, workers, spread):
        results.append(result)
        done(result)
    return results


def _run(
    experiment: Experiment,
    cohort: Cohort,
    jobs: list[MemberJob],
    facts: dict[str, Any],
    workers: int,
    spread: Spread | None,
) -> Iterator[MemberResult]:
    if spread is not None:
        yield from spread(partial(_fit_one, experiment, cohort, facts), jobs)
        return
    if workers <= 1:
        bags = bags_of(experiment, cohort)  # read once for all models
        for job in jobs:
            yield _fit_one(experiment, cohort, facts, job, bags)
        return
    yield from in_processes(partial(_fit_one, experiment, cohort, facts), jobs, workers)


def bags_of(experiment: Experiment, cohort: Cohort) -> Bags:
    """The bags that models are fitted on, with the memory that the settings give them."""
    graph = graph_of(experiment.model)
    # Each tile is compared with all others: once for all models and processes, not once in each.
    graphs = experiment.out / "graphs" if graph is not None and graph.kind == "features" else None
    budget = int(experiment.training.cache_gb * (1 << 30))
    return Bags(cohort.slides, encoder=cohort.encoder, cache_bytes=budget, graphs=graphs)


def _fit_one(
    experiment: Experiment, cohort: Cohort, facts: dict[str, Any], job: MemberJob, bags: Bags | None = None
) -> MemberResult:
    import torch

    experiment = of_fold(experiment, job.repeat, job.fold)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        bags = bags or bags_of(experiment, cohort)
        identity = member_identity(experiment, cohort, job, bags)
        path = experiment.out / member_path(job)
        found = _finished(path, identity)
        fitted = found is None
        if found is None:
            found = fit(
                bags, cohort.endpoint, cohort.target, train=job.train, validation=job.validation,
                model=_model(experiment, job), training=_training(experiment, job),
            )  # fmt: skip
        prediction, attention = predict(found.model, found.task, bags, job.test, with_attention=job.second is None)
        rest, _ = predict(found.model, found.task, bags, np.concatenate([job.train, job.validation]))
    finally:
        torch.set_num_threads(threads)
    member = Member(
        job.fold,
        job.number,
        len(job.train),
        len(job.validation),
        found.best,
        found.history,
        path.relative_to(experiment.out),
    )
    own = facts | {
        "aggregator": {"name": experiment.model.aggregator, "options": experiment.model.options},
        "in_dim": found.model.aggregator.in_dim,
        "fold": job.fold,
        "epoch": found.best,
        "history": plain_history(found.history),
        "fit": identity,
    }
    if fitted:
        save_bundle(Bundle(found.model, found.task, cohort.endpoint, own), path)
    return MemberResult(job, member, prediction, rest, attention)


def check_start(experiment: Experiment, cohort: Cohort) -> StartReport | None:
    """What a model of this experiment would start from; None where it starts from scratch.

    Raises:
        ConfigError: The given weights do not fit.
    """
    if experiment.model.init is None:
        return None
    task = create_task(cohort.endpoint, cohort.target)
    aggregator = create_aggregator(
        experiment.model.aggregator,
        in_dim=bags_of(experiment, cohort).dim,
        classes=task.outputs,
        **experiment.model.options,
    )
    return load_start(experiment.model.init, cohort.encoder).into(aggregator)


def member_path(job: MemberJob) -> Path:
    """Where a model's bundle is, below the folder of the results."""
    folder = Path("models/scratch") if job.scratch else Path("models")
    if job.repeat:  # in a folder of their own: 'wsikit predict' averages the first cross-validation's models
        folder = folder / f"repeat-{job.repeat + 1}"
    if job.second is not None:
        return folder / "nested" / f"fold-{job.fold}-{job.second}-{job.number}.safetensors"
    return folder / f"fold-{job.fold}-{job.number}.safetensors"


def _model(experiment: Experiment, job: MemberJob) -> ModelSettings:
    return experiment.model.model_copy(update={"init": None}) if job.scratch else experiment.model


def member_seed(experiment: Experiment, repeat: int, number: int) -> int:
    """Seed of the training of a fold's model."""
    return (experiment.training.seed + REPEAT_SEED * repeat) * 1000 + number


def _training(experiment: Experiment, job: MemberJob) -> TrainingSettings:
    return experiment.training.model_copy(update={"seed": member_seed(experiment, job.repeat, job.number)})


def member_identity(experiment: Experiment, cohort: Cohort, job: MemberJob, bags: Bags) -> str:
    """Hash of all that decides the bits of a model, 64 hex digits."""
    experiment = of_fold(experiment, job.repeat, job.fold)
    return config_hash(
        identity_of(
            bags, cohort.endpoint, cohort.target, train=job.train, validation=job.validation,
            model=_model(experiment, job), training=_training(experiment, job),
        )
    )  # fmt: skip


def forget_other_models(experiment: Experiment, cohort: Cohort, jobs: list[MemberJob], bags: Bags) -> int:
    """Remove every bundle of an earlier run but those that these jobs would fit again bit for bit.

    Returns:
        How many are left: models that need not be fitted.
    """
    wanted = {experiment.out / member_path(job): job for job in jobs}
    kept = 0
    for path in sorted((experiment.out / "models").rglob("*")):
        job = wanted.get(path)
        if job is not None and _finished(path, member_identity(experiment, cohort, job, bags)) is not None:
            kept += 1
        elif path.is_file():
            path.unlink()
    return kept


def _finished(path: Path, identity: str) -> FitResult | None:
    """The model that an earlier run left, where it is the one that would be fitted now."""
    try:
        facts, _ = read_bundle(path)
        if facts.get("fit") != identity:
            return None
        bundle = load_bundle(path)
    except ConfigError:  # none, or cut short when that run was killed
        return None
    return FitResult(bundle.model, bundle.task, history_from(facts["history"]), int(facts["epoch"]))


def with_threshold(path: Path, thresholds: dict[str, float], *, outcome: str | None = None) -> None:
    """Enter cut points, which are known once all models of a fold are fitted, into a bundle.

    Args:
        path: The bundle.
        thresholds: By name.
        outcome: Whose they are, of several.
    """
    bundle = load_bundle(path)
    entered = thresholds if outcome is None else dict(bundle.facts["thresholds"]) | {outcome: thresholds}
    save_bundle(replace(bundle, facts=dict(bundle.facts) | {"thresholds": entered}), path)
