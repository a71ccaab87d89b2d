"""Simple models on the same folds: mean-pooled colour, and the number of tiles."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from wsikit.cohort.endpoints import ClassTarget, ContinuousTarget, SurvivalTarget, Target
from wsikit.cohort.several_labels import LabelsTarget
from wsikit.tasks.task import Values

COMPONENTS = 10
"""Principal components that a baseline sees, unless told otherwise."""


def baseline_predictions(
    features: npt.NDArray[np.floating], target: Target, fold: npt.NDArray[np.int64], *, components: int = COMPONENTS
) -> Values:
    """Out-of-fold predictions of a regularised linear model, in the columns of the endpoint's task.

    Columns are standardised and reduced to at most so many principal components; then comes
    logistic regression (one for each label), Cox regression (lifelines, ridge 0.1) or ridge regression. Everything is
    fitted on the other folds' patients.

    Args:
        features: (P, D), one row for each patient.
        target: Of the patients.
        fold: (P,) the fold that tests each.
        components: Principal components of the mean features that the model sees, at most.
    """
    columns = 1
    if isinstance(target, ClassTarget | LabelsTarget):
        columns = len(target.classes if isinstance(target, ClassTarget) else target.names)
    out = np.full((len(fold), columns), np.nan)
    for number in np.unique(fold):
        train, test = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        fitted, asked = _components(features[train], features[test], components)
        out[test] = _predict(fitted, target.take(train), asked)
    return out


def _components(train: npt.NDArray[np.floating], test: npt.NDArray[np.floating], most: int) -> tuple[Values, Values]:
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    if not np.ptp(train, axis=0).any():  # as the number of tiles, where slides give equally many
        return np.zeros((len(train), 1)), np.zeros((len(test), 1))
    scaler = StandardScaler().fit(train)
    a, b = scaler.transform(train), scaler.transform(test)
    few = min(most, a.shape[1], len(a) - 1)
    pca = PCA(few, svd_solver="full").fit(a)
    a, b = pca.transform(a), pca.transform(b)
    spread = a.std(0)
    real = spread > 1e-6 * spread.max()  # the others are rounding errors, and would be blown up to size 1
    return np.asarray(a[:, real] / spread[real], np.float64), np.asarray(b[:, real] / spread[real], np.float64)


def _predict(x: Values, target: Target, asked: Values) -> Values:
    if isinstance(target, ClassTarget):
        from sklearn.linear_model import LogisticRegression

        model = LogisticRegression(C=1.0, max_iter=2000).fit(x, target.label)
        out = np.zeros((len(asked), len(target.classes)))
        out[:, model.classes_] = model.predict_proba(asked)
        return out
    if isinstance(target, LabelsTarget):
        each = []
        for known, positive in zip(target.known.T, target.positive.T, strict=True):
            one = ClassTarget(positive[known].astype(np.int64), ("no", "yes"))
            # a label that all training patients share leaves nothing to fit
            alone = len(np.unique(one.label)) < 2
            each.append(np.full(len(asked), one.label.mean()) if alone else _predict(x[known], one, asked)[:, 1])
        return np.stack(each, 1)
    if isinstance(target, SurvivalTarget):
        if not x.any():
            return np.zeros((len(asked), 1))
        import pandas as pd
        from lifelines import CoxPHFitter

        table = pd.DataFrame(x, columns=[f"x{i}" for i in range(x.shape[1])])
        table["time"], table["event"] = target.time, target.event
        model = CoxPHFitter(penalizer=0.1).fit(table, "time", "event")
        return np.asarray(asked @ model.params_.to_numpy()[:, None], np.float64)
    assert isinstance(target, ContinuousTarget)  # several outcomes are measured one by one
    from sklearn.linear_model import Ridge

    return np.asarray(Ridge(alpha=1.0).fit(x, target.value).predict(asked)[:, None], np.float64)
