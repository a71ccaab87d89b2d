"""Several models as one: their mean, their common threshold, and whom each has not seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wsikit.cohort.bags import Bags
from wsikit.cohort.endpoints import ClassLabel, ClassTarget, Endpoint, Ordinal, Survival
from wsikit.cohort.several_outcomes import Several
from wsikit.errors import ConfigError
from wsikit.tasks.classification import called
from wsikit.tasks.several import SeveralTask
from wsikit.tasks.task import Values
from wsikit.training.bundle import Bundle, load_bundle
from wsikit.training.fit import predict

CALLED = {"class": "predicted_class", "ordinal": "predicted_class", "survival": "risk_group"}
"""Of each kind of endpoint the column with what a patient is called."""


def load_models(models: Path) -> list[Bundle]:
    """A bundle, or all of a folder.

    Raises:
        ConfigError: None there, or some that do not belong together.
    """
    files = sorted(models.glob("*.safetensors")) if models.is_dir() else [models]
    if not files:
        raise ConfigError(f"{models}: no *.safetensors in this folder; name the models/ that 'wsikit crossval' wrote")
    bundles = [load_bundle(file) for file in files]
    for file, bundle in zip(files, bundles, strict=True):
        for name in ("configuration-hash", "encoder"):
            mine, other = bundles[0].facts[name], bundle.facts[name]
            if name == "encoder":
                mine, other = mine["key"], other["key"]
            if mine != other or bundle.endpoint != bundles[0].endpoint:
                raise ConfigError(f"{files[0]} and {file} do not belong together ({name} or endpoint differ); name one")
    return bundles


def predictions_of(bundles: Sequence[Bundle], bags: Bags) -> tuple[list[Values], list[npt.NDArray[np.float32] | None]]:
    """Of each model its predictions (P, K), and of each patient the mean attention over the models."""
    rows, each = np.arange(len(bags)), []
    attention: list[npt.NDArray[np.float32] | None] = []
    for bundle in bundles:
        values, weights = predict(bundle.model, bundle.task, bags, rows, with_attention=True)
        each.append(values)
        if not attention:
            attention = weights
        else:
            attention = [a if a is None or w is None else a + w for a, w in zip(attention, weights, strict=True)]
    n = np.float32(len(bundles))
    return each, [None if a is None else a / n for a in attention]


def mean_of(each: Sequence[Values]) -> Values:
    """The mean of the models, added one after the other as a cross-validation does: equal bits."""
    total = each[0]
    for values in each[1:]:
        total = total + values
    return total / len(each)


def threshold_of(bundles: Sequence[Bundle], name: str) -> float | None:
    """The mean of the models' own cut points (``probability`` or ``log_risk``); None where one has none."""
    return _mean_cut([b.facts["thresholds"] for b in bundles], name)


def calls_of(bundles: Sequence[Bundle], values: npt.NDArray[np.float64]) -> dict[str, str]:
    """What a patient with values (K,) is called by the models' own thresholds: column and text of every call.

    The text is "" where they have no threshold; an endpoint that calls nobody anything has no column.
    """
    endpoint, task = bundles[0].endpoint, bundles[0].task
    cuts = [b.facts["thresholds"] for b in bundles]
    if not isinstance(endpoint, Several):
        return {CALLED[endpoint.kind]: _call(endpoint, cuts, values)} if endpoint.kind in CALLED else {}
    assert isinstance(task, SeveralTask)
    return {
        f"{name}_{CALLED[one.kind]}": _call(one, [c.get(name, {}) for c in cuts], values[columns])
        for (name, one), columns in zip(endpoint.outcomes, task.columns_of, strict=True)
        if one.kind in CALLED
    }


def _call(endpoint: Endpoint, cuts: Sequence[Mapping[str, float]], values: npt.NDArray[np.float64]) -> str:
    if isinstance(endpoint, ClassLabel):
        cut = _mean_cut(cuts, "probability")
        if len(endpoint.classes) > 2 or cut is None:
            return _called(endpoint, values) if len(endpoint.classes) > 2 else ""
        return endpoint.classes[int(values[1] > cut)]
    cut = _mean_cut(cuts, "log_risk")
    if isinstance(endpoint, Survival) and cut is not None:
        return "high" if values[0] > cut else "low"
    return ""


def _mean_cut(cuts: Sequence[Mapping[str, float]], name: str) -> float | None:
    return float(np.mean([c[name] for c in cuts])) if all(name in c for c in cuts) else None


def _called(endpoint: ClassLabel, values: npt.NDArray[np.float64]) -> str:
    asked = ClassTarget(np.zeros(1, np.int64), endpoint.classes, isinstance(endpoint, Ordinal))
    return endpoint.classes[int(called(values[None], asked)[0])]
