"""The cohort of an experiment."""

from __future__ import annotations

from collections.abc import Callable

from wsikit.cohort.endpoints import endpoint_from
from wsikit.cohort.splits import describe
from wsikit.cohort.table import Cohort, load_cohort
from wsikit.evaluation.settings import Experiment


def cohort_of(experiment: Experiment, *, say: Callable[[str], None] = lambda line: None) -> Cohort:
    """Read the table and the stores that an experiment names.

    Args:
        experiment: What is asked.
        say: Told who is in it, and why others are not.

    Raises:
        ConfigError: Anything about the table or the stores that cannot be used.
    """
    cohort = load_cohort(
        experiment.cohort,
        endpoint=endpoint_from(experiment.endpoint),
        stores=experiment.stores,
        encoder=experiment.encoder,
        missing_slides=experiment.missing_slides,
    )
    say(f"cohort: {describe(cohort.target)}; {cohort.n_slides} slides")
    for reason, count in cohort.excluded.items():
        say(f"  left out: {count} x {reason}")
    return cohort
