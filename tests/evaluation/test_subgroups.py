"""Subgroups: values and cuts, everybody once, and what cannot be one."""

from __future__ import annotations

import numpy as np
import pytest

from wsikit.cohort.endpoints import Continuous, ContinuousTarget
from wsikit.cohort.table import Cohort
from wsikit.errors import ConfigError
from wsikit.evaluation.subgroups import subgroups_of

PATIENTS = tuple(f"TCGA-A{i % 2}-000{i}" for i in range(6))
COLUMNS = {
    "sex": ("F", "M", "F", "", "M", "F"),
    "age": ("64.9", "65", "30", "80", "", "50"),
    "a:b": ("x", "x", "x", "y", "y", "y"),
    "word": ("old", "1", "2", "3", "4", "5"),
}
COHORT = Cohort(PATIENTS, ((),) * 6, Continuous("v"), ContinuousTarget(np.arange(6.0)), "toy", COLUMNS)


def groups(*wanted):
    return {g.name: g.rows.tolist() for g in subgroups_of(COHORT, wanted)}


def test_values_cuts_and_the_empty_cell():
    assert groups("sex") == {"no value": [3], "F": [0, 2, 5], "M": [1, 4]}
    assert groups("age:65") == {"age below 65": [0, 2, 5], "age 65 or more": [1, 3], "no value": [4]}
    assert groups("age:50:65") == {
        "age below 50": [2], "age 50 to below 65": [0, 5], "age 65 or more": [1, 3], "no value": [4],
    }  # fmt: skip
    assert groups("a:b") == {"x": [0, 1, 2], "y": [3, 4, 5]}  # a column that has a colon in its name
    assert groups("tcga") == {"A0": [0, 2, 4], "A1": [1, 3, 5]}
    both = subgroups_of(COHORT, ["sex", "age:65"])
    for column in ("sex", "age"):
        rows = np.concatenate([g.rows for g in both if g.column == column])
        assert sorted(rows.tolist()) == list(range(6))


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ("sexx", "no column 'sexx'; did you mean 'sex'"),
        ("age:x", "'age:x', expected rising numbers"),
        ("age:65:50", "'age:65:50', expected rising numbers"),
        ("word:3", "patient 'TCGA-A0-0000': column 'word' has 'old', expected a number"),
    ],
)
def test_what_is_refused(wanted, words):
    with pytest.raises(ConfigError, match=words):
        subgroups_of(COHORT, [wanted])


def test_a_column_of_numbers_wants_a_cut():
    many = Cohort(
        tuple(f"p{i:03d}" for i in range(50)), ((),) * 50, Continuous("v"), ContinuousTarget(np.arange(50.0)), "toy",
        {"age": tuple(map(str, range(50)))},
    )  # fmt: skip
    with pytest.raises(
        ConfigError, match="column 'age' has 50 values, expected at most 40; cut a number, as in 'age:65'"
    ):
        subgroups_of(many, ["age"])
