"""Draw a cohort's patients, labels and survival times, and the best score anyone could reach on them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

THRESHOLD = 0.12
"""Lesion share of the tissue at which a slide is as likely positive as negative."""

SOFTNESS = 0.015
"""How far from the threshold a label may still go wrong: the logistic's scale."""

_SHAPE = 1.3  # of the Weibull times: the hazard rises with time
_MEDIAN_MONTHS = 45.0
_EVENT_RATE = 0.6


@dataclass(frozen=True)
class Outcomes:
    """One row per patient; every array is (P,).

    Args:
        lesion_fraction: Share of the tissue that is lesion.
        grade: 0 to 1.
        age: In years.
        label_probability: P(label = 1) given the lesion's extent.
        label: bool.
        log_hazard: Of the proportional hazards that drew the times, mean 0.
        time: Months to event or censoring.
        event: bool, True = it happened.
        site: Number of the site.
        tissue_fraction: Share of the slide that is tissue.
    """

    lesion_fraction: npt.NDArray[np.float64]
    grade: npt.NDArray[np.float64]
    age: npt.NDArray[np.float64]
    label_probability: npt.NDArray[np.float64]
    label: npt.NDArray[np.bool_]
    log_hazard: npt.NDArray[np.float64]
    time: npt.NDArray[np.float64]
    event: npt.NDArray[np.bool_]
    site: npt.NDArray[np.int64]
    tissue_fraction: npt.NDArray[np.float64]


def draw_outcomes(patients: int, *, seed: int, sites: int = 4) -> Outcomes:
    """Draw a cohort.

    Half the patients have a lesion of 14 to 45 % of their tissue; of the others a third has
    none and the rest up to 10 %. The label is drawn with P = logistic((extent - 0.12) / 0.015).
    Event times are Weibull with log hazard = 10 extent + 1.5 grade (where there is lesion)
    + 0.25 per ten years of age; censoring is independent and uniform.

    Site and tissue area are dealt out in pairs of one positive and one negative patient, so
    that neither predicts the label beyond what a pair's jitter allows.

    Args:
        patients: How many.
        seed: Of all draws.
        sites: How many sites the patients come from.
    """
    rng = np.random.default_rng([seed, patients, 0x0C0])
    much = rng.permutation(patients) < (patients + 1) // 2
    none = rng.random(patients) < 1 / 3
    extent = np.where(much, rng.uniform(0.14, 0.45, patients), np.where(none, 0.0, rng.uniform(0.01, 0.10, patients)))
    extent = _rounded(extent, 4)
    grade = _rounded(rng.uniform(0, 1, patients), 3)
    age = _rounded(np.clip(rng.normal(64, 11, patients), 25, 92), 1)
    probability = 1 / (1 + np.exp(-(extent - THRESHOLD) / SOFTNESS))
    label = rng.random(patients) < probability
    if label.all() == label.any():  # a small cohort of one class: the larger half by extent is positive
        label = extent >= np.median(extent)
    site, area = _deal(rng, label, sites)

    hazard = 10.0 * extent + 1.5 * grade * (extent > 0) + 0.025 * (age - 64)
    hazard = hazard - hazard.mean()
    time, event = draw_times(rng, hazard)
    return Outcomes(
        extent,
        grade,
        age,
        probability,
        label,
        _rounded(hazard, 5),
        _rounded(np.maximum(time, 0.1), 1),
        event,
        site,
        area,
    )


def _rounded(values: npt.NDArray[np.float64], digits: int) -> npt.NDArray[np.float64]:
    return np.asarray(np.round(values, digits), np.float64)


def _deal(
    rng: np.random.Generator, label: npt.NDArray[np.bool_], sites: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Site and tissue share for each patient, matched in pairs of one positive and one negative."""
    n = len(label)
    site, area = np.zeros(n, np.int64), np.zeros(n)
    groups = [rng.permutation(np.nonzero(label == value)[0]) for value in (False, True)]
    for group in groups:
        # the same grid of areas and sites for both groups, whatever their sizes
        rank = (np.arange(len(group)) + rng.uniform(0.2, 0.8, len(group))) / max(1, len(group))
        area[group] = 0.27 + 0.25 * rank
        site[group] = (np.arange(len(group)) * 5) % sites  # 5: neighbours in area differ in site
    return site, _rounded(area, 4)


def draw_times(
    rng: np.random.Generator, log_hazard: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Months (P,) and events (P,): Weibull times, uniform censoring scaled to about 60 % events."""
    n = len(log_hazard)
    scale = _MEDIAN_MONTHS / np.log(2) ** (1 / _SHAPE)
    death = scale * (rng.exponential(size=n) * np.exp(-log_hazard)) ** (1 / _SHAPE)
    leave = rng.uniform(0.1, 1.0, n)
    low, high = 1.0, 5000.0
    for _ in range(60):  # the follow-up that gives the wanted event rate
        follow_up = (low * high) ** 0.5
        if (death <= follow_up * leave).mean() < _EVENT_RATE:
            low = follow_up
        else:
            high = follow_up
    return np.minimum(death, high * leave), death <= high * leave


def harrell_c(risk: npt.NDArray[np.float64], time: npt.NDArray[np.float64], event: npt.NDArray[np.bool_]) -> float:
    """Harrell's C: share of comparable pairs in which the higher risk fails first; tied risks count half."""
    comparable = event[:, None] & (time[:, None] < time[None])
    right = np.where(risk[:, None] == risk[None], 0.5, risk[:, None] > risk[None])
    return float(right[comparable].mean()) if comparable.any() else float("nan")


def ceilings(truth: Outcomes, *, draws: int = 400, seed: int = 0) -> dict[str, dict[str, float | str]]:
    """The best expected scores on a cohort for one who knows the true extent and hazard.

    No score can do better in expectation: ranking by the true probability is Bayes-optimal
    for the AUC, ranking by the true hazard for the C-index. A single cohort's own
    number lies around it by chance.
    """
    p, f = truth.label_probability, truth.lesion_fraction
    pairs = np.outer(p, 1 - p)
    np.fill_diagonal(pairs, 0)
    wins = np.where(f[:, None] == f[None], 0.5, f[:, None] > f[None])
    positive, negative = f[truth.label], f[~truth.label]
    rng = np.random.default_rng([seed, draws, 0xCE11])
    scores = [harrell_c(truth.log_hazard, *draw_times(rng, truth.log_hazard)) for _ in range(draws)]
    realised = np.where(positive[:, None] == negative[None], 0.5, positive[:, None] > negative[None])
    return {
        "label_auc": {
            "ceiling": round(float((pairs * wins).sum() / pairs.sum()), 4) if pairs.any() else float("nan"),
            "this_cohort": round(float(realised.mean()), 4) if realised.size else float("nan"),
            "method": (
                "expected AUC of the true lesion share over redraws of the labels at these extents (pairs weighted "
                "by P(one positive, other negative)); below 1 only by the label noise around the threshold"
            ),
        },
        "survival_c_index": {
            "ceiling": round(float(np.mean(scores)), 4),
            "sd_over_cohorts": round(float(np.std(scores)), 4),
            "this_cohort": round(harrell_c(truth.log_hazard, truth.time, truth.event), 4),
            "method": f"mean Harrell C of the true log hazard over {draws} redraws of times and censoring",
        },
        "tile_lesion_auc": {
            "ceiling": 1.0,
            "method": "the stored mask is what was drawn; tiles without a single lesional cell may lie inside it",
        },
    }
