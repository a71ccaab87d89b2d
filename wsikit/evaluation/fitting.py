"""The first half of a cross-validation: deal the patients, fit every model. Nothing is measured here."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.aggregators.registry import create_aggregator
from wsikit.cohort.bags import Bags
from wsikit.cohort.endpoints import SurvivalTarget
from wsikit.cohort.several_outcomes import SeveralTarget
from wsikit.cohort.site_splits import leave_one_site_out, make_site_splits
from wsikit.cohort.split_audit import SplitAudit, audit_splits
from wsikit.cohort.split_files import load_splits
from wsikit.cohort.splits import Splits, check_known, check_splits, make_splits, save_splits, within
from wsikit.cohort.table import Cohort
from wsikit.errors import ConfigError
from wsikit.evaluation.baselines import baseline_predictions
from wsikit.evaluation.cohort import cohort_of
from wsikit.evaluation.known import Modelled, enter_known
from wsikit.evaluation.manifest import build_manifest, bundle_facts
from wsikit.evaluation.members import (
    REPEAT_SEED,
    MemberJob,
    MemberResult,
    Spread,
    check_start,
    fit_members,
    forget_other_models,
    plan_members,
)
from wsikit.evaluation.nested import cost_words, plan_pairs
from wsikit.evaluation.probe import probe_predictions
from wsikit.evaluation.settings import Experiment
from wsikit.evaluation.subgroups import subgroups_of
from wsikit.evaluation.tile_maps import check_map_kind
from wsikit.evaluation.tuning.folds import check_tuned
from wsikit.processes import cores
from wsikit.store.lease import RESULTS, Lease
from wsikit.tasks.task import Values, create_task
from wsikit.training.bundle import read_bundle

Say = Callable[[str], None]


@dataclass(frozen=True)
class SimpleModel:
    """A model that needs no training loop, to compare with.

    Attributes:
        name: "mean of colour", ...
        features: (P, D) of each patient.
        predict: Features, target and folds -> out-of-fold predictions (P, K).
    """

    name: str
    features: npt.NDArray[np.floating]
    predict: Callable[..., Values]


@dataclass(frozen=True)
class Fitted:
    """Every model of a cross-validation, and who was who.

    Attributes:
        experiment: What was asked.
        cohort: Patients, slides, exclusions.
        dealt: Splits of each repeat.
        audit: Of the first.
        manifest: For ``run.json``.
        members: The models of all repeats, and what they say of each patient.
        pairs: Of a nested cross-validation those without each two folds; else none.
        scratch: The same, trained from scratch, where the experiment's start from given weights; else none.
        simple: Models to compare with.
        notes: What is to be told of them.
        outcome: Name of the one outcome that this is about, of several that were learnt; else None.
        first_column: Where its columns begin among those that the models predict.
    """

    experiment: Experiment
    cohort: Cohort
    dealt: tuple[Splits, ...]
    audit: SplitAudit
    manifest: dict[str, Any]
    members: tuple[MemberResult, ...]
    pairs: tuple[MemberResult, ...]
    scratch: tuple[MemberResult, ...]
    simple: tuple[SimpleModel, ...]
    notes: tuple[str, ...]
    outcome: str | None = None
    first_column: int = 0


def fit_all(
    experiment: Experiment,
    *,
    held: contextlib.ExitStack,
    workers: int | None = None,
    spread: Spread | None = None,
    say: Say = lambda line: None,
) -> Fitted:
    """Fit every model of a cross-validation, several at once.

    Written into ``experiment.out``: the splits of each repeat, and ``models/``.

    Args:
        experiment: What is asked.
        held: Takes the lease on ``experiment.out``: nobody else writes there until the caller has closed it.
        workers: Processes; default one for each core. Where several devices train one model, models are fitted one
            after the other.
        spread: Instead of them: gives the results of a function in the order of the jobs.
        say: Called with a line of text at each step.

    Raises:
        ConfigError: Anything about the table, the stores, the splits or the settings that cannot be used.
        LockedError: Another process writes into the folder.
    """
    cohort = cohort_of(experiment, say=say)
    subgroups_of(cohort, experiment.evaluation.subgroups)
    dealt = [splits_of(experiment, cohort, number) for number in range(experiment.splits.repeats)]
    check_tuned(experiment, dealt)
    audit = _audited(dealt, cohort, experiment)
    for leak in audit.leaks:
        say(f"  LEAK: {leak}")
    splits, out = dealt[0], experiment.out
    out.mkdir(parents=True, exist_ok=True)
    lease = held.enter_context(Lease(out, kind=RESULTS, say=say))
    for old in [*out.glob("splits-*.csv"), *out.glob("splits-*.json"), *out.glob("predictions-*.csv")]:
        old.unlink()  # of an earlier run with more repeats
    for number, one in enumerate(dealt):
        save_splits(one, out / (f"splits-{number + 1}.csv" if number else "splits.csv"))
    bags = Bags(cohort.slides, encoder=cohort.encoder)
    for i in range(len(bags)):
        bags.count(i)
    manifest = build_manifest(experiment, cohort, splits, bags) | {"audit": audit.values()}
    if len(dealt) > 1:
        manifest["splits hash of repeats"] = [one.hash for one in dealt]
    jobs = _jobs(experiment, cohort, dealt)
    check_map_kind(experiment.evaluation.map, experiment.model.aggregator)
    task = create_task(cohort.endpoint, cohort.target)
    create_aggregator(experiment.model.aggregator, in_dim=bags.dim, classes=task.outputs, **experiment.model.options)
    check_start(experiment, cohort)
    # nothing is refused from here on: the models of an earlier run, with other folds, may go
    kept = forget_other_models(experiment, cohort, jobs, bags)
    if kept:
        say(f"{kept} of {len(jobs)} models are there already, fitted with the same settings on the same patients")
    every = _fit(experiment, cohort, jobs, dealt, bundle_facts(cohort, manifest), workers, spread, lease, say)
    pairs = tuple(m for m in every if m.job.second is not None)
    every = [m for m in every if m.job.second is None]
    means = bags.means()
    _enter_known(every, cohort, means, out)
    simple, notes = _simple_models(experiment, cohort, bags, means)
    return Fitted(
        experiment, cohort, tuple(dealt), audit, manifest,
        members=tuple(m for m in every if not m.job.scratch), scratch=tuple(m for m in every if m.job.scratch),
        pairs=pairs, simple=simple, notes=(*_start_notes(experiment, manifest), *notes),
    )  # fmt: skip


def _jobs(experiment: Experiment, cohort: Cohort, dealt: Sequence[Splits]) -> list[MemberJob]:
    """Every model to fit: those of the folds, the same from scratch, those without each two folds."""
    jobs = [job for number, one in enumerate(dealt) for job in plan_members(experiment, cohort, one, repeat=number)]
    if isinstance(cohort.target, SeveralTarget):
        for job in jobs:
            check_known(cohort.target.take(job.train), f"fold {job.fold + 1}, model {job.number + 1}")
    scratch = experiment.model.init is not None and experiment.evaluation.scratch
    pairs = plan_pairs(experiment, cohort, dealt) if experiment.evaluation.nested else []
    return [*jobs, *(replace(job, scratch=True) for job in jobs if scratch), *pairs]


def _fit(
    experiment: Experiment,
    cohort: Cohort,
    jobs: list[MemberJob],
    dealt: Sequence[Splits],
    facts: dict[str, Any],
    workers: int | None,
    spread: Spread | None,
    lease: Lease,
    say: Say,
) -> list[MemberResult]:
    folds, times = len(dealt[0].folds), f"{len(dealt)} x " if len(dealt) > 1 else ""
    pairs = [job for job in jobs if job.second is not None]
    say(f"fitting {len(jobs) - len(pairs)} models: {times}{folds} folds x {experiment.splits.inner_folds}")
    if pairs:
        say(cost_words(pairs, cohort.target))
    if any(job.scratch for job in jobs):
        say("  half of them from scratch, to compare with (leave them out with evaluation: {scratch: false})")
    left = Counter((job.repeat, job.fold, job.scratch) for job in jobs if job.second is None)

    def told(result: MemberResult) -> None:
        lease.check()
        if result.job.second is not None:
            return
        at = (result.job.repeat, result.job.fold, result.job.scratch)
        left[at] -= 1
        if not left[at]:
            which = f"repeat {at[0] + 1}, " if len(dealt) > 1 else ""
            say(f"  {which}fold {at[1] + 1} of {folds} fitted{' from scratch' if at[2] else ''}")

    count = 1 if experiment.training.devices > 1 else min(workers or cores(), len(jobs))
    return fit_members(experiment, cohort, jobs, facts=facts, workers=count, spread=spread, done=told)


def _enter_known(every: Sequence[MemberResult], cohort: Cohort, means: npt.NDArray[np.float32], out: Path) -> None:
    """Tell every bundle who trained it and how its fold's models do on the patients they never saw."""
    groups: dict[tuple[int, int, bool], list[MemberResult]] = {}
    for result in every:
        groups.setdefault((result.job.repeat, result.job.fold, result.job.scratch), []).append(result)
    for (repeat, number, _), mine in groups.items():
        job, fold = mine[0].job, f"fold {number + 1}" + (f" of repeat {repeat + 1}" if repeat else "")
        trained = np.union1d(job.train, job.validation)
        watched = sum(len(m.job.validation) for m in mine)
        enter_known(
            [Modelled(out / m.member.bundle, m.prediction) for m in mine], cohort, means,
            trained=trained, held_out=job.test, who=f"test patients of {fold}",
            cuts=f"median risk of the {len(trained)} patients outside {fold}"
            if isinstance(cohort.target, SurvivalTarget)
            else f"best balanced accuracy on {watched} inner validation patients of {fold}",
        )  # fmt: skip


def _start_notes(experiment: Experiment, manifest: dict[str, Any]) -> list[str]:
    """A warning where the weights to start from have seen the patients that are tested."""
    if experiment.model.init is None:
        return []
    facts, _ = read_bundle(experiment.model.init)
    if facts.get("store digest") != manifest["store digest"]:
        return []
    return [
        f"The weights to start from ({experiment.model.init.name}) were trained on the slides of this very cohort. "
        "They may know the outcomes of tested patients: a gain over scratch may be nothing else."
    ]


def splits_of(experiment: Experiment, cohort: Cohort, repeat: int) -> Splits:
    """The folds of one cross-validation of an experiment, checked."""
    wanted, seed = experiment.splits, experiment.splits.seed + REPEAT_SEED * repeat
    if wanted.kind == "leave-one-site-out":
        assert wanted.site is not None
        splits = leave_one_site_out(cohort, site=wanted.site, seed=seed, validation=wanted.validation)
    elif wanted.file is None and wanted.site is not None:
        splits = make_site_splits(cohort, site=wanted.site, folds=wanted.folds, seed=seed, validation=wanted.validation)
    elif wanted.file is None:
        splits = make_splits(cohort, folds=wanted.folds, seed=seed, validation=wanted.validation)
    else:
        splits = load_splits(wanted.file, cohort, validation=wanted.validation, seed=wanted.seed)
        splits = within(splits, cohort)
    check_splits(splits, cohort)
    return splits


def _audited(dealt: list[Splits], cohort: Cohort, experiment: Experiment) -> SplitAudit:
    """The audit of the first splits; refused where sites were to be kept apart and any of the splits does not."""
    site = experiment.splits.site
    audits = [audit_splits(one, cohort, site=site) for one in dealt]
    for audit in audits:
        for fold in audit.folds:
            if site is not None and fold.shared_sites:
                raise ConfigError(
                    f"splits, fold {fold.number}: site {fold.shared_sites[0]!r} is in test and in train, though 'site: "
                    f"{site}' was to keep sites apart; deal the folds by site, or leave out 'site'"
                )
    return audits[0]


def _simple_models(
    experiment: Experiment, cohort: Cohort, bags: Bags, means: npt.NDArray[np.float32]
) -> tuple[tuple[SimpleModel, ...], tuple[str, ...]]:
    """Every baseline, and a note where one cannot be had."""
    encoder, notes = experiment.evaluation.baseline_encoder, []
    found = [SimpleModel(f"linear probe on mean {experiment.encoder}", means, probe_predictions)]
    lacking = [s.slide_id for mine in cohort.slides for s in mine if not _finished(s.store, s.slide_id, encoder)]
    if lacking:
        notes.append(
            f"No {encoder} baseline: {len(lacking)} slides have no features of that encoder. "
            f"'wsikit extract ... --encoder {encoder}' into the same store adds them."
        )
    else:
        others = Bags(cohort.slides, encoder=encoder).means()
        found.append(SimpleModel(f"mean of {encoder}", others, baseline_predictions))
    found.append(SimpleModel("number of tiles", np.log(bags.sizes)[:, None], baseline_predictions))
    return tuple(found), tuple(notes)


def _finished(store: object, slide_id: str, encoder: str) -> bool:
    from wsikit.store.reader import FeatureStore

    assert isinstance(store, FeatureStore)
    return store.has(slide_id, encoder) and store.finished(slide_id, encoder)
