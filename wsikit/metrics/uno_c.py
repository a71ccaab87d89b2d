"""Uno's C: Harrell's, with weights that undo the censoring."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wsikit.errors import ConfigError
from wsikit.metrics.undefined import UndefinedMetricError, as_flags, as_numbers, same_length

if TYPE_CHECKING:
    from wsikit.metrics.survival_curve import StepCurve

_CELLS = 2**22  # pairs compared at once


def uno_c(risk: Any, time: Any, event: Any, *, censoring: StepCurve, tau: float) -> float:
    r"""Share of comparable pairs in which the patient with the higher risk has the event first, up to a time tau.

    A pair whose shorter time T_i is an event before tau weighs G(T_i)^-2, G being the share of the training
    patients not yet censored: as many pairs of a time count as there would be without censoring. Unlike
    Harrell's C it does not depend on how long patients were followed, so two cohorts can be compared. Pairs and
    ties are those of :func:`wsikit.metrics.harrell_c`.

    Args:
        risk: (P,) higher = worse, all of one model.
        time: (P,) time to event or censoring, in the unit of ``censoring``.
        event: (P,) bool or 0/1, True = it happened.
        censoring: From :func:`wsikit.metrics.censoring_curve` of the training patients, never of those measured.
        tau: Events from here on are not counted; a time to which enough training patients were followed.

    Returns:
        0 to 1; 0.5 is chance.

    Raises:
        UndefinedMetricError: No comparable pair before tau, or every training patient censored before an event.
        ConfigError: Columns of different lengths, numbers that are not finite, an event other than 0 or 1.

    Example:
        >>> from wsikit.metrics import censoring_curve
        >>> known = censoring_curve([2, 4, 6, 8], [1, 0, 1, 1])
        >>> round(uno_c([2.0, 1.0, 1.5], [3, 5, 12], [1, 1, 0], censoring=known, tau=10), 4)
        0.4706

    Reference:
        Uno, Cai, Pencina, D'Agostino and Wei, 2011, Stat Med 30(10):1105-1117, doi:10.1002/sim.4154. With G at T_i,
        as scikit-survival's ``concordance_index_ipcw``.
    """
    import numpy as np

    risk, time, event = as_numbers("risk", risk), as_numbers("time", time), as_flags("event", event)
    same_length(risk=risk, time=time, event=event)
    if not tau > 0:
        raise ConfigError(f"tau is {tau:g}, expected a time above 0")
    order = np.lexsort((~event, time))  # the censored of a time outlive its events
    risk, time, event = risk[order], time[order], event[order]
    died = np.flatnonzero(event & (time < tau))
    share = censoring.at(time[died])
    if (share <= 0).any():
        at = time[died][share <= 0][0]
        raise UndefinedMetricError(
            f"all training patients are censored before an event at {at:g}; Uno's C needs an earlier tau than {tau:g}"
        )
    weight = share**-2.0
    later = np.searchsorted(time, time[died], side="right")
    ends = np.flatnonzero(event)
    last_event = ends[np.searchsorted(time[ends], time[died], side="right") - 1] + 1
    first = np.minimum(later, last_event)  # the censored at the same time are among those who outlived
    won = pairs = 0.0
    columns, step = np.arange(len(risk)), max(1, _CELLS // max(len(risk), 1))
    for start in range(0, len(died), step):
        rows = slice(start, start + step)
        outlived = columns >= first[rows, None]  # (block, P)
        mine = risk[died[rows], None]
        halves = ((mine > risk) + 0.5 * (mine == risk)) * outlived
        won += float(weight[rows] @ halves.sum(1))
        pairs += float(weight[rows] @ outlived.sum(1))
    if not pairs:
        raise UndefinedMetricError(
            f"no comparable pair among {len(risk)} patients with {len(died)} events before {tau:g}; Uno's C needs one"
        )
    return won / pairs
