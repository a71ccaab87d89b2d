"""What two roles of a fold have in common: patients, sites, slides; and how outcomes are shared out."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np

from wsikit.cohort.endpoints import ClassTarget, SurvivalTarget, Target
from wsikit.cohort.several_labels import LabelsTarget
from wsikit.cohort.several_outcomes import SeveralTarget
from wsikit.cohort.sites import sites_of
from wsikit.cohort.splits import Fold, Splits
from wsikit.cohort.table import Cohort, CohortSlide

SITE = "site"
"""Column that is taken for the site where none is named."""


@dataclass(frozen=True)
class FoldAudit:
    """One fold.

    Attributes:
        number: From 0.
        tested: Patients of the cohort in the test role.
        rest: Of them in train and validation.
        balance: Of each class (or events, or the mean): its name, its number among the tested, and among the rest.
        shared_patients: In two roles.
        sites: Of the tested patients, sorted; none where sites are not known.
        shared_sites: Of these, those that also train or watch.
        from_shared: Tested patients of shared sites.
    """

    number: int
    tested: int
    rest: int
    balance: tuple[tuple[str, float, float], ...]
    shared_patients: tuple[str, ...]
    sites: tuple[str, ...]
    shared_sites: tuple[str, ...]
    from_shared: int


@dataclass(frozen=True)
class SameSlide:
    """Slides of different patients that are one file by their content, and are apart in some fold.

    Attributes:
        fingerprint: Of the file, as the store recorded it; of features without a file their hash.
        slides: (slide_id, patient_id) of each.
    """

    fingerprint: str
    slides: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class SplitAudit:
    """What was found.

    Attributes:
        site: Column of the sites, or "" where they are not known.
        folds: One for each.
        tested_twice: Patients in the test role of two folds.
        untested: Patients of the cohort in that of none.
        same_slides: Slides of different patients with equal content, on both sides of a fold.
    """

    site: str
    folds: tuple[FoldAudit, ...]
    tested_twice: tuple[str, ...]
    untested: tuple[str, ...]
    same_slides: tuple[SameSlide, ...]

    @property
    def leaks(self) -> tuple[str, ...]:
        """A sentence for everything by which a model may know whom it is tested on; none is good."""
        found = []
        for fold in self.folds:
            if fold.shared_patients:
                found.append(
                    f"Fold {fold.number + 1}: {_few(fold.shared_patients, 'patient')} both tested and trained on (or "
                    "watching)."
                )
        shared, tested = sum(f.from_shared for f in self.folds), sum(f.tested for f in self.folds)
        if shared:
            names = sorted({name for f in self.folds for name in f.shared_sites})
            found.append(
                f"{shared} of {tested} tested patients ({100 * shared / max(1, tested):.0f} %) are of a site that "
                f"their models were trained on ({_few(names, 'site')}): what is learned may be the site. 'splits: "
                f"{{site: {self.site}}}' keeps each in one fold."
            )
        for same in self.same_slides:
            listed = " and ".join(f"{slide!r} of patient {patient!r}" for slide, patient in same.slides)
            found.append(
                f"Slides {listed} have the same content (fingerprint {same.fingerprint[:12]}), and one is tested by "
                "models that were trained on the other."
            )
        return tuple(found)

    @property
    def remarks(self) -> tuple[str, ...]:
        """A sentence for everything else to know: who is tested twice or never, a class that a fold does not test."""
        found = []
        if self.tested_twice:
            found.append(f"{_few(self.tested_twice, 'patient')} tested in several folds.")
        if self.untested:
            found.append(f"{_few(self.untested, 'patient')} tested in no fold.")
        for fold in self.folds:
            for name, tested, rest in fold.balance:
                if not name.startswith("mean") and tested == 0:
                    found.append(f"Fold {fold.number + 1} tests nobody with {name} (its models see {rest:g}).")
        return tuple(found)

    def values(self) -> dict[str, Any]:
        """Plain values for ``run.json``."""
        return {
            "site": self.site,
            "leaks": list(self.leaks),
            "remarks": list(self.remarks),
            "folds": [
                {
                    "fold": f.number, "tested": f.tested, "rest": f.rest, "shared patients": len(f.shared_patients),
                    "sites": len(f.sites), "shared sites": len(f.shared_sites), "tested of shared sites": f.from_shared,
                    "balance": {name: [tested, rest] for name, tested, rest in f.balance},
                }
                for f in self.folds
            ],
        }  # fmt: skip


def audit_splits(splits: Splits, cohort: Cohort, *, site: str | None = None) -> SplitAudit:
    """Look for leaks between the tested patients and the others of each fold.

    Args:
        splits: Patients that the cohort does not have are passed over.
        cohort: Its table may have a site; its stores know the slides' fingerprints.
        site: Column of the site, or ``tcga``; default: the column ``site`` where the table has one.

    Raises:
        ConfigError: No such column, or a patient with no site or several (where the column was named).

    Example:
        >>> audit_splits(make_splits(cohort, folds=5), cohort, site="hospital").leaks   # doctest: +SKIP
        ()
    """
    column = site or (SITE if SITE in cohort.columns else "")
    if column and not site and (cohort.mixed.get(column) or not all(cohort.columns[column])):
        column = ""  # nobody said that this column is the site, and it is none of each patient's
    of_patient = dict(zip(cohort.patients, sites_of(cohort, column), strict=True)) if column else {}
    folds = tuple(_fold(i, fold, cohort, of_patient) for i, fold in enumerate(splits.folds))
    times: dict[str, int] = defaultdict(int)
    for fold in splits.folds:
        for patient in fold.test:
            times[patient] += 1
    return SplitAudit(
        column,
        folds,
        tuple(sorted(p for p, n in times.items() if n > 1)),
        tuple(p for p in cohort.patients if not times[p]),
        _same_slides(splits, cohort),
    )


def _fold(number: int, fold: Fold, cohort: Cohort, site: dict[str, str]) -> FoldAudit:
    known = set(cohort.patients)
    tested, rest = sorted(known & set(fold.test)), sorted(known & {*fold.train, *fold.validation})
    both = (set(fold.test) & {*fold.train, *fold.validation}) | (set(fold.train) & set(fold.validation))
    sites = {site[p] for p in tested if p in site}
    shared = sites & {site[p] for p in rest if p in site}
    balance = [
        (name, a, b)
        for (name, a), (_, b) in zip(
            _balance(cohort.target.take(cohort.index(tested))), _balance(cohort.target.take(cohort.index(rest))),
            strict=True,
        )
    ]  # fmt: skip
    return FoldAudit(
        number,
        len(tested),
        len(rest),
        tuple(balance),
        tuple(sorted(both)),
        tuple(sorted(sites)),
        tuple(sorted(shared)),
        sum(site.get(p) in shared for p in tested),
    )


def _balance(target: Target) -> list[tuple[str, float]]:
    if isinstance(target, ClassTarget):
        counts = np.bincount(target.label, minlength=len(target.classes)).tolist()
        return [(f"class {name}", n) for name, n in zip(target.classes, counts, strict=True)]
    if isinstance(target, SurvivalTarget):
        return [("an event", int(target.event.sum()))]
    if isinstance(target, LabelsTarget):
        return [(f"label {name}", yes) for name, yes, _ in target.counts()]
    if isinstance(target, SeveralTarget):
        each = [_balance(part.target) for part in target.parts]
        return [(f"{name}: {what}", n) for name, mine in zip(target.names, each, strict=True) for what, n in mine]
    return [("mean", float(target.value.mean()) if len(target) else float("nan"))]


def _same_slides(splits: Splits, cohort: Cohort) -> tuple[SameSlide, ...]:
    alike: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for patient, slides in zip(cohort.patients, cohort.slides, strict=True):
        for slide in slides:
            content = content_of(slide, cohort.encoder)
            if content:
                alike[content].append((slide.slide_id, patient))
    roles = [(set(f.test), {*f.train, *f.validation}) for f in splits.folds]
    found = []
    for fingerprint, same in alike.items():
        who = {patient for _, patient in same}
        if len(who) > 1 and any(who & test and who & rest for test, rest in roles):
            found.append(SameSlide(fingerprint, tuple(same)))
    return tuple(found)


def content_of(slide: CohortSlide, encoder: str) -> str | None:
    """Identity of what a slide shows, hex digits; None where nobody knows it.

    The fingerprint of its file. Features that were stored without a file (``store_features``) have a fingerprint of the
    places of their rows only, which two slides with as many rows may share; there it is the hash of the features.

    Args:
        slide: In its store.
        encoder: Whose features, where it comes to them.
    """
    facts = slide.store.slide(slide.slide_id)
    if facts.get("reader") != "arrays":
        return facts.get("fingerprint") or None
    attributes = slide.store.encoder(slide.slide_id, encoder)
    hashes = [part.get("run", {}).get("sha256") for part in attributes.get("parts", [attributes])]
    return "+".join(hashes) if all(hashes) else None


def _few(names: Any, what: str) -> str:
    listed = ", ".join(map(repr, names[:5])) + (" ..." if len(names) > 5 else "")
    return f"{len(names)} {what}{'' if len(names) == 1 else 's'} ({listed})"
