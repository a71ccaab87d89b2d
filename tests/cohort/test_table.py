"""A cohort is the table joined to its stores; whoever is left out is named, and nobody is lost silently."""

from __future__ import annotations

import pytest

from wsikit.cohort.endpoints import ClassLabel, Survival
from wsikit.cohort.table import load_cohort
from wsikit.errors import ConfigError
from wsikit.store.reader import open_store

LABEL = ClassLabel("label", ("0", "1"))
WHOLE = """slide_id,patient_id,label,site
s3,b,1,X
s0,a,0,Y
s1,a,0,Z
s2,c,1,X
s4,c,1,X
s5,d,0,Y
"""


def load(path, store, **options):
    return load_cohort(path, **{"endpoint": LABEL, "stores": store, "encoder": "toy"} | options)


def named(cohort):
    return {(e.kind, e.name, e.reason) for e in cohort.exclusions}


def test_patients_slides_outcomes_and_columns_are_joined_in_order(table, store):
    cohort = load(table(WHOLE), store)
    assert cohort.patients == ("a", "b", "c", "d")
    assert [[s.slide_id for s in mine] for mine in cohort.slides] == [["s0", "s1"], ["s3"], ["s2", "s4"], ["s5"]]
    assert cohort.target.label.tolist() == [0, 1, 1, 0]
    assert cohort.columns == {"site": ("Y", "X", "X", "Y")}
    assert (cohort.encoder, cohort.rows, cohort.n_slides, len(cohort)) == ("toy-0000", 6, 6, 4)
    assert cohort.exclusions == ()
    assert cohort.index(["d", "a"]).tolist() == [3, 0]


def test_order_of_the_rows_does_not_matter(table, store):
    head, *rows = WHOLE.splitlines()
    turned = "\n".join([head, *reversed(rows)]) + "\n"
    one, other = load(table(WHOLE), store), load(table(turned, name="turned.csv"), store)
    assert one.patients == other.patients
    assert one.target.label.tolist() == other.target.label.tolist()
    assert [[s.slide_id for s in m] for m in one.slides] == [[s.slide_id for s in m] for m in other.slides]


def test_without_a_patient_column_each_slide_is_its_own_patient(table, store):
    cohort = load(table("slide_id,label\ns1,1\ns0,0\n"), store)
    assert cohort.patients == ("s0", "s1")
    assert cohort.target.label.tolist() == [0, 1]


@pytest.mark.parametrize("name", ["patient", "Patient_ID", "case_id", "Case ID", "submitter_id"])
def test_a_patient_column_of_another_name_is_not_passed_over(table, store, name):
    with pytest.raises(ConfigError, match=rf"no column 'patient_id', but '{name}' looks like it; rename"):
        load(table(f"slide_id,{name},label\ns0,a,0\ns1,a,0\n"), store)
    both = load(table(f"slide_id,{name},patient_id,label\ns0,a,q,0\ns1,a,q,0\n", name="both.csv"), store)
    assert both.patients == ("q",)


def test_byte_order_mark_spaces_and_blank_lines_are_no_part_of_the_table(table, store):
    text = "slide_id , patient_id, label \n s0 , a ,0\n\ns3, b , 1\n"
    cohort = load(table(text, encoding="utf-8-sig"), store)
    assert cohort.patients == ("a", "b")
    assert cohort.target.label.tolist() == [0, 1]


def test_unknown_slides_are_refused_or_excluded_by_name(table, store):
    text = WHOLE + "gone,e,1,X\nalso-gone,a,0,X\n"
    with pytest.raises(ConfigError, match=r"2 of 8 slides cannot be used: gone \(in no store\), also-gone"):
        load(table(text), store)
    cohort = load(table(text), store, missing_slides="exclude")
    assert cohort.patients == ("a", "b", "c", "d")
    assert named(cohort) == {
        ("slide", "gone", "in no store"),
        ("slide", "also-gone", "in no store"),
        ("patient", "e", "no slide that can be used"),
    }
    assert cohort.excluded == {"slide: in no store": 2, "patient: no slide that can be used": 1}


def test_ids_with_a_file_ending_are_recognised(table, store):
    with pytest.raises(ConfigError, match=r"the store has 's0': ids have no file ending"):
        load(table("slide_id,label\ns0.svs,0\n"), store)


def test_a_misspelt_choice_is_refused(table, store):
    with pytest.raises(ConfigError, match="missing_slides: 'ignore', expected 'refuse' or 'exclude'"):
        load(table(WHOLE), store, missing_slides="ignore")


def test_a_patient_with_two_outcomes_is_refused(table, store):
    with pytest.raises(ConfigError, match=r"patient 'a': column 'label' has '0' for slide 's0' and '1' for 's1'"):
        load(table("slide_id,patient_id,label\ns0,a,0\ns1,a,1\n"), store)
    with pytest.raises(ConfigError, match=r"patient 'a': column 'label' has '0' for slide 's0' and ''"):
        load(table("slide_id,patient_id,label\ns0,a,0\ns1,a,\n"), store)


def test_a_slide_in_two_rows_is_refused(table, store):
    with pytest.raises(ConfigError, match="slide 's0' has several rows"):
        load(table("slide_id,patient_id,label\ns0,a,0\ns0,b,1\n"), store)


def test_an_empty_outcome_excludes_the_patient_with_its_slides(table, store):
    cohort = load(table(WHOLE.replace("s2,c,1", "s2,c,").replace("s4,c,1", "s4,c,")), store)
    assert cohort.patients == ("a", "b", "d")
    assert named(cohort) == {
        ("patient", "c", "no value of label"),
        ("slide", "s2", "of a patient left out"),
        ("slide", "s4", "of a patient left out"),
    }


def test_an_empty_time_or_event_excludes(table, store):
    endpoint = Survival(time="time", event="dead", unit="days")
    text = "slide_id,time,dead\ns0,5,1\ns1,,1\ns2,7,\ns3,9,0\n"
    cohort = load(table(text), store, endpoint=endpoint)
    assert cohort.patients == ("s0", "s3")
    assert cohort.excluded["patient: no value of time"] == 1
    assert cohort.excluded["patient: no value of dead"] == 1


def test_every_row_is_used_or_named(table, store):
    text = "slide_id,patient_id,label\ns0,a,0\ns1,a,0\ngone,a,0\ns2,b,\ns3,c,1\n"
    cohort = load(table(text), store, missing_slides="exclude")
    rows = {e.name for e in cohort.exclusions if e.kind == "slide" and "not in the table" not in e.reason}
    used = {s.slide_id for mine in cohort.slides for s in mine}
    assert used | rows == {"s0", "s1", "gone", "s2", "s3"}
    assert not used & rows
    assert cohort.rows == len(used) + len(rows)


def test_slides_of_the_store_that_the_table_lacks_are_named(table, store):
    cohort = load(table("slide_id,label\ns0,0\ns1,1\n"), store)
    assert named(cohort) == {("slide", s, "in the store but not in the table") for s in ("s2", "s3", "s4", "s5")}


def test_nobody_left_says_why(table, store):
    with pytest.raises(ConfigError, match=r"no patient is left \(2 x in no store, .*2 x no slide that can be used"):
        load(table("slide_id,label\nx,0\ny,1\n"), store, missing_slides="exclude")
    with pytest.raises(ConfigError, match="no patient is left"):
        load(table("slide_id,label\n", name="empty.csv"), store)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slide_id,lable\ns0,0\n", "no column 'label'; did you mean 'lable'.*it has: slide_id, lable"),
        ("slide,label\ns0,0\n", "no column 'slide_id'; did you mean 'slide'"),
        ("", "no column 'slide_id'"),
        ("slide_id,label\n\ns0,0,7\n", "line 3: 2 columns expected"),
        ("slide_id,label\ns0\n", "line 2: 2 columns expected"),
        ("slide_id,label\n,0\n", "line 2: slide_id is empty"),
        ("slide_id,patient_id,label\ns0, ,0\n", "line 2: patient_id is empty"),
        ("slide_id,label,label\ns0,0,1\n", "column 'label' is there 2 times"),
    ],
)
def test_a_malformed_table_is_refused(table, store, text, message):
    with pytest.raises(ConfigError, match=message):
        load(table(text), store)


def test_a_table_that_is_missing_or_not_utf8_is_refused(table, store, tmp_path):
    with pytest.raises(ConfigError, match="no table .*none.csv: expected a CSV"):
        load(tmp_path / "none.csv", store)
    with pytest.raises(ConfigError, match="not UTF-8 text"):
        load(table("slide_id,label,place\ns0,0,Köln\n", encoding="latin-1"), store)


def test_paths_are_beside_the_table(table, store, tmp_path):
    cohort = load(table("slide_id,label,path\ns0,0,scans/s0.svs\ns1,1,\n"), store)
    assert [mine[0].path for mine in cohort.slides] == [tmp_path / "scans" / "s0.svs", None]


def test_several_stores_and_a_slide_that_is_in_two(table, store, make_store, tmp_path):
    second = make_store(tmp_path / "second.zarr", {"t0": 3})
    cohort = load(table("slide_id,patient_id,label\ns0,a,0\nt0,a,0\ns1,b,1\n"), [store, open_store(second)])
    assert [s.store.path for s in cohort.slides[0]] == [store, second]
    again = make_store(tmp_path / "again.zarr", {"s0": 3})
    with pytest.raises(ConfigError, match=r"slide 's0' is in two stores, .*features.zarr and .*again.zarr"):
        load(table(WHOLE), [store, again])
    with pytest.raises(ConfigError, match="no store: name one"):
        load(table(WHOLE), [])


def test_features_of_another_encoder_are_not_mixed_in(table, store, make_store, tmp_path):
    rows = "slide_id,label\ns0,0\nt0,1\n"
    other = make_store(tmp_path / "other.zarr", {"t0": 3}, encoder="else", key="else-0000")
    with pytest.raises(ConfigError, match=r"t0 \(without features of this encoder\)"):
        load(table(rows), [store, other])
    with pytest.raises(ConfigError, match=r"no store has features of encoder 'tot'.*found: \['else-0000', 'toy-0000'"):
        load(table(rows), [store, other], encoder="tot")
    weights = make_store(tmp_path / "weights.zarr", {"t0": 3}, key="toy-1111")
    with pytest.raises(ConfigError, match=r"different features of that name .*toy-0000 in .*toy-1111 in .*give"):
        load(table(rows), [store, weights])
    only = load(table(rows), [store, weights], encoder="toy-1111", missing_slides="exclude")
    assert only.patients == ("t0",)


def test_stores_of_another_tiling_are_refused(table, store, make_store, tmp_path):
    coarse = make_store(tmp_path / "coarse.zarr", {"t0": 3}, tile_px=512)
    with pytest.raises(ConfigError, match=r"features.zarr and .*coarse.zarr were tiled differently"):
        load(table("slide_id,label\ns0,0\nt0,1\n"), [store, coarse])


def test_unfinished_and_unreadable_slides_are_told_apart(table, make_store, tmp_path):
    root = make_store(tmp_path / "some.zarr", {"good": 2, "bad": 2, "half": 2}, bad={"bad": 2}, unfinished=("half",))
    rows = "slide_id,label\ngood,0\nbad,1\nhalf,1\n"
    cohort = load(table(rows), root, missing_slides="exclude")
    assert cohort.patients == ("good",)
    assert {("slide", "half", "features not finished"), ("slide", "bad", "without a usable tile")} <= named(cohort)


def test_a_store_without_features_says_so(table, make_store, tmp_path):
    with pytest.raises(ConfigError, match="no features in .*empty.zarr"):
        load(table(WHOLE), make_store(tmp_path / "empty.zarr", {}))
