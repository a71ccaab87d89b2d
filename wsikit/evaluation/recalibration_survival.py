"""Recalibration of survival risks: the same ranking with risks at a time that fit another cohort.

As :mod:`wsikit.evaluation.recalibration` it makes another model, whose gain is measured on patients who had no part
in it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wsikit.errors import ConfigError
from wsikit.evaluation.recalibration import HOW, PARTS, Flags, How, Numbers, by_others
from wsikit.metrics import UndefinedMetricError, baseline_hazard, cox_slope


@dataclass(frozen=True)
class RiskRecalibration:
    """risk = 1 - exp(-hazard exp(slope log_risk)).

    Attributes:
        how: ``intercept``: the baseline hazard alone; ``slope``: both.
        hazard: Cumulative baseline hazard until the time, on the cohort.
        slope: 1 where only the hazard was learnt.
        at: The time.
        patients: Who taught it.
    """

    how: How
    hazard: float
    slope: float
    at: float
    patients: int

    def __call__(self, log_risk: Numbers) -> Numbers:
        """Risks until the time, (P,)."""
        return np.asarray(-np.expm1(-self.hazard * np.exp(self.slope * np.asarray(log_risk, np.float64))), np.float64)


def fit_risks(log_risk: Numbers, time: Numbers, event: Flags, how: How, *, at: float) -> RiskRecalibration:
    """Learn risks at a time: Breslow's baseline hazard, with ``slope`` of log risks times their coefficient by Cox.

    Args:
        log_risk: (P,) by the model as it was trained.
        time: (P,) to event or censoring.
        event: (P,) bool.
        how: ``intercept`` corrects risks that are too high or too low on the whole; ``slope`` also those that are too
            extreme or too timid.
        at: The time.

    Raises:
        UndefinedMetricError: No event until then, nobody followed so far, or with ``slope`` what
            :func:`~wsikit.metrics.cox_slope.cox_slope` refuses.
        ConfigError: An unknown ``how``.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> x = rng.normal(size=4000)
        >>> time = rng.exponential(1 / (0.3 * np.exp(0.5 * x)))
        >>> found = fit_risks(x, time, np.ones(4000, bool), "slope", at=1.0)
        >>> round(found.slope, 1), round(found.hazard, 1)
        (0.5, 0.3)

    Reference:
        Royston and Altman, 2013, BMC Med Res Methodol 13:33, doi:10.1186/1471-2288-13-33; Breslow, 1972, J R Stat Soc
        B 34(2):216-217.
    """
    if how not in HOW:
        raise ConfigError(f"recalibrate: {how!r}, expected 'intercept', or 'slope' (with intercept)")
    if not len(time) or time.max() < at:
        raise UndefinedMetricError(f"none of {len(time)} patients was followed to {at:.4g}")
    slope = 1.0 if how == "intercept" else cox_slope(log_risk, time, event)
    hazard = float(baseline_hazard(slope * log_risk, time, event).at(at))
    if hazard <= 0:
        raise UndefinedMetricError(f"none of {len(time)} patients had the event until {at:.4g}")
    return RiskRecalibration(how, hazard, slope, at, len(time))


def cross_fitted_risks(
    log_risk: Numbers, time: Numbers, event: Flags, how: How, *, at: float, parts: int = PARTS, seed: int = 0
) -> Numbers:
    """Recalibrated risks (P,), each by a recalibration that was learnt without the patient.

    Args:
        log_risk: (P,) by the model as it was trained.
        time: (P,) to event or censoring.
        event: (P,) bool.
        how: See :func:`fit_risks`.
        at: The time.
        parts: How many the patients are dealt into, as by :func:`~wsikit.evaluation.recalibration.cross_fitted`.
        seed: Of the dealing.

    Raises:
        UndefinedMetricError: As :func:`fit_risks`, of any of the parts' others.
    """
    return by_others(
        log_risk, lambda others: fit_risks(log_risk[others], time[others], event[others], how, at=at), parts, seed
    )
