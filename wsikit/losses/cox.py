"""Cox's partial likelihood with the ties counted properly: Efron's formula, or Breslow's."""

from __future__ import annotations

import torch
from torch import Tensor

from wsikit.errors import ConfigError
from wsikit.registry import nearest

TIES = ("efron", "breslow")
REDUCTIONS = ("sum", "mean")


def cox_partial_likelihood(
    log_risk: Tensor, time: Tensor, event: Tensor, *, ties: str = "efron", reduction: str = "sum"
) -> Tensor:
    r"""Negative log partial likelihood of a proportional-hazards model.

    With :math:`D_t` the :math:`d_t` patients whose event is at time :math:`t`, :math:`R_t` those who
    are still under observation then (time >= t), and :math:`\eta` the log risk, Efron's is

    .. math::
        -\sum_t \Bigl[ \sum_{i \in D_t} \eta_i - \sum_{l=0}^{d_t - 1} \log \Bigl(
        \sum_{j \in R_t} e^{\eta_j} - \frac{l}{d_t} \sum_{j \in D_t} e^{\eta_j} \Bigr) \Bigr]

    and Breslow's is the same without the second sum in the logarithm. Times are tied where they are
    exactly equal; the order of the rows does not matter. All of it is done in logarithms and in
    float64, outside autocast, so log risks of any size neither overflow nor lose their gradient.
    (A device without float64, such as Apple's ``mps``: move the log risks to the CPU first.)

    The likelihood compares patients with one another: it needs the whole cohort, or a large sample
    of it, in one call. Over batches of one patient it is constant, and its gradient is zero.

    Args:
        log_risk: (P,) float, Cox's linear predictor, higher = worse.
        time: (P,) float or integer, > 0, in any unit.
        event: (P,) bool or 0/1, True = it happened (not the censoring flag).
        ties: ``"efron"`` or ``"breslow"``.
        reduction: ``"sum"`` over the events, or ``"mean"``: the sum divided by the number of events
            (not of patients), which keeps the size of the gradient when the censored share changes.

    Returns:
        A scalar with a gradient: float64 for float64 log risks, else float32.

    Raises:
        ConfigError: Shapes that differ, a log risk that is not finite, a time that is not above 0,
            an event other than 0 or 1, or no event at all.

    Example:
        >>> log_risk, time, event = torch.zeros(4), torch.tensor([1, 2, 2, 3]), torch.tensor([1, 1, 1, 0])
        >>> round(cox_partial_likelihood(log_risk, time, event).item(), 4)  # log 4 + log 3 + log 2
        3.1781

    Reference:
        Cox, 1972, J R Stat Soc B 34(2); Breslow, 1974, Biometrics 30(1), doi:10.2307/2529620; Efron,
        1977, J Am Stat Assoc 72(359), doi:10.1080/01621459.1977.10480613. Compared with the fits of
        lifelines (MIT).
    """
    event = _check(log_risk, time, event)
    for name, value, known in (("ties", ties, TIES), ("reduction", reduction, REDUCTIONS)):
        if value not in known:
            raise ConfigError(f"no {name} {value!r}{nearest(value, known)} (one of {', '.join(known)})")
    # Beside a log risk of 1e4, float32 leaves the others three digits, and their gradients too.
    # Autocast would bring parts of the sum down to half precision.
    with torch.autocast(log_risk.device.type, enabled=False):
        total = _negative_log_likelihood(log_risk.double(), time, event, efron=ties == "efron")
        total = total / event.sum() if reduction == "mean" else total
        return total.to(torch.promote_types(log_risk.dtype, torch.float32))


def _negative_log_likelihood(log_risk: Tensor, time: Tensor, event: Tensor, *, efron: bool) -> Tensor:
    # Latest first: those at risk at a time are then all rows up to the last row of that time.
    order = torch.argsort(time, descending=True, stable=True)
    event = event[order]
    # Only differences of log risks count; near 0 they keep the most digits.
    log_risk = (log_risk - log_risk.max().detach())[order]  # (P,)
    _, moment, rows = torch.unique_consecutive(time[order], return_inverse=True, return_counts=True)
    log_at_risk = torch.logcumsumexp(log_risk, 0)[rows.cumsum(0) - 1]  # (distinct times,)

    dying = log_risk[event]  # (E,)
    when, tie, deaths = torch.unique_consecutive(moment[event], return_inverse=True, return_counts=True)
    log_at_risk = log_at_risk[when]  # (T,), T distinct times with an event
    if efron:
        earlier = torch.arange(len(dying), device=dying.device) - (deaths.cumsum(0) - deaths)[tie]
        share = earlier.to(dying.dtype) / deaths[tie]  # (E,), l / d of the formula
    else:
        share = torch.zeros_like(dying)
    # The dying are among those at risk: their part exceeds 1 by rounding only.
    part = (_log_sum_exp_by(tie, dying, len(when)) - log_at_risk).clamp(max=0).exp()  # (T,)
    log_denominator = log_at_risk[tie] + torch.log1p(-share * part[tie])  # (E,)
    return (log_denominator - dying).sum()


def _log_sum_exp_by(index: Tensor, values: Tensor, groups: int) -> Tensor:
    """(E,) values of numbered groups -> (T,); every group has a value."""
    top = values.new_full((groups,), -torch.inf).scatter_reduce(0, index, values.detach(), "amax")
    return top + torch.zeros_like(top).index_add(0, index, (values - top[index]).exp()).log()


def _check(log_risk: Tensor, time: Tensor, event: Tensor) -> Tensor:
    """The events as bool; ``log_risk``, ``time`` and ``event`` are refused with the row that is at fault."""
    if log_risk.ndim != 1 or not log_risk.shape == time.shape == event.shape:
        found = ", ".join(str(tuple(t.shape)) for t in (log_risk, time, event))
        raise ConfigError(f"log_risk, time and event must all be of shape (P,); found {found}")
    if not log_risk.is_floating_point():
        raise ConfigError(f"log_risk must be a floating-point tensor; found {log_risk.dtype}")
    rules = (
        ("log_risk", log_risk, log_risk.isfinite(), "finite; has the training diverged?"),
        ("time", time, (time > 0) & time.isfinite(), "above 0 and finite"),
        ("event", event, (event == 0) | (event == 1), "0 or 1, and 1 where the event happened"),
    )
    for name, values, good, expected in rules:
        if not good.all():
            row = int((~good).nonzero()[0])
            raise ConfigError(f"{name} of row {row} is {values[row].item()}; it must be {expected}")
    if not event.any():
        raise ConfigError(
            f"a Cox loss needs at least one event; found none among {len(event)} patients "
            "(is the column a censoring flag, 1 = censored?)"
        )
    return event.bool()
