"""Harrell's C: how often the patient with the higher risk is the one who fails first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wsikit.metrics.undefined import UndefinedMetricError, as_codes, as_flags, as_numbers, same_length

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_CELLS = 2**22  # pairs compared at once: some 20 MB, whatever the number of patients


def harrell_c(risk: Any, time: Any, event: Any, *, groups: Any = None) -> float:
    """Share of comparable pairs in which the patient with the higher risk has the event first.

    A pair is comparable when the one with the shorter time had the event. Of two with the same
    time, it is comparable when exactly one had the event, who counts as the first; two events
    at one time are not a pair. Equal risks count 1/2. These are the rules of lifelines'
    ``concordance_index`` (which takes predicted times: the negative of a risk) and of
    scikit-survival's ``concordance_index_censored``.

    Risks of two models cannot be compared: each has its own zero and its own scale. For
    out-of-fold risks give the fold as ``groups``. Only pairs inside a fold then count, pooled
    over the folds (concordant pairs of all folds by comparable pairs of all folds), so that a
    small fold weighs as little as it tells.

    Harrell's C depends on the censoring: compare it between models on the same patients, not
    between cohorts. Time and memory: every pair in a group is compared, in blocks of bounded size.

    Args:
        risk: (P,) higher = worse; array, sequence or tensor.
        time: (P,) time to event or censoring, any unit.
        event: (P,) bool or 0/1, True = it happened.
        groups: (P,) fold of each patient, or any other label inside which risks are comparable.

    Returns:
        0 to 1; 0.5 is chance.

    Raises:
        UndefinedMetricError: No comparable pair.
        ConfigError: Columns of different lengths, numbers that are not finite, an event other than 0 or 1.

    Example:
        >>> harrell_c(risk=[2.0, 1.0, 1.5], time=[3, 10, 12], event=[1, 1, 0])
        0.6666666666666666

    Reference:
        Harrell, Lee and Mark, 1996, Stat Med 15(4):361-387,
        doi:10.1002/(SICI)1097-0258(19960229)15:4<361::AID-SIM168>3.0.CO;2-4.
    """
    import numpy as np

    risk, time, event = as_numbers("risk", risk), as_numbers("time", time), as_flags("event", event)
    same_length(risk=risk, time=time, event=event)
    group = as_codes("groups", groups, len(risk))
    # By group and time, events before the censored of the same time: whoever is comparable to a
    # patient with an event then comes after the last event of that time.
    order = np.lexsort((~event, time, group))
    rank = np.unique(risk, return_inverse=True)[1].astype(np.int32)[order]
    time, event = time[order], event[order]
    bounds = np.searchsorted(group[order], np.arange(group.max(initial=-1) + 2))
    halves = pairs = 0
    for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        more_halves, more_pairs = _count(rank[start:stop], time[start:stop], event[start:stop])
        halves, pairs = halves + more_halves, pairs + more_pairs
    if pairs == 0:
        raise UndefinedMetricError(
            f"no comparable pair among {len(risk)} patients with {int(event.sum())} events"
            + ("" if groups is None else f" in {len(bounds) - 1} groups")
            + "; Harrell's C needs a patient with an event and one who outlived it"
        )
    return halves / 2 / pairs


def _count(rank: npt.NDArray[np.int32], time: npt.NDArray[np.float64], event: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """(half points won, comparable pairs) among sorted patients; in halves, so that the count is exact."""
    import numpy as np

    died = np.flatnonzero(event)
    later = died[np.searchsorted(time[died], time[died], side="right") - 1] + 1  # first row that outlived each
    columns = np.arange(len(rank), dtype=np.int32)
    halves, step = 0, max(1, _CELLS // max(len(rank), 1))
    for at in range(0, len(died), step):
        mine = rank[died[at : at + step], None]  # (block, 1)
        outlived = columns >= later[at : at + step, None]  # (block, n)
        halves += int(np.count_nonzero((mine > rank) & outlived)) + int(np.count_nonzero((mine >= rank) & outlived))
    return halves, int((len(rank) - later).sum())
