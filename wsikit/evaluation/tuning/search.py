"""All studies of a tuning at once: who proposes when, what is fitted, and what it amounts to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from wsikit.cohort.endpoints import Endpoint
from wsikit.evaluation.tuning.plan import StudyPlan
from wsikit.evaluation.tuning.settings import TuneSettings
from wsikit.evaluation.tuning.space import Value
from wsikit.evaluation.tuning.study import Study, Trial
from wsikit.evaluation.tuning.trial import FitOutcome, TrialFit
from wsikit.evaluation.tuning.workers import Fitter
from wsikit.metrics.undefined import UndefinedMetricError
from wsikit.tasks.task import create_task

Told = Callable[[StudyPlan, Trial], None]


@dataclass
class _Open:
    """A study under way.

    Attributes:
        plan: Who is in it.
        study: Its journal.
        asked: Trials that were proposed.
        told: Trials whose result is written down: the first so many.
        values: Settings of each trial that is proposed and not told.
        parts: What has come of each of these, by part.
    """

    plan: StudyPlan
    study: Study
    asked: int
    told: int
    values: dict[int, Mapping[str, Value]] = field(default_factory=dict)
    parts: dict[int, dict[int, FitOutcome]] = field(default_factory=dict)


def search(
    plans: Sequence[StudyPlan],
    studies: Sequence[Study],
    fitter: Fitter,
    *,
    endpoint: Endpoint,
    settings: TuneSettings,
    told: Told = lambda plan, trial: None,
) -> None:
    """Go on with every study until it has as many trials as are wanted.

    Results are written down in the order of the trials, whatever the order in which they come, and trial k is
    proposed when trial k - ``at_once`` is written down. So what the sampler knows depends on no clock and on no
    number of workers. Studies do not wait for one another.

    Args:
        plans: Who is in each.
        studies: Their journals; trials that were under way when a process was killed are fitted again.
        fitter: Where models are fitted.
        endpoint: What is predicted.
        settings: Trials, metric, how many at once.
        told: Called for every trial that is written down.
    """
    opened: list[_Open] = []
    for plan, study in zip(plans, studies, strict=True):
        before = study.trials()[: settings.trials]
        done = sum(trial.finished for trial in before)
        one = _Open(plan, study, len(before), done)
        for trial in before[done:]:
            _start(one, len(opened), trial, fitter)
        opened.append(one)
    left = sum(settings.trials - one.told for one in opened)
    for number, one in enumerate(opened):
        _propose(one, number, fitter, settings)
    while left:
        (number, asked, part), outcome = fitter.next()
        one = opened[number]
        one.parts[asked][part] = outcome
        while one.told < one.asked and len(one.parts[one.told]) == len(one.plan.parts):
            told(one.plan, _tell(one, endpoint, settings))
            left -= 1
        _propose(one, number, fitter, settings)


def _propose(one: _Open, number: int, fitter: Fitter, settings: TuneSettings) -> None:
    while one.asked < min(settings.trials, one.told + settings.at_once):
        trial = one.study.ask()
        one.asked += 1
        _start(one, number, trial, fitter)


def _start(one: _Open, number: int, trial: Trial, fitter: Fitter) -> None:
    one.values[trial.number], one.parts[trial.number] = trial.values, {}
    for part, fold in enumerate(one.plan.parts):
        wanted = TrialFit(trial.values, one.plan.target, fold.train, fold.judged, fold.seed)
        fitter.submit((number, trial.number, part), wanted)


def _tell(one: _Open, endpoint: Endpoint, settings: TuneSettings) -> Trial:
    """Write down what came of the next trial."""
    number = one.told
    found = one.parts.pop(number)
    outcomes = [found[part] for part in range(len(found))]
    cost = {
        "fits": len(outcomes),
        "epochs": sum(o.epochs for o in outcomes),
        "cpu_s": round(sum(o.cpu_s for o in outcomes), 3),
    }
    score, problem = score_of(one.plan, outcomes, endpoint, settings.metric)
    one.study.tell(number, score, cost, problem)
    one.told += 1
    return Trial(number, one.values.pop(number), score, True, cost, problem)


def score_of(
    plan: StudyPlan, outcomes: Sequence[FitOutcome], endpoint: Endpoint, metric: str
) -> tuple[float | None, str]:
    """The score of a trial, higher = better, over all judged patients; or None and why it has none.

    Patients of one inner fold only are compared; a loss is the mean over the judged patients, with its sign turned.
    """
    problems = list(dict.fromkeys(o.problem for o in outcomes if o.problem))
    if problems:
        return None, "; ".join(problems)
    sizes = [len(part.judged) for part in plan.parts]
    if metric == "loss":
        return -float(np.average([o.loss for o in outcomes], weights=sizes)), ""
    rows = np.concatenate([part.judged for part in plan.parts])
    prediction = np.concatenate([o.prediction for o in outcomes if o.prediction is not None])
    target = plan.target.take(rows)
    groups = np.repeat(np.arange(len(sizes)), sizes).astype(np.int64)
    try:
        score = create_task(endpoint, target).score(prediction, target, groups)
    except UndefinedMetricError as e:
        return None, str(e)
    return (float(score), "") if np.isfinite(score) else (None, "the score is not finite")
