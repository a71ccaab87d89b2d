"""Cross-validation: every patient predicted by models that have never seen it, and how good that is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wsikit.aggregators.registry import create_aggregator
from wsikit.cohort.bags import Bags
from wsikit.cohort.endpoints import ClassTarget, SurvivalTarget, Target, endpoint_from
from wsikit.cohort.site_splits import leave_one_site_out, make_site_splits
from wsikit.cohort.split_audit import SplitAudit, audit_splits
from wsikit.cohort.split_files import load_splits
from wsikit.cohort.splits import Splits, check_splits, describe, make_splits, save_splits, within
from wsikit.cohort.table import Cohort, load_cohort
from wsikit.errors import ConfigError
from wsikit.evaluation.baselines import baseline_predictions
from wsikit.evaluation.manifest import build_manifest, bundle_facts
from wsikit.evaluation.members import (
    REPEAT_SEED,
    MemberResult,
    Spread,
    check_start,
    fit_members,
    forget_other_models,
    plan_members,
    with_threshold,
)
from wsikit.evaluation.nested import cost_words, nested_metric, plan_pairs
from wsikit.evaluation.probe import probe_predictions
from wsikit.evaluation.result import CrossvalResult, ModelResult, Repeat, Round, SubgroupResult
from wsikit.evaluation.risk_groups import LogRank, log_rank, risk_groups, training_cuts
from wsikit.evaluation.run_files import write_run
from wsikit.evaluation.scores import differences_of, metrics_of
from wsikit.evaluation.settings import Experiment
from wsikit.evaluation.subgroups import Subgroup, subgroups_of
from wsikit.evaluation.tuning.folds import ON_THESE_PATIENTS, check_tuned
from wsikit.metrics.undefined import UndefinedMetricError
from wsikit.processes import cores
from wsikit.tasks.task import Task, Values, create_task

Say = Callable[[str], None]


def crossval(
    experiment: Experiment,
    *,
    workers: int | None = None,
    spread: Spread | None = None,
    say: Say = lambda line: None,
) -> CrossvalResult:
    """Cross-validate a model on a cohort.

    For every fold ``splits.inner_folds`` models are fitted on its other patients, each watched by
    another part of them, and their predictions on the fold's test patients are averaged. The test
    patients decide nothing: not the weights, the scale of the features, the epoch, the threshold, nor
    the cut between risk groups. Metrics compare patients of one fold only, because predictions of
    differently fitted models are on different scales.

    Written into ``experiment.out``: ``run.json``, ``splits.csv`` with its hash, ``predictions.csv``,
    ``metrics.csv``, ``history.csv`` and ``models/``, where asked for ``subgroups.csv``, and of each repeat
    ``splits-2.csv``, ``predictions-2.csv``, ...; ``wsikit.reports`` adds pictures and ``report.html``.

    Args:
        experiment: From :func:`wsikit.evaluation.settings.load_experiment`.
        workers: Processes; default one for each core.
        spread: Instead of them: gives the results of a function in the order of the jobs, as
            :func:`wsikit.evaluation.tuning.workers.crew_map` does on a cluster.
        say: Called with a line of text at each step.

    Raises:
        ConfigError: Anything about the table, the stores, the splits or the settings that cannot be used.
    """
    endpoint = endpoint_from(experiment.endpoint)
    cohort = load_cohort(
        experiment.cohort,
        endpoint=endpoint,
        stores=experiment.stores,
        encoder=experiment.encoder,
        missing_slides=experiment.missing_slides,
    )
    say(f"cohort: {describe(cohort.target)}; {cohort.n_slides} slides")
    for reason, count in cohort.excluded.items():
        say(f"  left out: {count} x {reason}")
    groups_wanted = subgroups_of(cohort, experiment.evaluation.subgroups)
    dealt = [splits_of(experiment, cohort, number) for number in range(experiment.splits.repeats)]
    check_tuned(experiment, dealt)
    audit = _audited(dealt, cohort, experiment)
    for leak in audit.leaks:
        say(f"  LEAK: {leak}")
    splits, out = dealt[0], experiment.out
    out.mkdir(parents=True, exist_ok=True)
    for old in [*out.glob("splits-*.csv"), *out.glob("splits-*.json"), *out.glob("predictions-*.csv")]:
        old.unlink()  # of an earlier run with more repeats
    for number, one in enumerate(dealt):
        save_splits(one, out / (f"splits-{number + 1}.csv" if number else "splits.csv"))
    folds = [one.test_fold(cohort.patients) for one in dealt]
    fold = folds[0]
    bags = Bags(cohort.slides, encoder=cohort.encoder)
    sizes = np.array([bags.count(i) for i in range(len(bags))])
    manifest = build_manifest(experiment, cohort, splits, bags) | {"audit": audit.values()}
    if len(dealt) > 1:
        manifest["splits hash of repeats"] = [one.hash for one in dealt]

    jobs = [job for number, one in enumerate(dealt) for job in plan_members(experiment, cohort, one, repeat=number)]
    pairs = plan_pairs(experiment, cohort, dealt) if experiment.evaluation.nested else []
    create_aggregator(experiment.model.aggregator, in_dim=bags.dim, **experiment.model.options)
    check_start(experiment, cohort)
    # nothing is refused from here on: the models of an earlier run, with other folds, may go
    kept = forget_other_models(experiment, cohort, [*jobs, *pairs], bags)
    if kept:
        planned = len(jobs) + len(pairs)
        say(f"{kept} of {planned} models are there already, fitted with the same settings on the same patients")
    times = f"{len(dealt)} x " if len(dealt) > 1 else ""
    say(f"fitting {len(jobs)} models: {times}{len(splits.folds)} folds x {experiment.splits.inner_folds}")
    if pairs:
        say(cost_words(pairs, cohort.target))
    left = Counter((job.repeat, job.fold) for job in jobs)

    def told(result: MemberResult) -> None:
        if result.job.second is not None:
            return
        at = (result.job.repeat, result.job.fold)
        left[at] -= 1
        if not left[at]:
            which = f"repeat {at[0] + 1}, " if len(dealt) > 1 else ""
            say(f"  {which}fold {at[1] + 1} of {len(splits.folds)} fitted")

    facts = bundle_facts(cohort, manifest)
    count = min(workers or cores(), len(jobs))
    fitted = fit_members(experiment, cohort, [*jobs, *pairs], facts=facts, workers=count, spread=spread, done=told)
    task = create_task(endpoint, cohort.target)
    every = [m for m in fitted if m.job.second is None]
    members = [m for m in every if m.job.repeat == 0]
    prediction, attention = _average(members, len(cohort), len(task.columns))

    say(f"measuring: {experiment.evaluation.bootstrap} resamples of patients")
    threshold = _thresholds(members, cohort.target, fold, out)
    notes = [*audit.leaks, *_notes(prediction, fold, cohort)]
    if experiment.tuned is not None and not experiment.tuned.folds:
        notes.insert(0, ON_THESE_PATIENTS.format(trials=experiment.tuned.trials))
    repeats = _repeats(every, dealt, folds, cohort, task, out, notes)
    rounds = [one.round for one in repeats]
    groups, test = _groups(members, prediction, cohort.target, fold, experiment, notes)
    settings = experiment.evaluation
    name = f"{experiment.model.aggregator} on {experiment.encoder}"
    metrics = metrics_of(task, prediction, cohort.target, fold, settings, threshold=threshold, repeats=rounds)
    if pairs:
        twice = [m for m in fitted if m.job.second is not None]
        metrics += (nested_metric(twice, [prediction, *(r.prediction for r in rounds)], folds, cohort.target),)
    model = ModelResult(name, prediction, metrics)
    tables = _simple_features(experiment, cohort, bags, sizes, notes)
    baselines, others_again = [], []
    for title, features, predict_ in tables:
        again = [Round(predict_(features, cohort.target, f), f) for f in folds]
        metrics = metrics_of(task, again[0].prediction, cohort.target, fold, settings, repeats=again[1:])
        baselines.append(ModelResult(title, again[0].prediction, metrics))
        others_again.append(again[1:])
    others = [(b.name, b.prediction) for b in baselines]
    result = CrossvalResult(
        experiment=experiment,
        cohort=cohort,
        splits=splits,
        fold=fold,
        columns=task.columns,
        model=model,
        baselines=tuple(baselines),
        differences=differences_of(
            task, prediction, others, cohort.target, fold, settings, repeats=rounds, other_repeats=others_again
        ),
        members=tuple(m.member for m in members),
        attention=tuple(attention),
        threshold=threshold,
        risk_group=groups,
        log_rank=test,
        notes=tuple(notes),
        manifest=manifest,
        audit=audit,
        subgroups=_subgroups(groups_wanted, task, (Round(prediction, fold, threshold), *rounds), cohort, experiment),
        repeats=repeats,
    )
    write_run(result)
    return result


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


def _repeats(
    every: list[MemberResult],
    dealt: list[Splits],
    folds: list[npt.NDArray[np.int64]],
    cohort: Cohort,
    task: Task,
    out: Path,
    notes: list[str],
) -> tuple[Repeat, ...]:
    """What the further cross-validations say; notes of theirs are added."""
    found = []
    for number in range(1, len(dealt)):
        mine = [m for m in every if m.job.repeat == number]
        prediction, _ = _average(mine, len(cohort), len(task.columns))
        threshold = _thresholds(mine, cohort.target, folds[number], out)
        notes += [f"Repeat {number + 1}, {note}" for note in _collapsed(prediction, folds[number])]
        round_ = Round(prediction, folds[number], threshold)
        found.append(Repeat(dealt[number], round_, tuple(m.member for m in mine)))
    return tuple(found)


def _subgroups(
    wanted: Sequence[Subgroup], task: Task, rounds: Sequence[Round], cohort: Cohort, experiment: Experiment
) -> tuple[SubgroupResult, ...]:
    found = []
    for group in wanted:
        rows = group.rows
        parts = [
            Round(r.prediction[rows], r.fold[rows], None if r.threshold is None else r.threshold[rows]) for r in rounds
        ]
        first = parts[0]
        metrics = metrics_of(
            task, first.prediction, cohort.target.take(rows), first.fold, experiment.evaluation,
            threshold=first.threshold, repeats=parts[1:],
        )  # fmt: skip
        found.append(SubgroupResult(group.column, group.name, rows, metrics))
    return tuple(found)


def _average(
    members: list[MemberResult], patients: int, columns: int
) -> tuple[Values, list[npt.NDArray[np.float32] | None]]:
    """Mean prediction and mean attention of the models of each patient's fold."""
    total, times = np.zeros((patients, columns)), np.zeros((patients, 1))
    attention: list[npt.NDArray[np.float32] | None] = [None] * patients
    for member in members:
        total[member.job.test] += member.prediction
        times[member.job.test] += 1
        for row, weights in zip(member.job.test.tolist(), member.attention, strict=True):
            before = attention[row]
            attention[row] = weights if before is None or weights is None else before + weights
    for row, weights in enumerate(attention):
        if weights is not None:
            attention[row] = weights / times[row, 0].astype(np.float32)
    return total / times, attention


def _thresholds(
    members: list[MemberResult], target: Target, fold: npt.NDArray[np.int64], out: Path
) -> npt.NDArray[np.float64] | None:
    """Of each patient the threshold of its fold: best balanced accuracy on the inner validation patients."""
    if not isinstance(target, ClassTarget) or len(target.classes) != 2:
        return None
    found = np.full(len(fold), np.nan)
    for number in np.unique(fold):
        mine = [m for m in members if m.job.fold == number]
        rows = np.concatenate([m.job.validation for m in mine])
        score = np.concatenate([m.rest[len(m.job.train) :, 1] for m in mine])
        value = best_threshold(score, target.label[rows] == 1)
        found[fold == number] = value
        for m in mine:
            with_threshold(out / m.member.bundle, {"probability": value})
    return found


def best_threshold(score: npt.NDArray[np.float64], positive: npt.NDArray[np.bool_]) -> float:
    """The threshold with the best balanced accuracy, half-way between two scores; 0.5 with one class only."""
    if positive.all() or not positive.any():
        return 0.5
    distinct = np.unique(score)
    between = np.concatenate([distinct[:1] - 1e-6, (distinct[1:] + distinct[:-1]) / 2])
    called = score[None] > between[:, None]
    balanced = called[:, positive].mean(1) + (~called[:, ~positive]).mean(1)
    best = np.flatnonzero(balanced >= balanced.max() - 1e-12)
    return float(between[best[len(best) // 2]])


def _groups(
    members: list[MemberResult],
    prediction: Values,
    target: Target,
    fold: npt.NDArray[np.int64],
    experiment: Experiment,
    notes: list[str],
) -> tuple[npt.NDArray[np.int64] | None, LogRank | None]:
    """Low and high risk by the median of the training folds' risks, and the test of the two.

    Where a fold's model has collapsed there is no such cut, and a note takes the groups' place: hours
    of fitting are not thrown away for a figure.
    """
    if not isinstance(target, SurvivalTarget):
        return None, None
    cuts = {}
    for number in np.unique(fold):
        risk: dict[int, list[float]] = {}
        for m in members:
            if m.job.fold == number:
                rows = np.concatenate([m.job.train, m.job.validation]).tolist()
                for row, value in zip(rows, m.rest[:, 0].tolist(), strict=True):
                    risk.setdefault(row, []).append(value)
        try:
            cuts[int(number)] = training_cuts([float(np.mean(values)) for values in risk.values()])
        except ConfigError as e:
            notes.append(f"No risk groups: fold {number + 1}: {e}.")
            return None, None
    for m in members:
        with_threshold(experiment.out / m.member.bundle, {"log_risk": float(cuts[m.job.fold][0])})
    groups = risk_groups(prediction[:, 0], fold, cuts)
    try:
        test = log_rank(target.time, target.event, groups, fold=fold, permutations=experiment.evaluation.permutations)
    except UndefinedMetricError as e:
        notes.append(f"No log-rank test: {e}.")
        return groups, None
    return groups, test


def _simple_features(
    experiment: Experiment, cohort: Cohort, bags: Bags, sizes: npt.NDArray[np.int64], notes: list[str]
) -> list[tuple[str, npt.NDArray[np.floating], Callable[..., Values]]]:
    """Name, features (P, D) and the simple model of every baseline."""
    encoder = experiment.evaluation.baseline_encoder
    tables: list[tuple[str, npt.NDArray[np.floating], Callable[..., Values]]] = [
        (f"linear probe on mean {experiment.encoder}", bags.means(), probe_predictions)
    ]
    lacking = [s.slide_id for mine in cohort.slides for s in mine if not _finished(s.store, s.slide_id, encoder)]
    if lacking:
        notes.append(
            f"No {encoder} baseline: {len(lacking)} slides have no features of that encoder. "
            f"'wsikit extract ... --encoder {encoder}' into the same store adds them."
        )
    else:
        tables.append((f"mean of {encoder}", Bags(cohort.slides, encoder=encoder).means(), baseline_predictions))
    tables.append(("number of tiles", np.log(sizes)[:, None], baseline_predictions))
    return tables


def _finished(store: object, slide_id: str, encoder: str) -> bool:
    from wsikit.store.reader import FeatureStore

    assert isinstance(store, FeatureStore)
    return store.has(slide_id, encoder) and store.finished(slide_id, encoder)


def _notes(prediction: Values, fold: npt.NDArray[np.int64], cohort: Cohort) -> list[str]:
    notes = [note[:1].upper() + note[1:] for note in _collapsed(prediction, fold)]
    if isinstance(cohort.target, SurvivalTarget) and cohort.target.event.sum() < 50:
        notes.append(f"Only {int(cohort.target.event.sum())} events: intervals are wide, and so is chance.")
    if len(cohort) < 100:
        notes.append(f"{len(cohort)} patients: with folds this small a metric moves by several hundredths by luck.")
    return notes


def _collapsed(prediction: Values, fold: npt.NDArray[np.int64]) -> list[str]:
    found = []
    for number in np.unique(fold):
        mine = prediction[fold == number]
        if len(mine) > 2 and np.ptp(mine, axis=0).max() < 1e-6:
            found.append(f"fold {number + 1}: all {len(mine)} predictions are the same; the model has collapsed there.")
    return found
