"""Calibration slope of log risks: what Cox's model makes of them on other patients."""

from __future__ import annotations

from typing import Any

from wsikit.metrics.undefined import UndefinedMetricError, as_flags, as_numbers, same_length

_STEPS, _FARTHEST = 60, 50.0


def cox_slope(log_risk: Any, time: Any, event: Any) -> float:
    """Coefficient b of Cox's model with hazard h(t) exp(b log_risk), Efron's ties.

    1 is right; below 1 the risks are too far apart (overfitting), 0 is no relation, below 0 the wrong way round.

    Args:
        log_risk: (P,) linear predictor of one model.
        time: (P,) to event or censoring.
        event: (P,) bool or 0/1, True = it happened.

    Raises:
        UndefinedMetricError: No event, equal risks, or risks that put every event in order (the slope is infinite).
        ConfigError: Columns of different lengths, numbers that are not finite, an event other than 0 or 1.

    Example:
        >>> round(cox_slope([1.0, 0.0, 2.0, 0.5, 1.5], [2, 4, 3, 5, 1], [1, 1, 1, 0, 1]), 4)
        0.8382

    Reference:
        Royston and Altman, 2013, BMC Med Res Methodol 13:33, doi:10.1186/1471-2288-13-33; Efron, 1977, J Am Stat Assoc
        72(359):557-565, doi:10.1080/01621459.1977.10480613.
    """
    import numpy as np

    x, time, event = as_numbers("log_risk", log_risk), as_numbers("time", time), as_flags("event", event)
    same_length(log_risk=x, time=time, event=event)
    if not event.any() or np.ptp(x) < 1e-9:
        raise UndefinedMetricError(
            f"calibration slope: {int(event.sum())} events among {len(x)} patients whose risks span "
            f"{np.ptp(x) if len(x) else 0:g}; expected events and different risks"
        )
    spread = float(x.std())
    z = (x - x.mean()) / spread
    order = np.argsort(time, kind="stable")
    z, time, event = z[order], time[order], event[order]
    died = np.flatnonzero(event)
    times, place, count = np.unique(time[died], return_inverse=True, return_counts=True)
    from_here = np.searchsorted(time, times, side="left")
    rank = np.arange(len(died)) - np.repeat(np.cumsum(count) - count, count)  # 0, 1, ... among the events of a time
    share = rank / count[place]  # of the tied events that have left already

    def sums(weight: Any) -> Any:
        """Weights of those under observation at each event, less the share of the tied ones that have left."""
        here = weight[::-1].cumsum()[::-1][from_here]
        tied = np.bincount(place, weight[died], len(times))
        return here[place] - share * tied[place]

    beta = 0.0
    for _ in range(_STEPS):
        weight = np.exp(beta * z - (beta * z).max())
        total, first, second = sums(weight), sums(weight * z), sums(weight * z**2)
        gradient = float((z[died] - first / total).sum())
        curvature = float((second / total - (first / total) ** 2).sum())
        if curvature < 1e-12:
            break
        step = float(np.clip(gradient / curvature, -2, 2))
        beta += step
        if abs(step) < 1e-10:
            return beta / spread
        if abs(beta) > _FARTHEST:
            break
    raise UndefinedMetricError("calibration slope: the risks put the events in order without error; it is infinite")
