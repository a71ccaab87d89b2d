"""Groups of patients in which a model is measured again: by site, by sex, by age."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from wsikit.cohort.sites import TCGA, sites_of
from wsikit.cohort.table import Cohort
from wsikit.errors import ConfigError
from wsikit.registry import nearest

MOST = 40
"""Groups of one column, at most."""


@dataclass(frozen=True)
class Subgroup:
    """Some patients.

    Attributes:
        column: Of the table.
        name: "F", "age below 65", "no value".
        rows: (n,) their positions, ascending.
    """

    column: str
    name: str
    rows: npt.NDArray[np.int64]


def subgroups_of(cohort: Cohort, wanted: Sequence[str]) -> tuple[Subgroup, ...]:
    """The groups of some columns; those of one column hold every patient once.

    Args:
        cohort: Whose columns they are.
        wanted: Names of columns, each of whose values is a group; a number is cut: ``age:65`` makes "below 65" and
            "65 or more", ``age:50:65`` three groups. ``tcga`` is the tissue source site of TCGA barcodes.

    Raises:
        ConfigError: No such column, a cut or a value that is no number, more than 40 values.

    Example:
        >>> [group.name for group in subgroups_of(cohort, ["sex", "age:65"])]   # doctest: +SKIP
        ['F', 'M', 'age below 65', 'age 65 or more']
    """
    found: list[Subgroup] = []
    for text in wanted:
        column, *cuts = [text] if text in cohort.columns else text.split(":")
        if column == TCGA and column not in cohort.columns:
            values: tuple[str, ...] = sites_of(cohort, TCGA)
        elif column in cohort.columns:
            values = cohort.columns[column]
        else:
            raise ConfigError(
                f"subgroups: no column {column!r}{nearest(column, cohort.columns)} "
                f"(the table has: {', '.join(cohort.columns) or 'no other columns'})"
            )
        found += _cut(cohort, column, values, cuts) if cuts else _values(column, values)
    return tuple(found)


def _values(column: str, values: Sequence[str]) -> list[Subgroup]:
    names = sorted(set(values))
    if len(names) > MOST:
        raise ConfigError(
            f"subgroups: column {column!r} has {len(names)} values, expected at most {MOST}; cut a number, as in "
            f"'{column}:65'"
        )
    at = np.array(values)
    return [Subgroup(column, name or "no value", np.flatnonzero(at == name)) for name in names]


def _cut(cohort: Cohort, column: str, values: Sequence[str], cuts: Sequence[str]) -> list[Subgroup]:
    try:
        edges = [float(cut) for cut in cuts]
    except ValueError:
        edges = []
    if not edges or sorted(set(edges)) != edges:
        raise ConfigError(f"subgroups: '{column}:{':'.join(cuts)}', expected rising numbers, as in '{column}:50:65'")
    numbers = np.full(len(values), np.nan)
    for i, text in enumerate(values):
        try:
            numbers[i] = float(text) if text else np.nan
        except ValueError:
            raise ConfigError(
                f"subgroups: patient {cohort.patients[i]!r}: column {column!r} has {text!r}, expected a number"
            ) from None
    group = np.where(np.isnan(numbers), len(edges) + 1, np.searchsorted(edges, numbers, side="right"))
    names = [f"{column} below {edges[0]:g}"]
    names += [f"{column} {a:g} to below {b:g}" for a, b in pairwise(edges)]
    names += [f"{column} {edges[-1]:g} or more", "no value"]
    every = [Subgroup(column, name, np.flatnonzero(group == i)) for i, name in enumerate(names)]
    return [one for one in every if len(one.rows)]
