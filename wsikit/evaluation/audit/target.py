"""What an audit is asked about: a store with a table, or a finished cross-validation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.cohort.endpoints import ClassLabel, ClassTarget, Endpoint, endpoint_from
from wsikit.cohort.several_outcomes import Several
from wsikit.cohort.split_files import load_splits
from wsikit.cohort.splits import within
from wsikit.cohort.table import SLIDE, Cohort, load_cohort, read_rows
from wsikit.errors import ConfigError
from wsikit.evaluation.run_files import OUTCOMES


@dataclass(frozen=True)
class Audited:
    """A cohort and what is known of how it was used.

    Attributes:
        name: For the title.
        cohort: Patients.
        outcome: Whether its endpoint is an outcome, and not only the site.
        fold: (P,) the fold that tests each patient, of a run; else None.
    """

    name: str
    cohort: Cohort
    outcome: bool
    fold: npt.NDArray[np.int64] | None


def audited(
    target: str,
    table: Path,
    *,
    site: str | None = None,
    label: str | None = None,
    encoder: str = "texture",
    stores: Sequence[str] | None = None,
) -> Audited:
    """Open what is to be audited. Slides without finished features are left out, and counted.

    Args:
        target: A store, or the folder of a cross-validation, which knows its endpoint, features and folds.
        table: The CSV of the cohort.
        site: Column with the hospital or scanner.
        label: Column with the class, for a store.
        encoder: Features, for a store.
        stores: Of a run: it does not record where they are.

    Raises:
        ConfigError: Neither a label nor a site for a store, no store for a run, or anything about the table.
    """
    run = Path(target) / "run.json"
    if not run.is_file():
        endpoint, outcome = _endpoint(table, label, site)
        cohort = load_cohort(table, endpoint=endpoint, stores=target, encoder=encoder, missing_slides="exclude")
        if not outcome and site is not None:  # the endpoint took the column away from the others
            cohort = _with_column(cohort, site)
        return Audited(Path(target).name, cohort, outcome, None)
    if not stores:
        raise ConfigError(f"{target}: a run does not record where its stores are; name them with --store")
    facts: dict[str, Any] = json.loads(run.read_text(encoding="utf-8"))
    endpoint = endpoint_from(facts["endpoint"])
    if isinstance(endpoint, Several):
        one = Path(target) / OUTCOMES / endpoint.names[0]
        raise ConfigError(f"{target}: a run of several outcomes; name the folder of one of them, such as {one}")
    cohort = load_cohort(
        table, endpoint=endpoint, stores=list(stores), encoder=facts["encoder"], missing_slides="exclude"
    )
    splits = within(load_splits(Path(target) / "splits.csv", cohort), cohort)
    return Audited(facts["name"] or Path(target).name, cohort, True, splits.test_fold(cohort.patients))


def _endpoint(table: Path, label: str | None, site: str | None) -> tuple[Endpoint, bool]:
    column = label or site
    if column is None:
        raise ConfigError("an audit of a store needs --label COLUMN, --site COLUMN, or both: what may go wrong?")
    rows = read_rows(table, needed=(SLIDE, column))
    classes = sorted({row[column] for row in rows} - {""})
    if len(classes) < 2:
        raise ConfigError(f"{table}: column {column!r} has {classes}; expected two classes or more")
    return ClassLabel(column, tuple(classes)), label is not None


def _with_column(cohort: Cohort, column: str) -> Cohort:
    assert isinstance(cohort.target, ClassTarget)
    values = tuple(cohort.target.classes[i] for i in cohort.target.label.tolist())
    return replace(cohort, columns={**cohort.columns, column: values})
