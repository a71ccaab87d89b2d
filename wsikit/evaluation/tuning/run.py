"""Tune a model: choose its settings by trials on inner folds, and say how good the whole recipe is."""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from wsikit.aggregators.registry import create_aggregator
from wsikit.cohort.bags import Bags
from wsikit.cohort.endpoints import endpoint_from, endpoint_settings
from wsikit.cohort.splits import Splits
from wsikit.cohort.table import Cohort
from wsikit.config import config_hash, differences
from wsikit.errors import ConfigError
from wsikit.evaluation.cohort import cohort_of
from wsikit.evaluation.crossval import crossval
from wsikit.evaluation.fitting import splits_of
from wsikit.evaluation.members import bags_of, check_start
from wsikit.evaluation.result import CrossvalResult
from wsikit.evaluation.settings import Experiment
from wsikit.evaluation.train import roles_of
from wsikit.evaluation.tuning.files import BEST, write_best, write_trials
from wsikit.evaluation.tuning.folds import patients_hash
from wsikit.evaluation.tuning.plan import Purpose, StudyPlan, plan_folds, plan_model
from wsikit.evaluation.tuning.search import search
from wsikit.evaluation.tuning.settings import Tuned, TuneSettings
from wsikit.evaluation.tuning.space import Choice, Space, changed, current, space_from
from wsikit.evaluation.tuning.study import Study, Trial, best_of
from wsikit.evaluation.tuning.trial import TrialData
from wsikit.evaluation.tuning.workers import Fitter, Here, OnCrew, crew_map
from wsikit.extract.clusters import Crew, local_crew
from wsikit.processes import cores
from wsikit.store.lease import RESULTS, Lease
from wsikit.store.objects import write_atomic

Say = Callable[[str], None]
OpenCrew = Callable[[], contextlib.AbstractContextManager[Crew]]

JOURNAL, RECORD, ESTIMATE = "journal.log", "tune.json", "crossval"


@dataclass(frozen=True)
class StudyResult:
    """One study.

    Attributes:
        title: "fold 1", "final model".
        trials: All of them, in order.
        best: The one whose settings were chosen.
    """

    title: str
    trials: tuple[Trial, ...]
    best: Trial


@dataclass(frozen=True)
class TuneResult:
    """A tuning.

    Attributes:
        out: Folder with everything.
        studies: One for each fold, then that of the final model.
        metric: Name of what trials were judged by.
        sign: What a trial's score is multiplied by for showing: -1 of a loss.
        best: The experiment as ``best.yaml`` has it.
        estimate: The cross-validation in which each fold has the settings chosen without it; None where none was
            asked for.
    """

    out: Path
    studies: tuple[StudyResult, ...]
    metric: str
    sign: int
    best: Experiment
    estimate: CrossvalResult | None


def tune(
    experiment: Experiment,
    *,
    purpose: Purpose = "both",
    fold: int | None = None,
    workers: int | None = None,
    crew: OpenCrew | None = None,
    say: Say = lambda line: None,
    watch: Callable[[int, int, str], None] = lambda done, total, line: None,
) -> TuneResult:
    """Choose settings by trials, each judged on inner folds of the patients that may choose.

    For the estimate every fold of the cross-validation has a study of its own on its other patients, and the
    settings that it chooses are fitted on them and tested on the fold once. The tested patients' outcomes are
    not even given to the trials. For the model one study is on all training patients.

    Written into ``experiment.out``: ``journal.log`` (Optuna's), ``trials.csv``, ``best.yaml``, ``tune.json``, and
    ``crossval/``. After a crash the same call goes on: finished trials are kept, and the others are proposed
    as they would have been.

    Args:
        experiment: From :func:`wsikit.evaluation.settings.load_experiment`; ``experiment.tune`` says what is tried.
        purpose: ``estimate``, ``model`` or ``both``.
        fold: Of a split file with several folds, from 0: whose training patients the final model is for.
        workers: Processes on this machine; default one for each core. 1 is this process.
        crew: Or how to open a Dask cluster; its workers have to see the same paths.
        say: Called with a line of text at each step.
        watch: Called after each trial: how many are done, of how many, and what came of it.

    Raises:
        ConfigError: Anything about the table, the stores, the splits or the settings that cannot be used; a folder
            with trials of another experiment; a study none of whose trials came to anything.
        LockedError: Another process writes into ``experiment.out``.
    """
    endpoint = endpoint_from(experiment.endpoint)
    cohort = cohort_of(experiment, say=say)
    wanted = experiment.tune
    experiment = experiment.model_copy(update={"tuned": None})
    dealt, plans, patients = _planned(experiment, cohort, purpose, fold)
    space = _space(experiment, cohort)
    say(_cost_words(experiment, plans, space))
    out = experiment.out
    out.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        lease = stack.enter_context(Lease(out, kind=RESULTS, say=say))
        _check_same(out / RECORD, _identity(experiment, cohort, plans, space))
        first = current(space, experiment.model, experiment.training)
        studies = [
            Study(out / JOURNAL, plan.name, space, seed=(wanted.seed, *plan.seed), first=first) for plan in plans
        ]
        before = sum(trial.finished for study in studies for trial in study.trials()[: wanted.trials])
        total = wanted.trials * len(plans)
        if before:
            say(f"{before} of {total} trials are there already")
        done = before

        def told(plan: StudyPlan, trial: Trial) -> None:
            nonlocal done
            lease.check()
            done += 1
            write_trials(
                out, [(p, s.trials()[: wanted.trials]) for p, s in zip(plans, studies, strict=True)], space, sign
            )
            watch(done, total, f"{plan.title}, trial {trial.number + 1} of {wanted.trials}: {_came(trial, sign)}")

        sign = -1 if wanted.metric == "loss" else 1
        opened = (
            stack.enter_context(crew()) if crew is not None else _processes(stack, workers or cores(), total - done)
        )
        fitter: Fitter = (
            Here(data_of(experiment, cohort)) if opened is None else OnCrew(opened, data_of(experiment, cohort))
        )
        search(plans, studies, fitter, endpoint=endpoint, settings=wanted, told=told)
        results = [_result(plan, study, wanted) for plan, study in zip(plans, studies, strict=True)]
        write_trials(out, [(p, s.trials) for p, s in zip(plans, results, strict=True)], space, sign)
        best = _best(experiment, results, dealt, patients, space)
        write_best(best, out / BEST)
        for one in results:
            say(f"{one.title}: trial {one.best.number + 1} is best, {_came(one.best, sign)}: {values_text(one.best)}")
        estimate = None
        if dealt:
            tuned = best.model_copy(update={"out": out / ESTIMATE})
            spread = None if opened is None else partial(crew_map, opened)
            estimate = crossval(tuned, workers=workers, spread=spread, say=say)
    metric = "loss" if sign < 0 else _metric_name(cohort)
    return TuneResult(out, tuple(results), metric, sign, best, estimate)


def _processes(stack: contextlib.ExitStack, workers: int, left: int) -> Crew | None:
    """Workers on this machine; none where one is enough, or nothing is left to do."""
    return stack.enter_context(local_crew(workers, threads=1)) if workers > 1 and left else None


def _planned(
    experiment: Experiment, cohort: Cohort, purpose: Purpose, fold: int | None
) -> tuple[list[Splits], list[StudyPlan], str | None]:
    """Splits of the estimate, every study, and a hash of the patients of the final model's."""
    if experiment.evaluation.nested and purpose != "model":
        raise ConfigError(
            "evaluation.nested: each pair of folds would need a study of its own; leave 'nested' out while tuning"
        )
    dealt = [] if purpose == "model" else [splits_of(experiment, cohort, n) for n in range(experiment.splits.repeats)]
    plans = plan_folds(experiment, cohort, dealt)
    if purpose == "estimate" or (purpose == "both" and experiment.splits.file is not None and fold is None):
        return dealt, plans, None  # of a split file there is no training of everybody
    roles = roles_of(experiment, cohort, fold).folds[0]
    return dealt, [*plans, plan_model(experiment, cohort, roles)], patients_hash(roles)


def _space(experiment: Experiment, cohort: Cohort) -> Space:
    """The space, every option of which the aggregator takes at least alone."""
    model, space = experiment.model, space_from(experiment.tune.space, experiment.model, experiment.training)
    check_start(experiment, cohort)
    dim = bags_of(experiment, cohort).dim
    create_aggregator(model.aggregator, in_dim=dim, **model.options)
    for name, parameter in space.items():
        for value in parameter.values if isinstance(parameter, Choice) else (parameter.low, parameter.high):
            options = changed(model, experiment.training, {name: value})[0].options
            create_aggregator(model.aggregator, in_dim=dim, **options)
    return space


def _cost_words(experiment: Experiment, plans: list[StudyPlan], space: Space) -> str:
    parts = sum(len(plan.parts) for plan in plans)
    trials = experiment.tune.trials
    return (
        f"tuning {', '.join(name.rpartition('.')[2] for name in space)}: {trials} trials in each of {len(plans)} "
        f"stud{'y' if len(plans) == 1 else 'ies'}, "
        f"{trials * parts:,} fits on inner folds"
    )


def data_of(experiment: Experiment, cohort: Cohort) -> TrialData:
    """What every fit of a tuning is given."""
    bags: Bags = bags_of(experiment, cohort)
    return TrialData(
        token=uuid.uuid4().hex,
        slides=cohort.slides,
        encoder=cohort.encoder,
        cache_gb=experiment.training.cache_gb,
        graphs=bags.graphs,
        endpoint=cohort.endpoint,
        model=experiment.model,
        training=experiment.training,
        watch_share=experiment.splits.validation,
    )


def _identity(experiment: Experiment, cohort: Cohort, plans: list[StudyPlan], space: Space) -> dict[str, Any]:
    """What decides every trial; how many trials and which of the studies there are is free."""
    digests = {s.slide_id: s.store.digest(s.slide_id, cohort.encoder) for mine in cohort.slides for s in mine}
    settings = experiment.model_dump(mode="json", include={"model", "training"})
    return {
        **settings,
        "tune": experiment.tune.model_dump(mode="json", exclude={"trials", "space"}),
        "space": {name: repr(parameter) for name, parameter in space.items()},
        "endpoint": endpoint_settings(cohort.endpoint),
        "features": config_hash(digests),
        "studies": {plan.name: plan.digest(cohort.patients) for plan in plans},
    }


def _check_same(record: Path, identity: dict[str, Any]) -> None:
    if record.is_file():
        stored = json.loads(record.read_text(encoding="utf-8"))
        studies = stored["studies"] | identity["studies"]
        other = differences(stored, identity | {"studies": {name: studies[name] for name in stored["studies"]}})
        if other:
            raise ConfigError(
                f"{record.parent}: its trials are of another experiment ({'; '.join(other[:5])}); give another --out, "
                "or remove the folder"
            )
        identity = identity | {"studies": studies}
    write_atomic(record, (json.dumps(identity, indent=2) + "\n").encode())


def _result(plan: StudyPlan, study: Study, wanted: TuneSettings) -> StudyResult:
    trials = study.trials()[: wanted.trials]
    best = best_of(trials, wanted.trials)
    if best is None:
        raise ConfigError(
            f"{plan.title}: none of {len(trials)} trials came to anything; the first: {trials[0].problem}"
        )
    return StudyResult(plan.title, tuple(trials), best)


def _best(
    experiment: Experiment, results: list[StudyResult], dealt: list[Splits], patients: str | None, space: Space
) -> Experiment:
    trials = [trial for one in results for trial in one.trials]
    folds = results[: sum(len(one.folds) for one in dealt)]
    tuned = Tuned(
        trials=experiment.tune.trials,
        studies=len(results),
        fits=int(sum(t.cost["fits"] for t in trials)),
        epochs=int(sum(t.cost["epochs"] for t in trials)),
        cpu_hours=round(sum(t.cost["cpu_s"] for t in trials) / 3600, 4),
        failed=sum(t.score is None for t in trials),
        metric=experiment.tune.metric,
        space={name: parameter.plain() for name, parameter in space.items()},
        folds=tuple(dict(one.best.values) for one in folds),
        splits=tuple(one.hash for one in dealt),
        patients=patients,
    )
    model, training = experiment.model, experiment.training
    if patients is not None:
        model, training = changed(model, training, results[-1].best.values)
    return experiment.model_copy(update={"model": model, "training": training, "tuned": tuned})


def _came(trial: Trial, sign: int) -> str:
    return f"{sign * trial.score:.4f}" if trial.score is not None else f"failed: {trial.problem}"


def values_text(trial: Trial) -> str:
    """``learning_rate 0.0021, tile_dropout 0.5``."""
    shown = {name.rpartition(".")[2]: v for name, v in trial.values.items()}
    return ", ".join(f"{name} {v:.3g}" if isinstance(v, float) else f"{name} {v}" for name, v in shown.items())


def _metric_name(cohort: Cohort) -> str:
    from wsikit.tasks.task import create_task

    return create_task(cohort.endpoint, cohort.target).metric
