"""Folds that keep sites whole, outside and inside: nobody is tested by a model that knows the patient's hospital."""

from __future__ import annotations

import numpy as np

from wsikit.cohort.endpoints import ClassTarget, SurvivalTarget, Target
from wsikit.cohort.several_outcomes import SeveralTarget
from wsikit.cohort.sites import Codes, deal_sites, outcome_strata, sites_of
from wsikit.cohort.splits import Fold, Splits, hold_out, inner_splits
from wsikit.cohort.table import Cohort
from wsikit.errors import ConfigError


def make_site_splits(cohort: Cohort, *, site: str, folds: int = 5, seed: int = 0, validation: float = 0.2) -> Splits:
    """Folds of whole sites, as alike in their outcomes as whole sites allow.

    Slides of one hospital share stain and scanner, and often the outcome: a model that recognises the
    hospital scores well without any biology. The patients who watch the training are of other
    sites than those who train, too, wherever a fold has two sites left.

    Args:
        cohort: Patients.
        site: Column of the table, or ``tcga``.
        folds: How many; each patient is tested in one.
        seed: Of the dealing.
        validation: About this share of a fold's other patients watches its training, in whole sites.

    Raises:
        ConfigError: Fewer sites than folds, no such column, or a share that makes no sense.

    Reference:
        As :func:`wsikit.cohort.sites.deal_sites`.
    """
    if folds < 2 or not 0 < validation < 0.9:
        raise ConfigError(f"splits: {folds} folds and a validation share of {validation}, expected >= 2 and 0 to 0.9")
    codes, names = _codes(cohort, site)
    if len(names) < folds:
        raise ConfigError(
            f"splits: {len(names)} sites ({', '.join(names[:8])}) and {folds} folds; a site is never parted, so give "
            "at most as many folds as there are sites, or 'kind: leave-one-site-out'"
        )
    strata, by = outcome_strata(cohort.target)
    part = deal_sites(codes, strata, folds, seed=seed)
    made = {
        "folds": folds,
        "seed": seed,
        "validation": validation,
        "site": site,
        "sites": len(names),
        "balanced by": by,
    }
    return Splits(_folds(cohort, codes, strata, part, validation, seed), made)


def leave_one_site_out(cohort: Cohort, *, site: str, seed: int = 0, validation: float = 0.2) -> Splits:
    """One fold for each site, in order of their names, tested by models of all the others.

    Args:
        cohort: Patients.
        site: Column of the table, or ``tcga``.
        seed: Of choosing who watches the training.
        validation: About this share of a fold's other patients does, in whole sites.

    Raises:
        ConfigError: One site only, no such column, or a share that makes no sense.
    """
    if not 0 < validation < 0.9:
        raise ConfigError(f"splits: a validation share of {validation}, expected 0 to 0.9")
    codes, names = _codes(cohort, site)
    if len(names) < 2:
        raise ConfigError(f"splits: all patients are of one site, {names[0]!r}; leave-one-site-out needs two")
    strata, _ = outcome_strata(cohort.target)
    made = {"kind": "leave-one-site-out", "seed": seed, "validation": validation, "site": site, "sites": len(names)}
    return Splits(_folds(cohort, codes, strata, codes, validation, seed), made)


def inner_site_splits(fold: Fold, cohort: Cohort, *, site: str, parts: int, seed: int) -> list[tuple[Codes, Codes]]:
    """Positions of the training and the validation patients of each model of a fold, in whole sites.

    There are as many models as parts, or fewer: as many as the fold's other patients have sites, and as
    every part can do with (an event to watch, every class to train on). Where they are all of one site,
    or no two parts will do, patients are dealt as :func:`~wsikit.cohort.splits.inner_splits` deals them; the
    tested site is a stranger to them all the same.

    Args:
        fold: Its roles; the tested patients are not touched.
        cohort: Patients.
        site: Column of the table, or ``tcga``.
        parts: Models wanted; with 1 they are the fold's own roles.
        seed: Of the dealing.

    Raises:
        ConfigError: Too few patients, of a class or with an event.
    """
    if parts == 1:
        return inner_splits(fold, cohort, parts=1, seed=seed)
    rest = np.sort(np.concatenate([cohort.index(fold.train), cohort.index(fold.validation)]))
    codes, _ = _codes(cohort, site)
    strata, _ = outcome_strata(cohort.target)
    for count in range(min(parts, len(np.unique(codes[rest]))), 1, -1):
        part = deal_sites(codes[rest], strata[rest], count, seed=seed)
        found = [(rest[part != number], rest[part == number]) for number in range(count)]
        if all(_usable(cohort.target.take(train), cohort.target.take(watch)) for train, watch in found):
            return found
    return inner_splits(fold, cohort, parts=parts, seed=seed)


def _usable(train: Target, watch: Target) -> bool:
    if isinstance(train, SeveralTarget) and isinstance(watch, SeveralTarget):
        pairs = zip(train.parts, watch.parts, strict=True)
        return all(a.known.any() and _usable(a.target, b.target) for a, b in pairs)
    if isinstance(train, ClassTarget):
        return len(np.unique(train.label)) == len(train.classes)
    if isinstance(train, SurvivalTarget) and isinstance(watch, SurvivalTarget):
        return bool(train.event.any() and watch.event.any())
    return True


def _codes(cohort: Cohort, site: str) -> tuple[Codes, list[str]]:
    names, codes = np.unique(sites_of(cohort, site), return_inverse=True)
    return codes.astype(np.int64), [str(name) for name in names]


def _folds(cohort: Cohort, codes: Codes, strata: Codes, part: Codes, share: float, seed: int) -> tuple[Fold, ...]:
    patients, made = np.array(cohort.patients), []
    for number in range(int(part.max()) + 1):
        rest = np.flatnonzero(part != number)
        train, stop = _hold_out_sites(cohort, rest, codes, strata, share, seed * 1000 + number)
        roles = (train, stop, np.flatnonzero(part == number))
        made.append(Fold(*(tuple(sorted(patients[rows].tolist())) for rows in roles)))
    return tuple(made)


def _hold_out_sites(
    cohort: Cohort, rest: Codes, codes: Codes, strata: Codes, share: float, seed: int
) -> tuple[Codes, Codes]:
    """Positions of those who train and of those who watch: about a share of the patients, in whole sites."""
    most = len(np.unique(codes[rest]))
    for parts in range(min(max(2, round(1 / share)), most), 1, -1):
        part = deal_sites(codes[rest], strata[rest], parts, seed=seed)
        sizes = np.bincount(part)
        for number in np.argsort(np.abs(sizes - share * len(rest)), kind="stable"):
            train, watch = rest[part != number], rest[part == number]
            if _usable(cohort.target.take(train), cohort.target.take(watch)):
                return train, watch
    return hold_out(rest, cohort.target, strata, share=share, seed=seed)
