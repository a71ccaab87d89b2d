"""Every question to a cohort, in the order of the page."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from wsikit.cohort.bags import Bags
from wsikit.cohort.sites import TCGA
from wsikit.cohort.table import Cohort
from wsikit.errors import ConfigError
from wsikit.evaluation.audit.check import AMBER, AuditSettings, Check
from wsikit.evaluation.audit.outcome import label_permutation, simple_model
from wsikit.evaluation.audit.sites import groupings, site_checks
from wsikit.evaluation.audit.slides import duplicates, seen_before
from wsikit.evaluation.baselines import baseline_predictions
from wsikit.evaluation.scores import strata
from wsikit.evaluation.separability import stratified_folds
from wsikit.registry import nearest

Codes = npt.NDArray[np.int64]


def audit_cohort(
    cohort: Cohort,
    *,
    site: str | None = None,
    outcome: bool = True,
    fold: Codes | None = None,
    pretraining: Sequence[str] | None = None,
    settings: AuditSettings | None = None,
) -> tuple[Check, ...]:
    """Ask every question that the cohort can answer.

    Args:
        cohort: From :func:`wsikit.cohort.table.load_cohort`.
        site: Column of the table with the hospital or scanner, or ``tcga`` for the site in TCGA barcodes.
        outcome: Whether the cohort's endpoint is an outcome; False where it only stands in for one, and the
            questions about labels are left out.
        fold: (P,) the fold that tests each patient, of a run; default: five stratified folds.
        pretraining: What the encoder was trained on, where its card does not know.
        settings: How much work.

    Raises:
        ConfigError: No such column.
        StoreError: Features are missing.

    Example:
        >>> checks = audit_cohort(cohort, site="hospital")       # doctest: +SKIP
    """
    from threadpoolctl import threadpool_limits

    asked = settings or AuditSettings()
    if site is not None and site not in (*cohort.columns, TCGA):
        raise ConfigError(
            f"audit: no column {site!r}{nearest(site, cohort.columns)} for the site "
            f"(the table has: {', '.join(cohort.columns) or 'no other columns'})"
        )
    bags = Bags(cohort.slides, encoder=cohort.encoder)
    means = bags.means()
    given = fold is not None
    if fold is None:
        rng = np.random.default_rng(asked.seed)
        groups = strata(cohort.target, np.zeros(len(cohort), np.int64)) if outcome else np.zeros(len(cohort), np.int64)
        fold = stratified_folds(groups, 5, rng)
    checks = [duplicates(cohort, means, fold if given else None)]
    for name, values in groupings(cohort, site):
        checks += site_checks(cohort, name, values, means, fold if given else None, outcome, asked)
    if outcome:
        with threadpool_limits(1):  # many small fits: threads that wait for one another would take most of the time
            checks += _outcome_checks(cohort, bags, means, fold, asked)
    checks.append(seen_before(cohort, pretraining))
    return tuple(checks)


def _outcome_checks(
    cohort: Cohort, bags: Bags, means: npt.NDArray[np.floating], fold: Codes, asked: AuditSettings
) -> list[Check]:
    probe = baseline_predictions(means, cohort.target, fold)
    checks = [label_permutation(cohort, means, probe, fold, asked)]
    slides = [slide for mine in cohort.slides for slide in mine]
    name = f"{asked.colour} only"
    if all(s.store.has(s.slide_id, asked.colour) and s.store.finished(s.slide_id, asked.colour) for s in slides):
        colour = Bags(cohort.slides, encoder=asked.colour).means()
        checks.append(simple_model(cohort, name, colour, probe, fold, asked))
    else:
        found = f"Not asked: slides have no features of encoder {asked.colour!r}."
        advice = f"'wsikit extract ... --encoder {asked.colour}' into the same store adds them."
        checks.append(Check(name, f"Is the outcome predicted by {asked.colour} alone?", AMBER, found, advice))
    sizes = np.log(np.maximum(bags.sizes, 1))[:, None]
    return [*checks, simple_model(cohort, "number of tiles only", sizes, probe, fold, asked)]
