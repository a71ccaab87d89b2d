"""A linear probe: what the encoder's features say by themselves, averaged over a patient's tiles."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt

from wsikit.cohort.endpoints import ClassTarget, ContinuousTarget, SurvivalTarget, Target
from wsikit.cohort.several_labels import LabelsTarget
from wsikit.cohort.several_outcomes import SeveralTarget
from wsikit.evaluation.baselines import baseline_predictions
from wsikit.tasks.task import Values

PENALTIES = tuple(10.0**power for power in range(-2, 3))
"""Ridge penalties that are tried; patients then have a squared length of about 1."""
INNER = 3
"""Parts that the training patients are dealt into to choose one."""
EVENTS_EACH = 5
"""Events for each component of the survival probe, and at most ``MOST_COMPONENTS`` of them."""
MOST_COMPONENTS = 32


def probe_predictions(features: npt.NDArray[np.floating], target: Target, fold: npt.NDArray[np.int64]) -> Values:
    """Out-of-fold predictions of a linear model on mean features, in the columns of the endpoint's task.

    Columns are standardised. Classes: logistic regression, a number: ridge regression, each on all
    columns, with the penalty that does best in an inner cross-validation of the training patients.
    Survival: Cox regression on as many principal components as the events allow. All is fitted on
    the other folds' patients. A slide model that does not beat this has learned nothing from
    looking at tiles one by one.

    Args:
        features: (P, D), mean of each patient's tiles.
        target: Of the patients.
        fold: (P,) the fold that tests each.

    Reference:
        Alain and Bengio, 2016, arXiv:1610.01644 (linear probes).
    """
    from threadpoolctl import threadpool_limits

    if isinstance(target, SurvivalTarget):
        return _survival(features, target, fold)
    if isinstance(target, LabelsTarget):
        return _labels(features, target, fold)
    assert not isinstance(target, SeveralTarget)  # several outcomes are measured one by one
    columns = len(target.classes) if isinstance(target, ClassTarget) else 1
    out = np.full((len(fold), columns), np.nan)
    with threadpool_limits(1):  # many small fits: threads that wait for one another would take most of the time
        for number in np.unique(fold):
            train, test = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
            out[test] = _ridge(*_standardised(features[train], features[test]), target.take(train))
    return out


def _labels(features: npt.NDArray[np.floating], target: LabelsTarget, fold: npt.NDArray[np.int64]) -> Values:
    """A model for each label, fitted on those who have it known; predictions of all."""
    from threadpoolctl import threadpool_limits

    out = np.full((len(fold), len(target.names)), np.nan)
    with threadpool_limits(1):
        for number in np.unique(fold):
            test = np.flatnonzero(fold == number)
            for i, known in enumerate(target.known.T):
                train = np.flatnonzero((fold != number) & known)
                one = ClassTarget(target.positive[train, i].astype(np.int64), ("no", "yes"))
                out[test, i] = _ridge(*_standardised(features[train], features[test]), one)[:, 1]
    return out


def _survival(features: npt.NDArray[np.floating], target: SurvivalTarget, fold: npt.NDArray[np.int64]) -> Values:
    few = max(1, min(MOST_COMPONENTS, int(min(target.event[fold != f].sum() for f in np.unique(fold))) // EVENTS_EACH))
    return baseline_predictions(features, target, fold, components=few)


def _standardised(train: npt.NDArray[np.floating], test: npt.NDArray[np.floating]) -> tuple[Values, Values]:
    """Columns of spread 1 / sqrt(D), so that a penalty means the same for any number of them."""
    mean, spread = train.mean(0, dtype=np.float64), train.std(0, dtype=np.float64)
    scale = np.where(spread > 1e-6 * max(float(spread.max()), 1e-12), spread, np.inf) * np.sqrt(train.shape[1])
    x, asked = (train - mean) / scale, (test - mean) / scale
    if x.shape[1] > len(x):  # in the space of the training patients: a ridge model is the same there, and quicker
        axes = np.linalg.svd(x, full_matrices=False)[2].T  # (D, n)
        x, asked = x @ axes, asked @ axes
    return x, asked


def _ridge(x: Values, asked: Values, target: ClassTarget | ContinuousTarget) -> Values:
    part = _parts(target)
    loss = np.zeros(len(PENALTIES))
    for i, penalty in enumerate(PENALTIES):
        for number in np.unique(part) if part.any() else ():
            train, watch = np.flatnonzero(part != number), np.flatnonzero(part == number)
            found = _fit(x[train], x[watch], target.take(train), penalty)
            loss[i] += _loss(found, target.take(watch))
    return _fit(x, asked, target, PENALTIES[int(loss.argmin())] if part.any() else 1.0)


def _parts(target: ClassTarget | ContinuousTarget) -> npt.NDArray[np.int64]:
    """Of each patient, in turns inside each class (or along the values); zeros where there are too few."""
    if isinstance(target, ClassTarget):
        if np.unique(target.label, return_counts=True)[1].min() < 2:
            return np.zeros(len(target), np.int64)
        order = np.argsort(target.label, kind="stable")
    else:
        order = np.argsort(target.value, kind="stable")
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank % min(INNER, len(order))


def _fit(x: Values, asked: Values, target: ClassTarget | ContinuousTarget, penalty: float) -> Values:
    if isinstance(target, ClassTarget):
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        out = np.zeros((len(asked), len(target.classes)))
        present = np.unique(target.label)
        if len(present) == 1:
            out[:, present[0]] = 1
            return out
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # of a penalty that is not chosen, then
            model = LogisticRegression(C=1 / penalty, max_iter=1000).fit(x, target.label)
        out[:, model.classes_] = model.predict_proba(asked)
        return out
    from sklearn.linear_model import Ridge

    return np.asarray(Ridge(alpha=penalty).fit(x, target.value).predict(asked)[:, None], np.float64)


def _loss(found: Values, target: ClassTarget | ContinuousTarget) -> float:
    if isinstance(target, ClassTarget):
        return float(-np.log(np.clip(found[np.arange(len(target)), target.label], 1e-6, 1)).sum())
    return float(((found[:, 0] - target.value) ** 2).sum())
