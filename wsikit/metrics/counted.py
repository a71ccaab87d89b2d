"""Metrics of many resamples at once, from how often each patient was drawn: a bootstrap without a loop over draws.

Drawing a patient twice is giving it the weight 2. Each function here has the value of its namesake in
:mod:`wsikit.metrics` on the patients repeated as often as they were drawn, and NaN where that one is not defined.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.metrics.undefined import as_codes, as_flags, as_numbers, same_length

Counts = npt.NDArray[np.float64]
"""(D, P): how often each of P patients is in each of D resamples."""
Numbers = npt.NDArray[np.float64]
_STEPS = 50


def roc_auc_counted(score: Any, positive: Any, *, groups: Any = None) -> Callable[[Counts], Numbers]:
    """:func:`wsikit.metrics.roc_auc` of resamples: who wins against whom is settled once.

    Args:
        score: (P,) higher = more likely positive.
        positive: (P,) bool or 0/1.
        groups: (P,) as for ``roc_auc``: only pairs inside a group count.

    Returns:
        From counts (D, P) to AUCs (D,). It holds a number for each pair of a positive and a negative of one group.
    """
    score, positive = as_numbers("score", score), as_flags("positive", positive)
    same_length(score=score, positive=positive)
    group = as_codes("groups", groups, len(score))
    duels = []
    for number in range(int(group.max(initial=-1)) + 1):
        yes, no = (np.flatnonzero((group == number) & (positive == flag)) for flag in (True, False))
        gap = score[yes][:, None] - score[no][None, :]
        duels.append((yes, no, (gap > 0) + 0.5 * (gap == 0)))

    def auc(counts: Counts) -> Numbers:
        won, pairs = np.zeros(len(counts)), np.zeros(len(counts))
        for yes, no, wins in duels:
            of_yes, of_no = counts[:, yes], counts[:, no]
            won += ((of_yes @ wins) * of_no).sum(1)
            pairs += of_yes.sum(1) * of_no.sum(1)
        found: Numbers = np.divide(won, pairs, out=np.full(len(counts), np.nan), where=pairs > 0)
        return found

    return auc


def calibration_slopes(logit: Numbers, positive: npt.NDArray[np.bool_], counts: Counts) -> Numbers:
    """:func:`wsikit.metrics.calibration_slope` of resamples, (D,), from logits (P,) of the probabilities."""
    drawn = counts > 0
    low = {flag: np.where(drawn & (positive == flag), logit, np.inf).min(1) for flag in (True, False)}
    high = {flag: np.where(drawn & (positive == flag), logit, -np.inf).max(1) for flag in (True, False)}
    good = np.isfinite(low[True]) & np.isfinite(low[False])
    good &= np.maximum(high[True], high[False]) - np.minimum(low[True], low[False]) >= 1e-9
    good &= (low[True] < high[False]) & (low[False] < high[True])  # else a threshold parts the classes
    slopes, some = np.full(len(counts), np.nan), counts[good]
    if len(some):
        share = some / some.sum(1, keepdims=True)
        centre = share @ logit
        spread = np.sqrt(np.maximum((share * (logit - centre[:, None]) ** 2).sum(1), 0))
        z = (logit - centre[:, None]) / spread[:, None]  # so that Newton's steps are good
        slopes[good] = _newton(np.stack([np.ones_like(z), z], 2), positive, np.zeros(len(logit)), some)[:, 1] / spread
    return slopes


def calibration_intercepts(logit: Numbers, positive: npt.NDArray[np.bool_], counts: Counts) -> Numbers:
    """:func:`wsikit.metrics.calibration_intercept` of resamples, (D,), from logits (P,) of the probabilities."""
    good = counts[:, positive].any(1) & counts[:, ~positive].any(1)
    intercepts, some = np.full(len(counts), np.nan), counts[good]
    if len(some):
        intercepts[good] = _newton(np.ones((len(some), len(logit), 1)), positive, logit, some)[:, 0]
    return intercepts


def _newton(design: Numbers, positive: npt.NDArray[np.bool_], offset: Numbers, counts: Counts) -> Numbers:
    """Coefficients (D, K) of logistic regressions of flags (P,) on designs (D, P, K), by halved Newton steps."""

    def loss(at: Numbers, rows: npt.NDArray[np.int64]) -> Numbers:
        eta = (design[rows] @ at[:, :, None])[..., 0] + offset
        return np.asarray((counts[rows] * (np.logaddexp(0, eta) - positive * eta)).sum(1))

    beta, left = np.zeros((len(design), design.shape[2])), np.arange(len(design))
    now = loss(beta, left)
    for _ in range(_STEPS):
        x, many = design[left], counts[left]
        eta = (x @ beta[left][:, :, None])[..., 0] + offset
        share = 1 / (1 + np.exp(-np.clip(eta, -700, 700)))
        gradient = (x.mT @ (many * (share - positive))[..., None])[..., 0]
        curvature = x.mT @ (x * (many * share * (1 - share))[..., None]) + 1e-12 * np.eye(x.shape[2])
        step = np.linalg.solve(curvature, gradient[..., None])[..., 0]
        far = np.arange(len(left))  # whose loss would rise
        for _ in range(20):
            far = far[loss(beta[left[far]] - step[far], left[far]) > now[left[far]] + 1e-12]
            if not len(far):
                break
            step[far] /= 2
        beta[left] -= step
        now[left] = loss(beta[left], left)
        left = left[np.abs(step).max(1) >= 1e-10]
        if not len(left):
            break
    return beta
