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

from wsikit.cohort.bags import Bags
from wsikit.cohort.site_splits import inner_site_splits
from wsikit.cohort.splits import Splits, inner_splits
from wsikit.cohort.table import Cohort
from wsikit.evaluation.result import Member
from wsikit.evaluation.settings import Experiment
from wsikit.processes import in_processes
from wsikit.tasks.task import Values
from wsikit.training.bundle import Bundle, save_bundle
from wsikit.training.fit import fit, predict
from wsikit.training.settings import graph_of

Rows = npt.NDArray[np.int64]

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
    """

    fold: int
    number: int
    train: Rows
    validation: Rows
    test: Rows
    repeat: int = 0


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
    done: Callable[[MemberResult], None] = lambda result: None,
) -> list[MemberResult]:
    """Fit all models; results in the order of the jobs.

    Args:
        experiment: What is asked.
        cohort: Patients.
        jobs: From :func:`plan_members`.
        facts: For the bundles: encoder, configuration, versions.
        workers: Processes.
        done: Called for each model when it is fitted.
    """
    results = []
    for result in _run(experiment, cohort, jobs, facts, workers):
        results.append(result)
        done(result)
    return results


def _run(
    experiment: Experiment, cohort: Cohort, jobs: list[MemberJob], facts: dict[str, Any], workers: int
) -> Iterator[MemberResult]:
    if workers <= 1:
        bags = _bags(experiment, cohort)  # read once for all models
        for job in jobs:
            yield _fit_one(experiment, cohort, facts, job, bags)
        return
    yield from in_processes(partial(_fit_one, experiment, cohort, facts), jobs, workers)


def _bags(experiment: Experiment, cohort: Cohort) -> Bags:
    graph = graph_of(experiment.model)
    # Each tile is compared with all others: once for all models and processes, not once in each.
    graphs = experiment.out / "graphs" if graph is not None and graph.kind == "features" else None
    return Bags(cohort.slides, encoder=cohort.encoder, graphs=graphs)


def _fit_one(
    experiment: Experiment, cohort: Cohort, facts: dict[str, Any], job: MemberJob, bags: Bags | None = None
) -> MemberResult:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        bags = bags or _bags(experiment, cohort)
        training = experiment.training.model_copy(
            update={"seed": (experiment.training.seed + REPEAT_SEED * job.repeat) * 1000 + job.number}
        )
        found = fit(
            bags, cohort.endpoint, cohort.target,
            train=job.train, validation=job.validation, model=experiment.model, training=training,
        )  # fmt: skip
        prediction, attention = predict(found.model, found.task, bags, job.test, with_attention=True)
        rest, _ = predict(found.model, found.task, bags, np.concatenate([job.train, job.validation]))
    finally:
        torch.set_num_threads(threads)
    folder = experiment.out / "models"
    if job.repeat:  # in a folder of their own: 'wsikit predict' averages the first cross-validation's models
        folder = folder / f"repeat-{job.repeat + 1}"
    path = folder / f"fold-{job.fold}-{job.number}.safetensors"
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
    }
    save_bundle(Bundle(found.model, found.task, cohort.endpoint, own), path)
    return MemberResult(job, member, prediction, rest, attention)


def with_threshold(path: Path, thresholds: dict[str, float]) -> None:
    """Enter cut points, which are known once all models of a fold are fitted, into a bundle."""
    from wsikit.training.bundle import load_bundle

    bundle = load_bundle(path)
    save_bundle(replace(bundle, facts=dict(bundle.facts) | {"thresholds": thresholds}), path)
