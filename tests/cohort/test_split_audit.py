"""The audit names every planted leak, and the layouts of other tools hold the same folds."""

from __future__ import annotations

import json

import numpy as np
import pytest

import wsikit as wk
from wsikit.cohort.endpoints import ClassLabel
from wsikit.cohort.split_audit import audit_splits
from wsikit.cohort.split_files import load_splits
from wsikit.cohort.split_writers import LAYOUTS, write_splits
from wsikit.cohort.splits import Fold, Splits
from wsikit.cohort.table import load_cohort
from wsikit.errors import ConfigError

PATIENTS = "abcdefgh"
FOLDS = (Fold(("a", "b"), ("c", "d"), ("e", "f", "g", "h")), Fold(("e", "f"), ("g", "h"), ("a", "b", "c", "d")))


@pytest.fixture(scope="module")
def store(make_store, tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("audit") / "s.zarr", {f"{p}-1": 2 for p in PATIENTS} | {"a-2": 2})


@pytest.fixture
def cohort_with(store, tmp_path):
    """The cohort with a site for each patient; a has two slides."""

    def made(sites, second=None):
        rows = [f"{p}-1,{p},{i % 2},{sites[i]}" for i, p in enumerate(PATIENTS)]
        rows.append(f"a-2,a,0,{second or sites[0]}")
        table = tmp_path / "cohort.csv"
        table.write_text("\n".join(["slide_id,patient_id,label,site", *rows]) + "\n")
        return load_cohort(table, endpoint=ClassLabel("label", ("0", "1")), stores=store, encoder="toy")

    return made


def test_clean_splits_have_no_leaks(cohort_with):
    audit = audit_splits(Splits(FOLDS, {}), cohort_with("AABBCCDD"))
    assert (audit.site, audit.leaks, audit.remarks) == ("site", (), ())
    assert audit.folds[0].balance == (("class 0", 2, 2), ("class 1", 2, 2))
    assert audit.folds[0].sites == ("C", "D")
    assert json.loads(json.dumps(audit.values()))["folds"][1]["sites"] == 2


def test_arrays_with_as_many_rows_are_the_same_slide_only_where_their_features_are(tmp_path):
    rng = np.random.default_rng(0)
    features = {f"{p}-1": rng.normal(size=(3, 4)) for p in PATIENTS}  # places are numbers of rows: alike in all
    features["e-1"] = features["a-1"]
    store = wk.store_features(tmp_path / "s.zarr", features, encoder="toy", source="drawn")
    assert len({store.slide(name)["fingerprint"] for name in features}) == 1
    lines = [f"{p}-1,{p},{i % 2}" for i, p in enumerate(PATIENTS)]
    (tmp_path / "cohort.csv").write_text("\n".join(["slide_id,patient_id,label", *lines]) + "\n")
    endpoint = ClassLabel("label", ("0", "1"))
    cohort = load_cohort(tmp_path / "cohort.csv", endpoint=endpoint, stores=store, encoder="toy")
    (leak,) = audit_splits(Splits(FOLDS, {}), cohort).leaks
    assert leak.startswith("Slides 'a-1' of patient 'a' and 'e-1' of patient 'e' have the same content")


def test_a_shared_site_is_named_and_counted(cohort_with):
    audit = audit_splits(Splits(FOLDS, {}), cohort_with("AABCCDDA"))
    assert audit.folds[0].shared_sites == ("A", "C")
    assert audit.folds[0].from_shared == 2
    (leak,) = audit.leaks
    assert leak.startswith("5 of 8 tested patients (62 %) are of a site that their models were trained on (2 sites")
    assert "{site: site}" in leak


def test_a_leaked_patient_is_named(cohort_with):
    leaky = Fold(("a", "b", "e"), ("c", "d"), ("e", "f", "g", "h"))
    audit = audit_splits(Splits((leaky, FOLDS[1]), {}), cohort_with("AABBCCDD"))
    assert audit.leaks[0] == "Fold 1: 1 patient ('e') both tested and trained on (or watching)."
    twice = audit_splits(Splits((FOLDS[0], FOLDS[0]), {}), cohort_with("AABBCCDD"))
    assert twice.remarks[0].startswith("4 patients ('e', 'f', 'g', 'h') tested in several folds")
    assert twice.remarks[1].startswith("4 patients ('a', 'b', 'c', 'd') tested in no fold")


def test_a_class_that_a_fold_does_not_test_is_named(cohort_with):
    folds = (Fold(("a", "b"), ("d", "f", "h"), ("c", "e", "g")), FOLDS[1])
    remarks = audit_splits(Splits(folds, {}), cohort_with("AABBCCDD")).remarks
    assert "Fold 1 tests nobody with class 1 (its models see 4)." in remarks


def test_one_file_under_two_names_is_found_by_its_content(cohort_with, store, monkeypatch):
    cohort = cohort_with("AABBCCDD")
    assert audit_splits(Splits(FOLDS, {}), cohort).same_slides == ()
    known = type(cohort.slides[0][0].store).slide

    def copied(self, slide_id):  # the store's record, as if e's file were a copy of a's
        return known(self, "a-2" if slide_id == "e-1" else slide_id)

    monkeypatch.setattr(type(cohort.slides[0][0].store), "slide", copied)
    audit = audit_splits(Splits(FOLDS, {}), cohort)
    (same,) = audit.same_slides
    assert same.slides == (("a-2", "a"), ("e-1", "e"))
    assert "Slides 'a-2' of patient 'a' and 'e-1' of patient 'e' have the same content" in audit.leaks[0]
    together = (Fold(("b",), ("c", "d"), ("a", "e", "f", "g", "h")),)
    assert audit_splits(Splits(together, {}), cohort).same_slides == ()  # on one side, nobody learns from it


def test_a_patient_of_two_sites_has_none(cohort_with):
    cohort = cohort_with("AABBCCDD", second="Z")
    assert cohort.mixed["site"] == ("a",)
    assert audit_splits(Splits(FOLDS, {}), cohort).site == ""
    with pytest.raises(ConfigError, match=r"several sites \(a\)"):
        audit_splits(Splits(FOLDS, {}), cohort, site="site")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_read_again(cohort_with, tmp_path, layout):
    cohort, splits = cohort_with("AABBCCDD"), Splits(FOLDS, {})
    name = {"clam": "clam", "stamp": "splits.json", "patho-bench": "k=all.tsv", "wsikit": "splits.csv"}[layout]
    written = write_splits(
        splits, tmp_path / "out" / name if layout == "clam" else tmp_path / name, cohort, layout=layout
    )
    assert all(path.is_file() for path in written)
    again = load_splits(tmp_path / "out" / name if layout == "clam" else tmp_path / name, cohort)
    assert [f.test for f in again.folds] == [f.test for f in FOLDS]
    if layout in ("wsikit", "clam"):
        assert again.folds == FOLDS
    for fold in again.folds:
        assert sorted(fold.train + fold.validation + fold.test) == list(PATIENTS)
    assert audit_splits(again, cohort).leaks == ()


def test_stamp_files_that_are_none_or_leak(cohort_with, tmp_path):
    path = tmp_path / "splits.json"
    for text in ("[", "{}", '{"splits": [{"train_patients": ["a"]}]}'):
        path.write_text(text)
        with pytest.raises(ConfigError, match="expected STAMP's layout"):
            load_splits(path, cohort_with("AABBCCDD"))
    path.write_text(json.dumps({"splits": [{"train_patients": ["a", "b"], "test_patients": ["b"]}]}))
    with pytest.raises(ConfigError, match="split 0: patient 'b' is in train and in test"):
        load_splits(path, cohort_with("AABBCCDD"))


def test_an_unknown_layout_is_refused(cohort_with, tmp_path):
    with pytest.raises(ConfigError, match="layout 'csv', expected one of"):
        write_splits(Splits(FOLDS, {}), tmp_path / "x", cohort_with("AABBCCDD"), layout="csv")
