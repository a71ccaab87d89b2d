"""An outcome is read as it is written, or refused with the patient, the value and the way out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsikit.cohort.endpoints import (
    ClassLabel,
    ClassTarget,
    Continuous,
    Ordinal,
    Survival,
    endpoint_from,
    endpoint_settings,
    lacking,
)
from wsikit.cohort.several_labels import Labels, LabelsTarget
from wsikit.errors import ConfigError

SURVIVAL = Survival(time="time", event="dead", unit="days")


def survival(rows, endpoint=SURVIVAL):
    """Target of patients from (time, flag) texts."""
    cells = [dict(zip(endpoint.columns, row, strict=True)) for row in rows]
    return endpoint.parse(cells, [f"p{i}" for i in range(len(rows))])


def test_order_of_the_classes_is_the_endpoints_and_not_the_datas():
    cells = [{"grade": "low"}, {"grade": "high"}, {"grade": "low"}]
    patients = ["a", "b", "c"]
    assert ClassLabel("grade", ("low", "high")).parse(cells, patients).label.tolist() == [0, 1, 0]
    assert ClassLabel("grade", ("high", "low")).parse(cells, patients).label.tolist() == [1, 0, 1]


def test_take_picks_rows_of_every_target():
    rows = np.array([2, 0])
    label = ClassTarget(np.array([0, 1, 1]), ("a", "b")).take(rows)
    assert (label.label.tolist(), label.classes, len(label)) == ([1, 0], ("a", "b"), 2)
    time = survival([("1", "0"), ("2", "1"), ("3", "1")]).take(rows)
    assert (time.time.tolist(), time.event.tolist(), time.unit) == ([3, 1], [True, False], "days")
    cells = [{"age": v} for v in ("1.5", "2", "-3e1")]
    assert Continuous("age").parse(cells, ["a", "b", "c"]).take(rows).value.tolist() == [-30, 1.5]


def test_unknown_class_names_the_patient_and_the_nearest_class():
    with pytest.raises(ConfigError, match=r"patient 'b': column 'grade' has 'hgih'.*did you mean 'high'"):
        ClassLabel("grade", ("low", "high")).parse([{"grade": "low"}, {"grade": "hgih"}], ["a", "b"])
    with pytest.raises(ConfigError, match=r"has 'NaN', which is not one of the classes"):
        ClassLabel("grade", ("low", "high")).parse([{"grade": "NaN"}], ["a"])


@pytest.mark.parametrize("classes", [(), ("one",), ("a", "b", "a")])
def test_classes_are_two_or_more_different_ones(classes):
    with pytest.raises(ConfigError, match="expected two or more different ones"):
        ClassLabel("grade", classes)


def test_numbers_of_yaml_are_the_tables_text_and_its_booleans_are_refused():
    found = endpoint_from({"kind": "class", "column": "label", "classes": [0, 1]})
    assert found == ClassLabel("label", ("0", "1"))
    with pytest.raises(ConfigError, match="False is YAML for yes / no / true / false; put it in quotes"):
        endpoint_from({"kind": "class", "column": "label", "classes": [False, True]})


@pytest.mark.parametrize("classes", ["low", 3, None])
def test_classes_that_are_no_list_are_refused(classes):
    with pytest.raises(ConfigError, match="expected a list of names"):
        endpoint_from({"kind": "class", "column": "label", "classes": classes})


@pytest.mark.parametrize("column", ["censorship", "censored", "OS_CENS"])
def test_a_censoring_column_is_not_taken_for_the_event(column):
    with pytest.raises(ConfigError, match=f"if so write 'censored: {column}'"):
        Survival(time="time", event=column, unit="months")


def test_censored_is_the_opposite_of_event():
    rows = [("1", "0"), ("2", "1"), ("3", "0")]
    event = survival(rows, Survival(time="t", event="dead", unit="days"))
    censored = survival(rows, Survival(time="t", censored="censorship", unit="days"))
    assert event.event.tolist() == [False, True, False]
    np.testing.assert_array_equal(censored.event, ~event.event)
    np.testing.assert_array_equal(censored.time, event.time)


def test_exactly_one_of_event_and_censored():
    with pytest.raises(ConfigError, match="give one of 'event'"):
        Survival(time="t", unit="days")
    with pytest.raises(ConfigError, match="give one of 'event'"):
        Survival(time="t", event="dead", censored="alive", unit="days")


@pytest.mark.parametrize("time", ["0", "0.0", "-0", "-3"])
def test_a_time_that_is_not_above_0_is_refused_with_what_is_usually_done(time):
    with pytest.raises(ConfigError, match=rf"patient 'p1': column 'time' has '{time}'.*half a day.*empty cell"):
        survival([("5", "1"), (time, "1")])


@pytest.mark.parametrize("text", ["NaN", "nan", "NA", "inf", "-inf", "12,5", "3 months"])
def test_a_time_or_value_that_is_no_finite_number_is_refused(text):
    with pytest.raises(ConfigError, match=f"column 'time' has '{text}', expected a number"):
        survival([("5", "1"), (text, "1")])
    with pytest.raises(ConfigError, match=f"column 'age' has '{text}', expected a number"):
        Continuous("age").parse([{"age": text}], ["a"])


def test_flags_in_the_ways_people_write_them():
    texts = ["1", "1.0", "true", "True", "YES", "0", "0.0", "false", "FALSE", "no"]
    assert survival([("1", t) for t in texts]).event.tolist() == [True] * 5 + [False] * 5


@pytest.mark.parametrize("text", ["2", "dead", "-1", "0.5", "NaN"])
def test_another_flag_is_refused(text):
    with pytest.raises(ConfigError, match=f"patient 'p0': column 'dead' has '{text}', expected 0 / 1"):
        survival([(("1"), text)])


def test_no_event_at_all_suggests_the_flipped_column():
    with pytest.raises(ConfigError, match="none of 3 patients has the event; .* write 'censored: dead'"):
        survival([("1", "0"), ("2", "0"), ("3", "0")])
    flipped = Survival(time="time", censored="dead", unit="days")
    with pytest.raises(ConfigError, match="none of 1 patients has the event"):
        survival([("1", "1")], flipped)


def test_unit_is_one_of_four():
    with pytest.raises(ConfigError, match="unit 'month', expected one of .*did you mean 'months'"):
        Survival(time="t", event="dead", unit="month")
    with pytest.raises(ConfigError, match="kind 'survival': unit missing"):
        endpoint_from({"kind": "survival", "time": "t", "event": "dead"})


def test_unknown_kind_and_setting_with_the_nearest():
    with pytest.raises(ConfigError, match="kind 'survivel'.*did you mean 'survival'"):
        endpoint_from({"kind": "survivel"})
    with pytest.raises(ConfigError, match="no setting 'colum'; did you mean 'column'"):
        endpoint_from({"kind": "class", "colum": "label"})
    with pytest.raises(ConfigError, match="kind None"):
        endpoint_from({"column": "label"})


def test_labels_may_be_unknown_one_by_one_and_a_patient_without_any_is_left_out():
    endpoint = endpoint_from({"kind": "labels", "columns": ["er", "pr"]})
    cells = [{"er": "1", "pr": ""}, {"er": "no", "pr": "TRUE"}, {"er": "", "pr": "0"}]
    target = endpoint.parse(cells, ["a", "b", "c"])
    assert target.known.tolist() == [[True, False], [True, True], [False, True]]
    assert target.positive.tolist() == [[True, False], [False, True], [False, False]]
    assert target.counts() == [("er", 1, 1), ("pr", 1, 1)]
    assert target.take(np.array([2])).known.tolist() == [[False, True]]
    assert lacking(endpoint, cells[0]) is None
    assert lacking(endpoint, {"er": "", "pr": ""}) == "value of any label"
    assert lacking(Continuous("er"), {"er": ""}) == "value of er"
    with pytest.raises(ConfigError, match=r"patient 'a': column 'pr' has 'NA', expected 0 / 1"):
        endpoint.parse([{"er": "1", "pr": "NA"}], ["a"])


def test_the_rarest_label_of_a_patient():
    has = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0], [1, 1, 1], [1, 1, 0]], bool)
    known = np.ones_like(has)
    assert LabelsTarget(has, known, ("a", "b", "c")).rarest().tolist() == [2, 1, 0, 3, 2]
    known[3, 2] = False
    assert LabelsTarget(has, known, ("a", "b", "c")).rarest().tolist() == [2, 1, 0, 2, 2]


def test_grades_are_parsed_as_classes_that_have_an_order():
    grade = endpoint_from({"kind": "ordinal", "column": "g", "classes": [1, 2, 3]})
    target = grade.parse([{"g": "3"}, {"g": "1"}], ["a", "b"])
    assert (target.label.tolist(), target.ordered, target.take(np.array([1])).ordered) == ([2, 0], True, True)
    with pytest.raises(ConfigError, match="2 classes have no order that matters; use kind 'class'"):
        Ordinal("g", ("low", "high"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kind": "labels", "columns": "er"}, "expected a list of names"),
        ({"kind": "labels", "columns": ["er"]}, "expected two or more different ones"),
        ({"kind": "labels", "columns": ["er", "er"]}, "expected two or more different ones"),
        ({"kind": "labels"}, "columns missing"),
        ({"kind": "continuous", "column": "v", "bins": 4}, "expected a whole number of at least 8"),
        ({"kind": "continuous", "column": "v", "bins": "many"}, "expected a whole number of at least 8"),
    ],
)
def test_labels_and_bins_that_make_no_sense(settings, words):
    with pytest.raises(ConfigError, match=words):
        endpoint_from(settings)


TEXT = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=8)


@given(
    st.one_of(
        st.builds(ClassLabel, TEXT, st.lists(TEXT, min_size=2, max_size=5, unique=True).map(tuple)),
        st.builds(Ordinal, TEXT, st.lists(TEXT, min_size=3, max_size=5, unique=True).map(tuple)),
        st.builds(Labels, st.lists(TEXT, min_size=2, max_size=5, unique=True).map(tuple)),
        st.builds(Continuous, TEXT, bins=st.none() | st.integers(8, 50)),
        st.builds(Survival, time=TEXT, censored=TEXT, unit=st.sampled_from(["days", "weeks", "months", "years"])),
    )
)
def test_settings_round_trip(endpoint):
    assert endpoint_from(endpoint_settings(endpoint)) == endpoint
