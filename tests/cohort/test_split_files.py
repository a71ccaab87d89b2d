"""Published split files are read as they were published, and refused where they leak."""

from __future__ import annotations

import pytest

from wsikit.cohort.endpoints import ClassLabel
from wsikit.cohort.split_files import load_splits
from wsikit.cohort.splits import check_splits
from wsikit.cohort.table import load_cohort
from wsikit.errors import ConfigError

PATIENTS = "abcdefgh"


@pytest.fixture(scope="module")
def cohort(make_store, tmp_path_factory):
    """Patients a to h with label 0, 1, 0, 1, ...; a has two slides; x is left out, having no label."""
    folder = tmp_path_factory.mktemp("split_files")
    slides = {f"{p}-1": 2 for p in PATIENTS} | {"a-2": 2, "x-1": 2}
    rows = [f"{s},{s[0]},{'' if s[0] == 'x' else PATIENTS.index(s[0]) % 2}" for s in slides]
    (folder / "cohort.csv").write_text("\n".join(["slide_id,patient_id,label", *rows]) + "\n")
    return load_cohort(
        folder / "cohort.csv",
        endpoint=ClassLabel("label", ("0", "1")),
        stores=make_store(folder / "s.zarr", slides),
        encoder="toy",
    )


def clam(folder, folds):
    """Files as CLAM's create_splits_seq.py leaves them: index column, ragged columns, two companions each."""
    for k, (train, val, test) in enumerate(folds):
        length = max(map(len, (train, val, test)))
        lines = [",train,val,test"]
        for i in range(length):
            lines.append(f"{i}," + ",".join(part[i] if i < len(part) else "" for part in (train, val, test)))
        (folder / f"splits_{k}.csv").write_text("\n".join(lines) + "\n")
        every = [*train, *val, *test]
        flags = [f"{s},{s in train},{s in val},{s in test}" for s in every]
        (folder / f"splits_{k}_bool.csv").write_text("\n".join([",train,val,test", *flags]) + "\n")
        (folder / f"splits_{k}_descriptor.csv").write_text(",train,val,test\n0,2,1,1\n1,2,1,1\n")
    return folder


def slides(patients):
    return [f"{p}-1" for p in patients] + (["a-2"] if "a" in patients else [])


def roles(fold):
    return tuple("".join(part) for part in (fold.train, fold.validation, fold.test))


def test_a_folder_of_clam(cohort, tmp_path):
    folds = [[slides(p) for p in ("abcd", "ef", "gh")], [slides(p) for p in ("efgh", "cd", "ab")]]
    splits = load_splits(clam(tmp_path, folds), cohort)
    assert [roles(f) for f in splits.folds] == [("abcd", "ef", "gh"), ("efgh", "cd", "ab")]
    assert len(splits.made["sha256"]) == 2  # of the two files, and not of their companions


def test_files_of_clam_are_taken_by_their_number(cohort, tmp_path):
    folds = [[slides(p) for p in ("abcdef", "g", "h")]] * 10 + [[slides(p) for p in ("cdefgh", "b", "a")]]
    splits = load_splits(clam(tmp_path, folds), cohort)
    assert [roles(f)[2] for f in splits.folds] == ["h"] * 10 + ["a"]  # splits_10 comes after splits_9


def test_one_file_of_clam_with_file_endings_and_left_out_slides(cohort, tmp_path):
    part = [[f"{s}.svs" for s in slides(p)] for p in ("abcd", "ef", "gh")]
    part[0].append("x-1.svs")
    clam(tmp_path, [part])
    assert [roles(f) for f in load_splits(tmp_path / "splits_0.csv", cohort).folds] == [("abcd", "ef", "gh")]


def test_clam_files_that_list_patients(cohort, tmp_path):
    assert [roles(f) for f in load_splits(clam(tmp_path, [["abcd", "ef", "gh"]]), cohort).folds] == [
        ("abcd", "ef", "gh")
    ]


def test_a_patient_whose_slides_have_two_roles_is_refused(cohort, tmp_path):
    with pytest.raises(ConfigError, match=r"splits_0.csv: patient 'a' has slides in train and in test"):
        load_splits(clam(tmp_path, [[["a-1", "b-1"], ["c-1"], ["d-1", "a-2"]]]), cohort)


def test_an_unknown_slide_is_refused_with_the_nearest(cohort, tmp_path):
    with pytest.raises(ConfigError, match=r"slide 'b-11' is not in the cohort's table; did you mean .*'b-1'"):
        load_splits(clam(tmp_path, [[["a-1", "b-11"], ["c-1"], ["d-1"]]]), cohort)


def test_patients_tested_in_two_folds_are_refused_by_the_check(cohort, tmp_path):
    folds = [[slides(p) for p in ("abcd", "ef", "gh")], [slides(p) for p in ("abde", "fg", "hc")]]
    splits = load_splits(clam(tmp_path, folds), cohort)
    with pytest.raises(ConfigError, match="patient 'h' is tested in folds 0 and 1"):
        check_splits(splits, cohort)


def patho_bench(path, test_of, *, extra=()):
    """k=all.tsv of Patho-Bench: a row for each slide, one column for each fold, train and test only."""
    count = max(test_of.values()) + 1
    lines = ["\t".join(["case_id", "slide_id", "label", *(f"fold_{k}" for k in range(count))])]
    for patient, fold in test_of.items():
        for slide in slides(patient):
            told = ["test" if k == fold else "train" for k in range(count)]
            lines.append("\t".join([patient, slide, str(PATIENTS.index(patient) % 2), *told]))
    path.write_text("\n".join([*lines, *extra]) + "\n")
    return path


def test_patho_bench(cohort, tmp_path):
    path = patho_bench(tmp_path / "k=all.tsv", {p: i // 2 for i, p in enumerate(PATIENTS)})
    splits = load_splits(path, cohort, validation=0.34, seed=1)
    assert ["".join(f.test) for f in splits.folds] == ["ab", "cd", "ef", "gh"]
    check_splits(splits, cohort)
    for fold in splits.folds:
        assert len(fold.validation) == 3  # 0.34 of 6, rounded up
        assert sorted(fold.train + fold.validation + fold.test) == list(PATIENTS)
        assert len({PATIENTS.index(p) % 2 for p in fold.validation}) == 2  # drawn from both classes
    again = load_splits(path, cohort, validation=0.34, seed=1)
    assert again.hash == splits.hash
    assert load_splits(path, cohort, validation=0.34, seed=2).hash != splits.hash


def test_patho_bench_of_a_larger_cohort_draws_validation_from_ours(cohort, tmp_path):
    strangers = [f"z{i}\tz{i}-1\t0\ttrain\ttrain" for i in range(50)]
    path = patho_bench(tmp_path / "k=all.tsv", {p: i % 2 for i, p in enumerate(PATIENTS)}, extra=strangers)
    for fold in load_splits(path, cohort).folds:
        assert fold.validation
        assert set(fold.validation) <= set(PATIENTS)


def test_rows_of_a_patient_that_disagree_are_refused(cohort, tmp_path):
    path = patho_bench(tmp_path / "k=all.tsv", {p: i % 2 for i, p in enumerate(PATIENTS)})
    path.write_text(path.read_text().replace("a\ta-2\t0\ttest\ttrain", "a\ta-2\t0\ttrain\ttrain"))
    with pytest.raises(ConfigError, match=r"fold_0: patient 'a' is in test and in train"):
        load_splits(path, cohort)


def wide(path, column, names, folds):
    path.write_text("\n".join([f"{column},{','.join(folds)}", *(",".join(row) for row in names)]) + "\n")
    return path


def test_a_fold_column(cohort, tmp_path):
    rows = [(p, str(i % 3)) for i, p in enumerate(PATIENTS)] + [("x", "")]
    splits = load_splits(wide(tmp_path / "folds.csv", "patient_id", rows, ["fold"]), cohort)
    assert ["".join(f.test) for f in splits.folds] == ["adg", "beh", "cf"]
    check_splits(splits, cohort)


def test_a_fold_column_by_slides(cohort, tmp_path):
    rows = [(s, str(PATIENTS.index(s[0]) % 2)) for s in slides(PATIENTS)] + [("x-1", "0")]
    splits = load_splits(wide(tmp_path / "folds.csv", "slide_id", rows, ["fold"]), cohort)
    assert ["".join(f.test) for f in splits.folds] == ["aceg", "bdfh"]
    with pytest.raises(ConfigError, match="patient 'a' is in folds 0 and 1"):
        load_splits(wide(tmp_path / "f.csv", "slide_id", [("a-1", "0"), ("a-2", "1")], ["fold"]), cohort)
    with pytest.raises(ConfigError, match="slide 'b-11' is not in the cohort's table"):
        load_splits(wide(tmp_path / "g.csv", "slide_id", [("b-11", "0")], ["fold"]), cohort)


@pytest.mark.parametrize("names", [("fold_0", "fold_1"), ("fold0", "fold1")])
def test_words_for_roles(cohort, tmp_path, names):
    words = {"a": "Training", "b": "dev", "c": "TEST", "d": "valid", "e": "val", "f": "train", "g": "testing", "h": ""}
    rows = [(p, word, "train") for p, word in words.items()]
    splits = load_splits(wide(tmp_path / "s.csv", "patient_id", rows, names), cohort)
    assert roles(splits.folds[0]) == ("af", "bde", "cg")
    rows[0] = ("a", "held-out", "train")
    with pytest.raises(ConfigError, match=f"{names[0]} of 'a' is 'held-out', expected train, val or test"):
        load_splits(wide(tmp_path / "s.csv", "patient_id", rows, names), cohort)


def test_fold_columns_are_taken_by_their_number(cohort, tmp_path):
    names = [f"fold_{k}" for k in (10, 2, 0)]
    rows = [(p, *("test" if i % 3 == k else "train" for k in range(3))) for i, p in enumerate(PATIENTS)]
    splits = load_splits(wide(tmp_path / "s.csv", "patient_id", rows, names), cohort)
    assert ["".join(f.test) for f in splits.folds] == ["cf", "beh", "adg"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("patient_id,group\na,1\n", r"columns \['patient_id', 'group'\]; expected patient_id"),
        ("who,fold_0\na,train\n", "expected patient_id"),
        ("patient_id,fold_0\n", "no rows"),
    ],
)
def test_an_unknown_layout_is_refused(cohort, tmp_path, text, message):
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_splits(tmp_path / "s.csv", cohort)


def test_nothing_there_is_refused(cohort, tmp_path):
    for path in (tmp_path, tmp_path / "none.csv"):
        with pytest.raises(ConfigError, match="no splits at"):
            load_splits(path, cohort)


def test_another_json_beside_a_file_is_not_its_hash(cohort, tmp_path):
    rows = [(p, str(i % 2)) for i, p in enumerate(PATIENTS)]
    path = wide(tmp_path / "folds.csv", "patient_id", rows, ["fold"])
    for text in ("[1, 2]", "{}", "not json"):
        (tmp_path / "folds.json").write_text(text)
        assert len(load_splits(path, cohort).folds) == 2
