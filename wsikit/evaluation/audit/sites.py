"""Whether hospitals and scanners are recognised, whether that could pass for a result, and what a correction does."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from wsikit.cohort.endpoints import ClassTarget, ContinuousTarget, SurvivalTarget
from wsikit.cohort.several_labels import LabelsTarget
from wsikit.cohort.sites import sites_of
from wsikit.cohort.table import Cohort
from wsikit.evaluation.audit.check import ALPHA, AMBER, GREEN, RED, AuditSettings, Check, Number
from wsikit.evaluation.combat import fit_combat
from wsikit.evaluation.separability import Separability, separability, stratified_folds

Numbers = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]

LEAST_IN_GROUP = 6
"""Patients of a site or scanner below which it is left out: it could not be learned and tested."""
STORE_FACTS = ("vendor", "reader", "mpp")
"""What the store knows of a scanner, compared of the first slide of each patient."""


def groupings(cohort: Cohort, site: str | None) -> list[tuple[str, tuple[str, ...]]]:
    """What patients may be told apart by and should not be: name and value of each; every partition once.

    Args:
        cohort: Patients.
        site: Column of the table, ``tcga``, or None.
    """
    found: list[tuple[str, tuple[str, ...]]] = []
    if site is not None:
        found.append((site, cohort.columns[site] if site in cohort.columns else sites_of(cohort, site)))
    first = [slides[0].store.slide(slides[0].slide_id) for slides in cohort.slides]
    for name in STORE_FACTS:
        values = tuple(_fact(facts.get(name)) for facts in first)
        partition = [values.index(value) for value in values]
        if partition not in [[other.index(value) for value in other] for _, other in found]:
            found.append((name, values))
    return found


def _fact(value: object) -> str:
    if isinstance(value, list | tuple):  # mpp along x and y
        return " x ".join(f"{float(part):.3f}" for part in value)
    return "" if value is None else str(value)


def site_checks(
    cohort: Cohort,
    name: str,
    values: tuple[str, ...],
    means: npt.NDArray[np.floating],
    fold: Codes | None,
    outcome: bool,
    asked: AuditSettings,
) -> list[Check]:
    """Whether sites are told apart, whether that could pass for a result, and whether a correction takes it away.

    Args:
        cohort: Patients.
        name: Of the site or scanner.
        values: (P,) of each patient, "" where it is not known.
        means: (P, D) mean features.
        fold: (P,) of a run, or None.
        outcome: Whether the endpoint is an outcome.
        asked: How much work.
    """
    counts = {value: values.count(value) for value in sorted(set(values)) if value}
    large = [value for value, n in counts.items() if n >= LEAST_IN_GROUP]
    title = f"site: {name}"
    question = f"Do the features give away the {name}?"
    if len(large) < 2:
        one = f"All patients have {next(iter(counts))!r}" if len(counts) == 1 else f"{len(counts)} values"
        what = f"{one}; two groups of at least {LEAST_IN_GROUP} patients are needed to ask."
        return [Check(title, question, GREEN, what)] if counts else []
    rows = np.array([i for i, value in enumerate(values) if value in large])
    group = np.array([large.index(values[i]) for i in rows])
    told = separability(means[rows], group, permutations=asked.permutations, draws=asked.bootstrap, seed=asked.seed)
    number = Number("balanced accuracy", told.value, told.chance, told.interval, told.random)
    text = f"{len(large)} groups of {len(rows)} patients are recognised with a {_said(told)}"
    if told.p > ALPHA:
        return [Check(title, question, GREEN, f"{text}: no better than chance.", number=number)]
    linked = _linked(cohort, rows, group, asked) if outcome else None
    verdict, advice = AMBER, "Report results by site, and test on sites that were not trained on."
    text = f"{text}."
    if linked is not None:
        strength, p = linked
        text += f" The outcome differs between groups by {strength:.2f} of its spread (p {p:.3f})."
        apart = fold is not None and all(len(set(fold[rows[group == g]].tolist())) == 1 for g in range(len(large)))
        if p <= ALPHA and not apart:
            verdict = RED
            advice = (
                "A model that recognises the site predicts the outcome. Deal folds that keep sites apart, compare "
                "inside sites, or balance the outcome over sites."
            )
    return [Check(title, question, verdict, text, advice, number), _corrected(name, means[rows], group, told, asked)]


def _said(told: Separability) -> str:
    return (
        f"balanced accuracy of {told.value:.2f} ({told.interval.low:.2f} to {told.interval.high:.2f}; chance "
        f"{told.chance:.2f}, p {told.p:.3f})"
    )


def _linked(cohort: Cohort, rows: Codes, group: Codes, asked: AuditSettings) -> tuple[float, float]:
    """How much the outcome's mean differs between groups (root of the share of its variance), and p by permutation."""
    target = cohort.target
    if isinstance(target, ClassTarget):
        columns = np.eye(len(target.classes))[target.label[rows]]
    elif isinstance(target, SurvivalTarget):
        columns = _martingale(target.time[rows], target.event[rows])[:, None]
    elif isinstance(target, LabelsTarget):
        positive, known = target.positive[rows], target.known[rows]
        share_known = (positive & known).sum(0) / np.maximum(known.sum(0), 1)
        columns = np.where(known, positive, share_known)  # who is not known is as the others are
    else:
        assert isinstance(target, ContinuousTarget)  # several outcomes are audited one by one
        columns = np.argsort(np.argsort(target.value[rows]))[:, None].astype(np.float64)
    centred = columns - columns.mean(0)
    whole = float((centred**2).sum())
    if not whole:
        return 0.0, 1.0
    member = np.eye(int(group.max()) + 1)[group]  # (n, G)

    def share(order: Codes) -> float:
        sums = member.T @ centred[order]
        return float((sums**2 / member.sum(0)[:, None]).sum()) / whole

    rng = np.random.default_rng([asked.seed, 1])
    value = share(np.arange(len(rows)))
    permutations = max(asked.permutations, 200)
    random = np.array([share(rng.permutation(len(rows))) for _ in range(permutations)])
    return float(np.sqrt(value)), (1 + int((random >= value - 1e-12).sum())) / (1 + permutations)


def _martingale(time: Numbers, event: npt.NDArray[np.bool_]) -> Numbers:
    """Events less those expected from the cohort's cumulative hazard (Nelson-Aalen), (P,)."""
    _, at = np.unique(time, return_inverse=True)
    deaths, people = np.bincount(at, event), np.bincount(at)
    at_risk = people[::-1].cumsum()[::-1]
    return np.asarray(event - np.cumsum(deaths / at_risk)[at], np.float64)


def _corrected(
    name: str, means: npt.NDArray[np.floating], group: Codes, before: Separability, asked: AuditSettings
) -> Check:
    """How well groups are told apart among patients whose features were corrected by what others taught."""
    title, question = f"batch effect: {name}", f"Does a correction take the {name} away?"
    half = stratified_folds(group, 2, np.random.default_rng([asked.seed, 2]))
    smallest = min(int(np.bincount(group[half == h]).min()) for h in (0, 1))
    if smallest < 3:
        return Check(title, question, AMBER, "Too few patients of a group to fit a correction on one half of them.")
    plain: list[Separability] = []
    corrected: list[Separability] = []
    for h in (0, 1):
        fitted = fit_combat(means[half != h], group[half != h])
        mine, who = means[half == h], group[half == h]
        for found, x in ((plain, mine), (corrected, fitted.apply(mine, who))):
            found.append(separability(x, who, permutations=asked.permutations, draws=asked.bootstrap, seed=asked.seed))
    first, last = (float(np.mean([one.value for one in found])) for found in (plain, corrected))
    random = np.mean([one.random for one in corrected], axis=0)
    p = (1 + int((random >= last - 1e-9).sum())) / (1 + len(random))
    text = (
        f"ComBat (mean and spread per group, no outcome) was fitted on one half of the patients and applied to the "
        f"other: balanced accuracy {first:.2f} before, {last:.2f} after (chance {before.chance:.2f}, p {p:.3f})."
    )
    number = Number("balanced accuracy after correction", last, before.chance, random=random, others={"before": first})
    if p > ALPHA:
        advice = "If you correct, fit it on training patients only, and compare results with and without it."
        return Check(title, question, GREEN, text, advice, number)
    advice = "Means and spreads are not all: do not rely on a correction; keep groups apart in the folds instead."
    return Check(title, question, AMBER, text, advice, number)
