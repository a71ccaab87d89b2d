"""A survival model on other patients: does it rank them, and do its risks come true?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsikit.cohort.endpoints import SurvivalTarget
from wsikit.errors import ConfigError
from wsikit.evaluation.known import curve_of
from wsikit.evaluation.result import Metric
from wsikit.evaluation.scores import Rows, measured
from wsikit.evaluation.settings import EvaluationSettings
from wsikit.metrics import StepCurve, UndefinedMetricError, cox_slope, kaplan_meier, survival_brier, uno_c
from wsikit.tasks.task import Values
from wsikit.training.bundle import Bundle

GROUPS = 5
"""Groups of equal size, by predicted risk, of the calibration figure."""


@dataclass(frozen=True)
class Absolute:
    """Risks at one time, as the models state them.

    Attributes:
        horizon: The time.
        unit: Of it.
        chosen: Where it is from, in words.
        risk: (P,) probability of the event until then.
    """

    horizon: float
    unit: str
    chosen: str
    risk: npt.NDArray[np.float64]


@dataclass(frozen=True)
class RiskGroups:
    """Predicted and observed risk in groups of patients, from the lowest prediction to the highest.

    Attributes:
        predicted: (K,) mean risk.
        observed: (K,) by Kaplan and Meier.
        patients: (K,) as many uncensored patients would be as precise (at least 1): what an interval needs.
    """

    predicted: npt.NDArray[np.float64]
    observed: npt.NDArray[np.float64]
    patients: npt.NDArray[np.float64]


def absolute_risks(bundles: Sequence[Bundle], each: Sequence[Values], horizon: float | None) -> Absolute:
    """Of each patient the probability of the event until a time: the mean of the models' own.

    A model's is 1 - exp(-H(t) exp(log_risk)), H being the baseline hazard of its held-out patients.

    Args:
        bundles: The models.
        each: Of each the log risks of the patients, (P, 1).
        horizon: In the unit of the endpoint; None takes the median time of the training patients' events.

    Raises:
        ConfigError: A time to which no held-out patient of a model was followed.
    """
    facts = [bundle.facts["survival"] for bundle in bundles]
    unit, until = str(facts[0]["unit"]), min(float(one["followed"]) for one in facts)
    chosen = "as asked for"
    if horizon is None:
        horizon = min(float(np.mean([one["horizon"] for one in facts])), until)
        chosen = "the median time of the training patients' events"
    if not 0 < horizon <= until:
        raise ConfigError(
            f"horizon {horizon:g} {unit}: the patients that the models state risks by were followed for {until:g} "
            f"{unit}; ask for an earlier time"
        )
    risks = [
        1 - np.exp(-curve_of(bundle, "baseline").at(horizon) * np.exp(values[:, 0]))
        for bundle, values in zip(bundles, each, strict=True)
    ]
    return Absolute(horizon, unit, chosen, np.asarray(np.mean(risks, axis=0), np.float64))


def survival_metrics(
    bundles: Sequence[Bundle],
    log_risk: npt.NDArray[np.float64],
    target: SurvivalTarget,
    absolute: Absolute,
    kept: Rows,
    settings: EvaluationSettings,
) -> list[Metric]:
    """Uno's C, and what :func:`risk_metrics` has.

    Args:
        bundles: The models, which know how their training patients were censored.
        log_risk: (P,) mean of the models.
        target: Of the patients.
        absolute: From :func:`absolute_risks`.
        kept: (P,) what a resample keeps.
        settings: Resamples.
    """
    tau = min(float(bundle.facts["survival"]["tau"]) for bundle in bundles)
    censoring = _mean_curve([curve_of(bundle, "censoring") for bundle in bundles])

    def uno(rows: Rows) -> float:
        return uno_c(log_risk[rows], target.time[rows], target.event[rows], censoring=censoring, tau=tau)

    note = f"up to {tau:.4g} {absolute.unit}; weights by the training patients' censoring"
    return [
        measured("Uno's C", uno, len(target), kept, settings, note),
        *risk_metrics(log_risk, absolute, target, kept, settings),
    ]


def risk_metrics(
    log_risk: npt.NDArray[np.float64],
    absolute: Absolute,
    target: SurvivalTarget,
    kept: Rows,
    settings: EvaluationSettings,
) -> list[Metric]:
    """The calibration slope, observed against expected risk at the horizon, and the Brier score there.

    Args:
        log_risk: (P,) linear predictor.
        absolute: Risks at the horizon.
        target: Of the patients.
        kept: (P,) what a resample keeps.
        settings: Resamples.
    """
    time, event, n = target.time, target.event, len(target)
    at, unit = absolute.horizon, absolute.unit

    def ratio(rows: Rows) -> float:
        return _observed(time[rows], event[rows], at) / float(absolute.risk[rows].mean())

    everybody = np.zeros(n, np.int64)
    return [
        measured(
            "calibration slope", lambda rows: cox_slope(log_risk[rows], time[rows], event[rows]), n, kept, settings,
            "1 is right",
        ),
        measured(
            "observed / expected", ratio, n, everybody, settings,
            f"risk until {at:.4g} {unit}, {absolute.chosen}; 1 is right, below 1 the models state too much risk",
        ),
        measured(
            "Brier score", lambda r: survival_brier(absolute.risk[r], time[r], event[r], at=at), n, everybody, settings,
            f"risk until {at:.4g} {unit}; lower is better; weights by these patients' censoring",
        ),
    ]  # fmt: skip


def risk_calibration(absolute: Absolute, target: SurvivalTarget) -> RiskGroups:
    """Predicted and observed risk at the horizon, in groups; none that nobody of was followed so far.

    The number of patients is Rothman's effective one: the binomial one with the same variance as Greenwood's.

    Reference:
        Rothman, 1978, J Chronic Dis 31(8):557-560, doi:10.1016/0021-9681(78)90043-7.
    """
    order, rows = np.argsort(absolute.risk, kind="stable"), []
    for mine in np.array_split(order, max(1, min(GROUPS, len(order) // 5))):
        try:
            seen = _observed(target.time[mine], target.event[mine], absolute.horizon)
        except UndefinedMetricError:
            continue
        spread = _greenwood(target.time[mine], target.event[mine], absolute.horizon)
        alike = seen * (1 - seen) / spread if spread > 0 else float(len(mine))
        rows.append((float(absolute.risk[mine].mean()), seen, max(1.0, alike)))
    predicted, observed, patients = np.array(rows, np.float64).reshape(-1, 3).T
    return RiskGroups(predicted, observed, patients)


def _observed(time: npt.NDArray[np.float64], event: npt.NDArray[np.bool_], at: float) -> float:
    curve = kaplan_meier(time, event)
    if curve.until < at and curve.value[-1] > 0:
        raise UndefinedMetricError(f"no patient was followed to {at:.4g}; the longest is {curve.until:.4g}")
    return 1 - float(curve.at(at))


def _greenwood(time: npt.NDArray[np.float64], event: npt.NDArray[np.bool_], at: float) -> float:
    """Variance of the Kaplan-Meier estimate at a time."""
    terms = 0.0
    for when in np.unique(time[event & (time <= at)]):
        risk, died = int((time >= when).sum()), int((event & (time == when)).sum())
        if died < risk:
            terms += died / (risk * (risk - died))
    return float(kaplan_meier(time, event).at(at)) ** 2 * terms


def _mean_curve(curves: Sequence[StepCurve]) -> StepCurve:
    """The mean of step curves; with the models of all folds that of all training patients, nearly."""
    time = np.unique(np.concatenate([curve.time for curve in curves]))
    mean = np.mean([curve.at(time) for curve in curves], axis=0)
    return StepCurve(time, mean, float(np.mean([c.before for c in curves])), min(c.until for c in curves))
