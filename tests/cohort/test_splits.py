"""Splits: patients apart, outcomes shared out evenly, everybody tested once, and the same again tomorrow."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsikit.cohort.endpoints import ClassTarget, ContinuousTarget, SurvivalTarget
from wsikit.cohort.split_files import load_splits
from wsikit.cohort.splits import (
    Fold,
    Splits,
    check_splits,
    describe,
    hold_out,
    inner_splits,
    make_splits,
    save_splits,
    strata_of,
    within,
)
from wsikit.errors import ConfigError


def classes(*counts):
    label = np.repeat(np.arange(len(counts)), counts)
    return ClassTarget(np.random.default_rng(0).permutation(label), tuple("abcdef"[: len(counts)]))


def survival(patients, events, seed=0):
    rng = np.random.default_rng(seed)
    event = rng.permutation(np.arange(patients) < events)
    return SurvivalTarget(rng.exponential(12, patients) + 0.1, event, "months")


def numbers(patients):
    return ContinuousTarget(np.random.default_rng(0).normal(size=patients))


def assert_apart_and_complete(splits, cohort):
    for fold in splits.folds:
        roles = [set(fold.train), set(fold.validation), set(fold.test)]
        assert all(roles)
        assert sum(map(len, roles)) == len(set().union(*roles)) == len(cohort)
        assert all(list(role) == sorted(role) for role in (fold.train, fold.validation, fold.test))
    tested = [p for fold in splits.folds for p in fold.test]
    assert sorted(tested) == list(cohort.patients)
    check_splits(splits, cohort)


COUNTS = st.lists(st.integers(6, 40), min_size=2, max_size=4)


@given(counts=COUNTS, folds=st.integers(2, 6), seed=st.integers(0, 999), share=st.sampled_from([0.05, 0.2, 0.4]))
def test_class_splits_are_apart_complete_and_stratified(bare_cohort, counts, folds, seed, share):
    cohort = bare_cohort(classes(*counts))
    splits = make_splits(cohort, folds=folds, seed=seed, validation=share)
    assert_apart_and_complete(splits, cohort)
    for number, total in enumerate(counts):
        tested = [int((cohort.target.label[cohort.index(f.test)] == number).sum()) for f in splits.folds]
        assert max(tested) - min(tested) <= 1
        for fold, n in zip(splits.folds, tested, strict=True):
            stop = int((cohort.target.label[cohort.index(fold.validation)] == number).sum())
            fraction = len(fold.validation) / (len(cohort) - len(fold.test))
            assert abs(stop - fraction * (total - n)) < 1 + 1e-9


@given(patients=st.integers(20, 90), share=st.floats(0.15, 1), folds=st.integers(2, 5), seed=st.integers(0, 99))
def test_survival_splits_share_out_events_and_times(bare_cohort, patients, share, folds, seed):
    events = max(2 * folds, round(share * patients))
    cohort = bare_cohort(survival(patients, events, seed))
    splits = make_splits(cohort, folds=folds, seed=seed)
    assert_apart_and_complete(splits, cohort)
    strata, _ = strata_of(cohort.target, folds)
    for stratum in np.unique(strata):
        tested = [int((strata[cohort.index(f.test)] == stratum).sum()) for f in splits.folds]
        assert max(tested) - min(tested) <= 1
    for fold in splits.folds:
        assert cohort.target.event[cohort.index(fold.train)].any()


@given(patients=st.integers(10, 80), folds=st.integers(2, 5))
def test_splits_of_a_number_share_out_its_quintiles(bare_cohort, patients, folds):
    cohort = bare_cohort(numbers(patients))
    splits = make_splits(cohort, folds=folds)
    assert_apart_and_complete(splits, cohort)
    groups = max(1, min(5, patients // folds))
    rank = np.argsort(np.argsort(cohort.target.value)) * groups // patients
    for number in range(groups):
        tested = [int((rank[cohort.index(f.test)] == number).sum()) for f in splits.folds]
        assert max(tested) - min(tested) <= 1


@given(st.integers(2, 60), st.floats(0.01, 0.89), st.integers(0, 9))
def test_any_share_leaves_somebody_on_both_sides(patients, share, seed):
    target = ClassTarget(np.arange(patients) % 2, ("a", "b"))
    train, stop = hold_out(np.arange(patients), target, target.label, share=share, seed=seed)
    assert len(train)
    assert len(stop)
    assert sorted([*train, *stop]) == list(range(patients))


def test_strata_too_fine_for_the_held_out_share_fall_back_to_the_event():
    target = survival(24, 12)
    strata, _ = strata_of(target, 4)
    assert len(np.unique(strata)) == 6
    for seed in range(20):  # two of 24: one with the event, one without, whichever they are
        _, stop = hold_out(np.arange(24), target, strata, share=0.05, seed=seed)
        assert sorted(target.event[stop].tolist()) == [False, True]


def test_seed_decides(bare_cohort):
    cohort = bare_cohort(classes(20, 20))
    one, same, other = (make_splits(cohort, folds=4, seed=s) for s in (3, 3, 4))
    assert one == same
    assert one.hash == same.hash
    assert one.hash != other.hash
    assert [f.test for f in one.folds] != [f.test for f in other.folds]


def test_hash_is_of_who_has_which_role_only(bare_cohort):
    splits = make_splits(bare_cohort(classes(10, 10)), folds=2)
    assert replace(splits, made={"by": "hand"}).hash == splits.hash
    first = splits.folds[0]
    moved = Fold(first.train[1:], tuple(sorted((*first.validation, first.train[0]))), first.test)
    assert replace(splits, folds=(moved, splits.folds[1])).hash != splits.hash
    assert replace(splits, folds=splits.folds[::-1]).hash != splits.hash
    assert len(splits.hash) == 64


def test_test_fold_of_each_patient(bare_cohort):
    cohort = bare_cohort(classes(6, 6))
    splits = make_splits(cohort, folds=3)
    fold = splits.test_fold([*cohort.patients, "stranger"])
    assert fold[-1] == -1
    for i, patient in enumerate(cohort.patients):
        assert patient in splits.folds[fold[i]].test


def test_one_class_only_or_too_few_of_a_class(bare_cohort):
    with pytest.raises(ConfigError, match=r"class 'b' has 0 patients, expected at least 5.*\{'a': 20, 'b': 0\}"):
        make_splits(bare_cohort(classes(20, 0)), folds=5)
    with pytest.raises(ConfigError, match="class 'b' has 4 patients, expected at least 5, one for each fold"):
        make_splits(bare_cohort(classes(20, 4)), folds=5)


def test_too_few_events_or_patients(bare_cohort):
    with pytest.raises(ConfigError, match="9 events among 50 patients, expected at least 10, two for each fold"):
        make_splits(bare_cohort(survival(50, 9)), folds=5)
    with pytest.raises(ConfigError, match="9 patients, expected at least 10 for 5 folds"):
        make_splits(bare_cohort(numbers(9)), folds=5)


@pytest.mark.parametrize("options", [{"folds": 1}, {"validation": 0.0}, {"validation": 0.9}])
def test_folds_and_share_out_of_range(bare_cohort, options):
    with pytest.raises(ConfigError, match="expected >= 2 and 0 to 0.9"):
        make_splits(bare_cohort(classes(10, 10)), **options)


@pytest.mark.parametrize("censored", [0, 1, 2, 3])
def test_few_censored_patients_are_no_reason_to_warn(bare_cohort, censored):
    cohort = bare_cohort(survival(20, 20 - censored))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        splits = make_splits(cohort, folds=5)
        inner = inner_splits(splits.folds[0], cohort, parts=4, seed=0)
    assert_apart_and_complete(splits, cohort)
    assert all(cohort.target.event[watch].any() for _, watch in inner)


@given(counts=COUNTS, parts=st.integers(2, 4), seed=st.integers(0, 99))
def test_inner_parts_watch_each_patient_once_and_never_see_the_test(bare_cohort, counts, parts, seed):
    cohort = bare_cohort(classes(*(n + 4 for n in counts)))
    for fold in make_splits(cohort, folds=2, seed=seed).folds:
        inner = inner_splits(fold, cohort, parts=parts, seed=seed)
        test = set(cohort.index(fold.test).tolist())
        rest = set(range(len(cohort))) - test
        assert sorted(row for _, watch in inner for row in watch.tolist()) == sorted(rest)
        for train, watch in inner:
            assert set(train.tolist()) | set(watch.tolist()) == rest
            assert not set(train.tolist()) & set(watch.tolist())


def test_one_inner_part_is_the_folds_own_roles(bare_cohort):
    cohort = bare_cohort(classes(10, 10))
    fold = make_splits(cohort, folds=2).folds[0]
    ((train, watch),) = inner_splits(fold, cohort, parts=1, seed=0)
    assert tuple(cohort.patients[i] for i in train) == fold.train
    assert tuple(cohort.patients[i] for i in watch) == fold.validation


def test_too_few_events_for_the_inner_parts(bare_cohort):
    cohort = bare_cohort(survival(40, 4))
    fold = make_splits(cohort, folds=2).folds[0]
    with pytest.raises(ConfigError, match="2 events outside a fold, expected one for each of 4 inner folds"):
        inner_splits(fold, cohort, parts=4, seed=0)


@pytest.mark.parametrize("target", [classes(9, 12, 7), survival(30, 14), numbers(25)], ids=["class", "surv", "number"])
def test_saved_splits_come_back(bare_cohort, tmp_path, target):
    cohort = bare_cohort(target)
    splits = make_splits(cohort, folds=3, seed=5)
    save_splits(splits, tmp_path / "splits.csv")
    loaded = load_splits(tmp_path / "splits.csv", cohort)
    assert loaded.folds == splits.folds
    assert loaded.hash == splits.hash


def test_splits_without_validation_come_back_with_one_drawn(bare_cohort, tmp_path):
    cohort = bare_cohort(classes(10, 10))
    bare = Splits(tuple(Fold(f.train + f.validation, (), f.test) for f in make_splits(cohort, folds=2).folds), {})
    save_splits(bare, tmp_path / "splits.csv")
    loaded = load_splits(tmp_path / "splits.csv", cohort)
    assert_apart_and_complete(loaded, cohort)
    assert [f.test for f in loaded.folds] == [f.test for f in bare.folds]


def test_an_edited_file_is_refused_until_its_hash_is_deleted(bare_cohort, tmp_path):
    cohort = bare_cohort(classes(10, 10))
    path = tmp_path / "splits.csv"
    save_splits(make_splits(cohort, folds=2), path)
    path.write_text(path.read_text().replace("train", "validation", 1))
    with pytest.raises(ConfigError, match=r"splits.csv was changed since it was written.*delete splits.json"):
        load_splits(path, cohort)
    path.with_suffix(".json").unlink()
    load_splits(path, cohort)


def test_rows_in_another_order_are_no_edit(bare_cohort, tmp_path):
    cohort = bare_cohort(classes(10, 10))
    path = tmp_path / "splits.csv"
    splits = make_splits(cohort, folds=2)
    save_splits(splits, path)
    head, *rows = path.read_text().splitlines()
    path.write_text("﻿" + "\r\n".join([head, *reversed(rows)]) + "\r\n", encoding="utf-8")
    assert load_splits(path, cohort).hash == splits.hash


@pytest.mark.parametrize(
    ("folds", "message"),
    [
        ([(("p000", "p001"), ("p001",), ("p002", "p003"))], "fold 0: patient 'p001' is in train and in validation"),
        ([(("p000", "p001"), ("p002",), ("p003", "p000"))], "fold 0: patient 'p000' is in train and in test"),
        ([(("p000", "p001"), ("p002",), ("p002",))], "fold 0: patient 'p002' is in validation and in test"),
        (
            [(("p000", "p001"), ("p002",), ("p003",)), (("p000", "p001"), ("p002",), ("p003",))],
            "patient 'p003' is tested in folds 0 and 1",
        ),
        ([(("p000", "p001"), ("p002",), ("p003",))], "3 of 4 patients are tested in no fold: p000, p001, p002"),
        ([(("p000", "p001"), (), ("p002", "p003"))], "fold 0: no patient of the cohort is in validation"),
        ([(("stranger",), ("p002",), ("p003",))], "fold 0: no patient of the cohort is in train"),
        ([(("p000",), ("p001", "p002"), ("p003",))], "fold 0: no patient of class 'b' in train"),
    ],
)
def test_splits_that_do_not_fit_are_refused(bare_cohort, folds, message):
    cohort = bare_cohort(ClassTarget(np.array([0, 1, 0, 1]), ("a", "b")))
    with pytest.raises(ConfigError, match=message):
        check_splits(Splits(tuple(Fold(*roles) for roles in folds), {}), cohort)


def test_within_takes_out_strangers_only(bare_cohort):
    cohort = bare_cohort(classes(10, 10))
    splits = make_splits(cohort, folds=2)
    more = tuple(Fold((*f.train, "x"), ("y", *f.validation), f.test) for f in splits.folds)
    assert within(Splits(more, {"file": "more"}), cohort) == Splits(splits.folds, {"file": "more"})


def test_groups_in_words():
    assert describe(ClassTarget(np.array([0, 1, 1]), ("no", "yes"))) == "3 patients: 1 x no, 2 x yes"
    target = SurvivalTarget(np.array([2.0, 4.0, 9.0]), np.array([True, False, True]), "years")
    assert describe(target) == "3 patients: 2 events, median time 4 years"
    assert describe(ContinuousTarget(np.array([1.0, 2.0]))) == "2 patients: mean 1.5"
