"""Slides that are there twice, and slides that the encoder has seen."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from wsikit.cohort.split_audit import content_of
from wsikit.cohort.table import Cohort
from wsikit.evaluation.audit.check import AMBER, GREEN, RED, Check

Codes = npt.NDArray[np.int64]

SAME_FEATURES = 1e-3
"""Two patients whose mean features differ by less, in spreads of the cohort, are taken for one slide saved twice."""

SOURCES = {
    "TCGA": re.compile(r"TCGA-[A-Z0-9]{2}-[A-Z0-9]{4}", re.IGNORECASE),
    "CPTAC": re.compile(r"C3[LN]-\d{5}", re.IGNORECASE),
    "GTEx": re.compile(r"GTEX-[A-Z0-9]{4,}", re.IGNORECASE),
}
"""Public collections that are known by the form of their patients' ids."""


def duplicates(cohort: Cohort, means: npt.NDArray[np.floating], fold: Codes | None) -> Check:
    """The same content under two names, in two patients or two folds.

    Args:
        cohort: Patients.
        means: (P, D) mean features: equal ones betray a slide that was saved twice.
        fold: (P,) of a run, or None.
    """
    question = "Is a slide there twice, in two patients or two folds?"
    of: dict[tuple[str, object], set[int]] = defaultdict(set)
    names: dict[tuple[str, object], list[str]] = defaultdict(list)
    for i, slides in enumerate(cohort.slides):
        for slide in slides:
            facts = slide.store.slide(slide.slide_id)
            print_ = content_of(slide, cohort.encoder)
            if print_:
                of[print_, facts.get("scene")].add(i)
                names[print_, facts.get("scene")].append(slide.slide_id)
    shared = [key for key, patients in of.items() if len(patients) > 1]
    twice = [key for key, found in names.items() if len(found) > 1 and len(of[key]) == 1]
    if shared:
        crossing = [key for key in shared if fold is not None and len({int(fold[i]) for i in of[key]}) > 1]
        listed = "; ".join(" = ".join(names[key]) for key in shared[:3])
        where = f", {len(crossing)} of them in different folds of the run" if crossing else ""
        found = f"{len(shared)} slide files belong to more than one patient{where}: {listed}."
        advice = "Find out whose slide it is, keep one row, and run again: a model is tested on what it was trained on."
        return Check("duplicates", question, RED, found, advice)
    alike = _alike(means)
    if alike:
        listed = "; ".join(f"{cohort.patients[i]} and {cohort.patients[j]}" for i, j in alike[:3])
        found = f"No file is there twice, but {len(alike)} pairs of patients have the same mean features: {listed}."
        advice = "Look at both: one slide saved or scanned under two names has two fingerprints."
        return Check("duplicates", question, AMBER, found, advice)
    if twice:
        listed = "; ".join(" = ".join(names[key]) for key in twice[:3])
        found = f"{len(twice)} slide files are there twice in one patient: {listed}."
        return Check("duplicates", question, AMBER, found, "Remove one of the rows: its tiles count twice.")
    return Check("duplicates", question, GREEN, f"All {cohort.n_slides:,} slides have content of their own.")


def _alike(means: npt.NDArray[np.floating]) -> list[tuple[int, int]]:
    """Pairs of patients whose mean features are equal up to rounding."""
    spread = means.std(0, dtype=np.float64)
    real = spread > 1e-6 * max(float(spread.max()), 1e-12)
    if not real.any():
        return []
    z = (means[:, real] - means[:, real].mean(0)) / spread[real]
    found = []
    for i in range(len(z) - 1):
        near = np.flatnonzero(np.abs(z[i + 1 :] - z[i]).max(1) < SAME_FEATURES)
        found += [(i, int(i + 1 + j)) for j in near]
    return found


def seen_before(cohort: Cohort, given: Sequence[str] | None) -> Check:
    """Whether the encoder was trained on these very slides.

    Args:
        cohort: Patients, whose ids may be those of a public collection.
        given: What the encoder was trained on; None: what its card says.
    """
    question = "Has the encoder seen these slides while it was trained?"
    example = cohort.slides[0][0]
    card = example.store.encoder(example.slide_id, cohort.encoder)["card"]
    known = card.get("pretraining") if given is None else list(given)
    sources = [name for name, form in SOURCES.items() if any(form.match(patient) for patient in cohort.patients)]
    here = (
        f"The patients' ids are those of {', '.join(sources)}"
        if sources
        else "The patients' ids are of no public collection"
    )
    if known is None:
        found = f"The card of {card['name']} does not say what it was trained on. {here}."
        advice = "Look it up, and say it with --pretraining TCGA,CPTAC (or --pretraining none)."
        return Check("pre-training", question, AMBER, found, advice)
    trained = ", ".join(known) or "no slides at all"
    both = sorted({name.lower() for name in known} & {name.lower() for name in sources})
    found = f"{card['name']} was trained on {trained}. {here}."
    if both:
        advice = "It is no new cohort to this encoder. Test on another one, or use an encoder that has not seen it."
        return Check("pre-training", question, RED, found, advice)
    return Check("pre-training", question, GREEN, found)
