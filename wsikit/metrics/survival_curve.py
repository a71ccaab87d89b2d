"""Step functions of time: the Kaplan-Meier estimate, and Breslow's baseline hazard."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wsikit.errors import ConfigError
from wsikit.metrics.undefined import UndefinedMetricError, as_flags, as_numbers, same_length

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True)
class StepCurve:
    """A function that is constant between steps.

    Attributes:
        time: (K,) of the steps, rising.
        value: (K,) from each step on.
        before: Before the first.
        until: Last time that anybody was under observation; beyond it nothing is known.
    """

    time: npt.NDArray[np.float64]
    value: npt.NDArray[np.float64]
    before: float
    until: float

    def at(self, time: Any) -> npt.NDArray[np.float64]:
        """Values at times (any shape); at the time of a step, after it."""
        import numpy as np

        place = np.searchsorted(self.time, np.asarray(time, np.float64), side="right")
        return np.asarray(np.concatenate([[self.before], self.value])[place], np.float64)


def kaplan_meier(time: Any, event: Any) -> StepCurve:
    """Share of patients without the event, by time; the censored of a time are under observation at its events.

    Of the censoring itself use :func:`censoring_curve`, which treats ties the other way round.

    Args:
        time: (P,) to event or censoring, any unit.
        event: (P,) bool or 0/1, True = it happened.

    Raises:
        UndefinedMetricError: No patients.
        ConfigError: Columns of different lengths, numbers that are not finite, an event other than 0 or 1.

    Example:
        >>> kaplan_meier([1, 2, 3, 4], [1, 0, 1, 0]).at([0.5, 1, 3, 9]).tolist()
        [1.0, 0.75, 0.375, 0.375]

    Reference:
        Kaplan and Meier, 1958, J Am Stat Assoc 53(282):457-481, doi:10.1080/01621459.1958.10501452.
    """
    import numpy as np

    times, events, _, at_risk = _counts(time, event)
    return StepCurve(times, np.cumprod(1 - events / at_risk, dtype=np.float64), 1.0, float(times[-1]))


def censoring_curve(time: Any, event: Any) -> StepCurve:
    """Share of patients not yet censored, by time; events of a time come before its censorings.

    Args:
        time: (P,) to event or censoring.
        event: (P,) bool or 0/1, True = it happened.

    Raises:
        UndefinedMetricError: No patients.
        ConfigError: As :func:`kaplan_meier`.

    Example:
        >>> censoring_curve([1, 2, 2, 4], [1, 0, 1, 1]).at([1, 2, 3]).tolist()
        [1.0, 0.5, 0.5]
    """
    import numpy as np

    times, events, censored, at_risk = _counts(time, event)
    left = at_risk - events
    share = np.where(left > 0, 1 - censored / np.where(left > 0, left, 1), 1.0)
    return StepCurve(times, np.cumprod(share, dtype=np.float64), 1.0, float(times[-1]))


def baseline_hazard(log_risk: Any, time: Any, event: Any) -> StepCurve:
    """Cumulative hazard of a patient with log risk 0, so that S(t) = exp(-H(t) exp(log_risk)).

    Args:
        log_risk: (P,) of patients whom the model has not seen: risks of its own are too far apart.
        time: (P,) to event or censoring.
        event: (P,) bool or 0/1.

    Raises:
        UndefinedMetricError: No patients.
        ConfigError: As :func:`kaplan_meier`.

    Example:
        >>> baseline_hazard([0, 0, 0, 0], [1, 2, 3, 4], [1, 0, 1, 0]).at([1, 3]).tolist()
        [0.25, 0.75]

    Reference:
        Breslow, 1972, J R Stat Soc B 34(2):216-217 (in the discussion of Cox's paper).
    """
    import numpy as np

    risk = as_numbers("log_risk", log_risk)
    times, events, _, _ = _counts(time, event)
    same_length(log_risk=risk, time=as_numbers("time", time))
    order = np.argsort(as_numbers("time", time), kind="stable")
    weight = np.cumsum(np.exp(risk[order])[::-1])[::-1]  # of everybody from here on
    first = np.searchsorted(as_numbers("time", time)[order], times, side="left")
    return StepCurve(times, np.cumsum(events / weight[first]), 0.0, float(times[-1]))


def _counts(
    time: Any, event: Any
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Of each time the events, the censored, and those under observation until then."""
    import numpy as np

    column, flag = as_numbers("time", time), as_flags("event", event)
    same_length(time=column, event=flag)
    if not len(column):
        raise UndefinedMetricError("a survival curve of no patients is not defined")
    if column.min() < 0:
        raise ConfigError(f"time of row {int(column.argmin())} is {column.min():g}; expected 0 or more")
    times, place, count = np.unique(column, return_inverse=True, return_counts=True)
    events = np.bincount(place, flag, len(times)).astype(np.int64)
    at_risk = count[::-1].cumsum()[::-1].astype(np.int64)
    return times, events, (count - events).astype(np.int64), at_risk
