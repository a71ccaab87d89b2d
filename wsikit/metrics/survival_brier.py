"""Brier score of risks until a time, where some patients were censored before it."""

from __future__ import annotations

from typing import Any

from wsikit.errors import ConfigError
from wsikit.metrics.survival_curve import censoring_curve
from wsikit.metrics.undefined import UndefinedMetricError, as_flags, as_numbers, same_length


def survival_brier(risk: Any, time: Any, event: Any, *, at: float) -> float:
    r"""Mean squared error of risks until a time t, patients weighted by the inverse probability of not being censored.

    .. math:: \frac1P \sum_i \Big( \frac{[t_i \le t]\, e_i\, (1 - r_i)^2}{G(t_i-)}
              + \frac{[t_i > t]\, r_i^2}{G(t)} \Big)

    G is the censoring of these patients: whoever is censored before t counts through those who are not. Lower is
    better; it is as small as the outcome allows where risks are right, and no ranking alone makes it small.

    Args:
        risk: (P,) probability of the event until ``at``, 0 to 1.
        time: (P,) to event or censoring.
        event: (P,) bool or 0/1, True = it happened.
        at: The time, in the unit of ``time``.

    Raises:
        UndefinedMetricError: No patients, or nobody was followed so far.
        ConfigError: Columns of different lengths, numbers that are not finite, a risk outside 0 to 1.

    Example:
        >>> round(survival_brier([0.9, 0.2, 0.4, 0.1], [1, 2, 3, 4], [1, 0, 1, 1], at=2.5), 5)
        0.06625

    Reference:
        Graf et al., 1999, Stat Med 18(17-18):2529-2545,
        doi:10.1002/(SICI)1097-0258(19990915/30)18:17/18<2529::AID-SIM274>3.0.CO;2-5.
    """
    import numpy as np

    chance, times, events = as_numbers("risk", risk), as_numbers("time", time), as_flags("event", event)
    same_length(risk=chance, time=times, event=events)
    if not len(times):
        raise UndefinedMetricError("a Brier score of no patients is not defined")
    if chance.min() < 0 or chance.max() > 1:
        raise ConfigError(f"risks of {chance.min():g} to {chance.max():g}; expected probabilities, 0 to 1")
    last = times.max()
    if last < at and not events[times == last].all():
        raise UndefinedMetricError(f"Brier score: no patient was followed to {at:.4g}; the longest is {last:.4g}")
    curve = censoring_curve(times, events)
    died, left = events & (times <= at), times > at
    found = np.zeros(len(times))
    found[died] = (1 - chance[died]) ** 2 / curve.at(np.nextafter(times[died], -np.inf))
    if left.any():
        found[left] = chance[left] ** 2 / float(curve.at(at))
    return float(found.mean())
