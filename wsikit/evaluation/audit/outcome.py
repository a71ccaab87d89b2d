"""Whether trivial models predict the outcome, and whether the pipeline finds nothing where there is nothing."""

from __future__ import annotations

import contextlib

import numpy as np
import numpy.typing as npt

from wsikit.cohort.endpoints import ContinuousTarget
from wsikit.cohort.table import Cohort
from wsikit.evaluation.audit.check import ALPHA, AMBER, GREEN, RED, AuditSettings, Check, Number
from wsikit.evaluation.baselines import baseline_predictions
from wsikit.evaluation.bootstrap import bootstrap_interval, paired_difference_interval
from wsikit.evaluation.scores import main_statistic, strata
from wsikit.metrics.undefined import UndefinedMetricError
from wsikit.tasks.task import create_task

Numbers = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]


def _chance(cohort: Cohort) -> float:
    return 0.0 if isinstance(cohort.target, ContinuousTarget) else 0.5


def simple_model(
    cohort: Cohort,
    name: str,
    features: npt.NDArray[np.floating],
    probe: Numbers,
    fold: Codes,
    asked: AuditSettings,
) -> Check:
    """Whether a trivial model predicts the outcome, and whether the features add anything to it.

    Args:
        cohort: Patients.
        name: Of the trivial model.
        features: (P, D) that it sees.
        probe: (P, K) out-of-fold predictions of a linear model of all features.
        fold: (P,).
        asked: How much work.
    """
    task = create_task(cohort.endpoint, cohort.target)
    title, question = name, f"Is the outcome predicted by {name.removesuffix(' only')} alone?"
    prediction = baseline_predictions(features, cohort.target, fold)
    score, best = (main_statistic(task, values, cohort.target, fold) for values in (prediction, probe))
    every, groups = np.arange(len(cohort)), strata(cohort.target, fold)
    try:
        value, reached = score(every), best(every)
        interval = bootstrap_interval(score, len(cohort), draws=asked.bootstrap, strata=groups)
        gain = paired_difference_interval(best, score, len(cohort), draws=asked.bootstrap, strata=groups)
    except UndefinedMetricError as e:
        return Check(title, question, AMBER, f"It cannot be measured: {e}.")
    text = (
        f"{task.metric} {value:.2f} ({interval.low:.2f} to {interval.high:.2f}); a linear model of the features "
        f"{reached:.2f}, better by {gain.low:+.2f} to {gain.high:+.2f}."
    )
    random = _shuffled(cohort, features, fold, asked)
    p = (1 + int((random >= value - 1e-9).sum())) / (1 + len(random))
    others = {"linear model of the features": reached}
    number = Number(task.metric, value, _chance(cohort), interval, random, others)
    if p > ALPHA:
        return Check(title, question, GREEN, f"{text} Nothing that chance does not give.", number=number)
    if gain.low > 0:
        advice = "Report it beside every result: part of what is predicted is no morphology."
        return Check(title, question, AMBER, text, advice, number)
    advice = (
        "The features are not established to add anything. Do not claim morphology; look for stain, scanner or size."
    )
    return Check(title, question, RED, text, advice, number)


def _shuffled(cohort: Cohort, features: npt.NDArray[np.floating], fold: Codes, asked: AuditSettings) -> Numbers:
    """The metric of a linear model of some features on cohorts with shuffled outcomes, fitted anew on each."""
    task, every = create_task(cohort.endpoint, cohort.target), np.arange(len(cohort))
    rng = np.random.default_rng([asked.seed, 3])
    found = []
    for _ in range(asked.label_permutations):
        dealt = cohort.target.take(rng.permutation(len(cohort)))
        with contextlib.suppress(UndefinedMetricError):
            found.append(main_statistic(task, baseline_predictions(features, dealt, fold), dealt, fold)(every))
    return np.array(found)


def label_permutation(
    cohort: Cohort, means: npt.NDArray[np.floating], probe: Numbers, fold: Codes, asked: AuditSettings
) -> Check:
    """A linear model on relabelled cohorts: nothing can be learned there, so nothing may be found.

    With a fixed number of each class the training patients of a shuffled cohort lean away from the tested ones, so
    that the mean lies a little below chance in small cohorts; only a mean above it is a leak.

    Args:
        cohort: Patients.
        means: (P, D) mean features.
        probe: (P, K) its out-of-fold predictions on the true outcomes.
        fold: (P,).
        asked: How much work.
    """
    title, question = "label permutation", "Does the pipeline find nothing where there is nothing?"
    task = create_task(cohort.endpoint, cohort.target)
    every = np.arange(len(cohort))
    found = _shuffled(cohort, means, fold, asked)
    try:
        value = main_statistic(task, probe, cohort.target, fold)(every)
    except UndefinedMetricError as e:
        return Check(title, question, AMBER, f"It cannot be measured: {e}.")
    if len(found) < 10:
        return Check(title, question, AMBER, f"{task.metric} is defined on {len(found)} relabelled cohorts only.")
    random, chance = found, _chance(cohort)
    low, high = np.quantile(random, [0.025, 0.975]).tolist()
    error = 3 * random.std(ddof=1) / np.sqrt(len(random))
    p = (1 + int((random >= value - 1e-9).sum())) / (1 + len(random))
    text = (
        f"On {len(random)} cohorts with shuffled outcomes a linear model of the mean features has {task.metric} "
        f"{random.mean():.2f} on average ({low:.2f} to {high:.2f} for 95 % of them; {chance:g} is chance); on the true "
        f"one {value:.2f} (p {p:.3f})."
    )
    number = Number(task.metric, value, chance, random=random)
    if random.mean() - error > chance:
        advice = "Something of the tested patients reaches the fitting. Trust no number until it is found."
        return Check(title, question, RED, text, advice, number)
    if p > ALPHA:
        advice = "The true outcome is predicted no better than shuffled ones: there may be nothing to find, or too few."
        return Check(title, question, AMBER, text, advice, number)
    return Check(title, question, GREEN, text, number=number)
