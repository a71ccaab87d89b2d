"""Numbers as readers see them."""

from __future__ import annotations

import pytest

from wsikit.evaluation.bootstrap import Interval
from wsikit.evaluation.result import Metric
from wsikit.reports.tables import flat
from wsikit.reports.words import counted, decimals_of, interval_text, number_text, value_text


@pytest.mark.parametrize(
    ("value", "low", "high", "shown", "between"),
    [
        (0.8712, 0.7901, 0.9449, "0.87", "0.79 to 0.94"),
        (0.02, -0.101, 0.15, "0.02", "\u22120.10 to 0.15"),
        (10.44, 8.601, 12.45, "10.4", "8.6 to 12.4"),
        (1234.5, 1001.2, 1500.0, "1234", "1001 to 1500"),
        (0.00123, 0.0004, 0.0031, "0.0012", "0.0004 to 0.0031"),
        (-0.001, -0.2, 0.2, "0.00", "\u22120.20 to 0.20"),
    ],
)
def test_value_and_interval_have_the_same_decimals(value, low, high, shown, between):
    metric = Metric("m", value, Interval(low, high, 0.95, 100, 0))
    assert (value_text(metric), interval_text(metric)) == (shown, between)


def test_signs():
    assert number_text(0.5, signed=True) == "+0.50"
    assert number_text(-0.5, signed=True) == "\u22120.50"
    assert number_text(-0.001, signed=True) == "0.00"


def test_what_is_not_there_is_said():
    assert value_text(Metric("m", None)) == "not defined"
    assert interval_text(Metric("m", 0.5)) == ""
    assert decimals_of([0.0]) == 2


def test_counts():
    assert [counted(n, "slide") for n in (0, 1, 2, 1204)] == ["0 slides", "1 slide", "2 slides", "1,204 slides"]


def test_nested_settings_are_laid_flat_and_long_values_cut():
    found = dict(flat({"a": {"b": 1, "c": {}}, "d": [1, None], "e": "x" * 900}))
    assert list(found) == ["a \u203a b", "a \u203a c", "d", "e"]
    assert (found["a \u203a b"], found["a \u203a c"], found["d"]) == ("1", "{}", "[1, null]")
    assert found["e"] == "x" * 400 + " ..."
