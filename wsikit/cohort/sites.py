"""Where patients come from, and how whole sites are dealt into parts that are alike in their outcomes."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

from wsikit.cohort.endpoints import ClassTarget, SurvivalTarget, Target
from wsikit.cohort.several_labels import LabelsTarget
from wsikit.cohort.several_outcomes import SeveralTarget
from wsikit.cohort.table import Cohort
from wsikit.errors import ConfigError
from wsikit.registry import nearest

Codes = npt.NDArray[np.int64]

TCGA = "tcga"
"""Name of the site that is read out of a TCGA barcode; a column of that name in the table goes first."""

_BARCODE = re.compile(r"TCGA-([A-Z0-9]{2})-[A-Z0-9]{4}", re.IGNORECASE)
_RESTARTS, _DEALINGS = 24, 20_000


def sites_of(cohort: Cohort, column: str) -> tuple[str, ...]:
    """The site of each patient, (P,).

    Args:
        cohort: Patients.
        column: Of the table; or ``tcga``: the tissue source site, the second field of a TCGA barcode. One
            hospital may have several such codes: a column with its name keeps hospitals apart better.

    Raises:
        ConfigError: No such column, a patient without a site or with two, an id that is no barcode.

    Example:
        >>> from wsikit.cohort.endpoints import Continuous, ContinuousTarget
        >>> target = ContinuousTarget(np.array([1.0]))
        >>> sites_of(Cohort(("TCGA-A1-A0SB",), ((),), Continuous("x"), target, "toy", {}), "tcga")
        ('A1',)
    """
    if column in cohort.columns:
        found = cohort.columns[column]
        mixed = cohort.mixed.get(column, ())
        if mixed:
            raise ConfigError(
                f"column {column!r}: {len(mixed)} patients have slides of several sites ({', '.join(mixed[:5])}); "
                "a site is a patient's, so that it can be kept in one fold"
            )
        empty = [p for p, site in zip(cohort.patients, found, strict=True) if not site]
        if empty:
            raise ConfigError(
                f"column {column!r}: {len(empty)} patients have no site ({', '.join(empty[:5])}); fill it in, or leave "
                "them out by an empty outcome"
            )
        return found
    if column != TCGA:
        raise ConfigError(
            f"splits: no column {column!r}{nearest(column, cohort.columns)} for the site "
            f"(the table has: {', '.join(cohort.columns) or 'no other columns'}; or write 'tcga' for TCGA barcodes)"
        )
    codes = []
    for patient in cohort.patients:
        match = _BARCODE.match(patient)
        if match is None:
            raise ConfigError(
                f"splits: patient {patient!r} is no TCGA barcode such as 'TCGA-A1-A0SB', so it has no tissue source "
                "site; name a column of the table instead"
            )
        codes.append(match[1].upper())
    return tuple(codes)


def outcome_strata(target: Target) -> tuple[Codes, str]:
    """What parts are balanced by, (P,) codes, and its name: class, event, rarest label, or tertile of a number."""
    if isinstance(target, SeveralTarget):
        codes, name = outcome_strata(target.parts[target.main].target)
        return target.codes(codes), f"{target.names[target.main]}: {name}"
    if isinstance(target, ClassTarget):
        return target.label, "class"
    if isinstance(target, SurvivalTarget):
        return target.event.astype(np.int64), "event"
    if isinstance(target, LabelsTarget):
        return target.rarest(), "rarest label"
    rank = np.argsort(np.argsort(target.value, kind="stable"), kind="stable")
    return np.asarray(rank * 3 // max(1, len(rank)), np.int64), "tertile of the value"


def deal_sites(site: Codes, strata: Codes, parts: int, *, seed: int) -> Codes:
    r"""The part of each patient (n,), such that no site is in two parts and outcomes are shared out evenly.

    Minimised is the sum over parts f and strata k of (n_fk - N_k / F)^2 / N_k. Howard et al. minimise the
    same squares without the divisor, by integer programming; with it a rare class counts as much as a
    common one. Up to some 20,000 dealings are all tried. Of more, sites are placed largest first, then single
    ones are moved and pairs swapped until nothing is gained, from several starts: near the best, without a solver.
    Equal seeds give equal parts.

    Args:
        site: (n,) number of the site of each patient.
        strata: (n,) number of the outcome's stratum.
        parts: F, at most as many as there are sites; none is empty.
        seed: Of the starts.

    Raises:
        ConfigError: Fewer sites than parts.

    Example:
        >>> deal_sites(np.array([0, 0, 1, 1, 2]), np.array([0, 1, 0, 1, 0]), 2, seed=0).tolist()
        [0, 0, 1, 1, 0]

    Reference:
        Howard et al., 2021, Nat Commun 12:4423, doi:10.1038/s41467-021-24698-1, "preserved-site cross-validation";
        compared with https://github.com/fmhoward/PreservedSiteCV.
    """
    _, site = np.unique(site, return_inverse=True)
    sites = int(site.max(initial=-1)) + 1
    if sites < parts:
        raise ConfigError(f"{sites} sites cannot be dealt into {parts} parts, as a site is never parted")
    kinds, code = np.unique(strata, return_inverse=True)
    counts = np.zeros((sites, len(kinds)))
    np.add.at(counts, (site, code), 1)
    weighted = counts / np.sqrt(counts.sum(0))  # (S, K): the objective is now a plain sum of squares
    rng = np.random.default_rng(seed)
    if parts ** (sites - 1) <= _DEALINGS:
        best = _best_of_all(weighted, parts, rng)
    else:
        found = [_descend(weighted, parts, rng) for _ in range(_RESTARTS)]
        best = min(found, key=lambda one: round(one[0], 9))[1]  # of equal ones the first
    _, first = np.unique(best[site], return_index=True)
    order = np.argsort(np.argsort(first))  # parts are numbered by their first patient
    return np.asarray(order[best[site]], np.int64)


def _best_of_all(counts: npt.NDArray[np.float64], parts: int, rng: np.random.Generator) -> Codes:
    """Part of each site (S,) in a dealing that no other is better than; which of equal ones, the seed decides."""
    sites = len(counts)
    number = np.arange(parts ** (sites - 1))
    dealt = number[:, None] // parts ** np.arange(sites)[None] % parts  # (M, S); the last site stays in part 0
    total = np.stack([(dealt == part) @ counts for part in range(parts)], 1)  # (M, F, K)
    squares = (total**2).sum((1, 2))
    squares[[len(set(one)) < parts for one in dealt.tolist()]] = np.inf  # no part is left empty
    return np.asarray(dealt[rng.choice(np.flatnonzero(squares <= squares.min() + 1e-9))], np.int64)


def _descend(counts: npt.NDArray[np.float64], parts: int, rng: np.random.Generator) -> tuple[float, Codes]:
    """(sum of squares, part of each site) at a local optimum."""
    sites = len(counts)
    size = counts.sum(1) * rng.uniform(0.7, 1.3, sites)
    of, total = np.empty(sites, np.int64), np.zeros((parts, counts.shape[1]))
    for number, s in enumerate(np.argsort(-size)):
        of[s] = number if number < parts else np.argmin(total @ counts[s])
        total[of[s]] += counts[s]
    while True:
        # Moving d from part f to part g changes the sum of squares by 2 d (T_g - T_f + d).
        every = np.arange(parts)
        move = 2 * np.einsum("sk,sgk->sg", counts, total[None] - total[of][:, None] + counts[:, None])
        move[np.bincount(of, minlength=parts)[of] == 1] = np.inf  # no part is left empty
        move[of[:, None] == every] = np.inf
        d = counts[:, None] - counts[None]  # (S, S, K): s goes, u comes
        swap = 2 * np.einsum("suk,suk->su", d, total[of][None] - total[of][:, None] + d)
        swap[of[:, None] == of] = np.inf
        if min(move.min(), swap.min()) > -1e-9:
            return float((total**2).sum()), of
        if move.min() <= swap.min():
            s, g = np.unravel_index(int(move.argmin()), move.shape)
            of[s] = g
        else:
            s, u = np.unravel_index(int(swap.argmin()), swap.shape)
            of[s], of[u] = of[u], of[s]
        total = np.zeros_like(total)
        np.add.at(total, of, counts)
