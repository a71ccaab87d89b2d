"""Sites stay whole, outcomes are shared out as evenly as the best dealing there is, and the inside follows."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsikit.cohort.endpoints import ClassTarget, ContinuousTarget, SurvivalTarget
from wsikit.cohort.site_splits import inner_site_splits, leave_one_site_out, make_site_splits
from wsikit.cohort.sites import deal_sites, sites_of
from wsikit.cohort.split_audit import audit_splits
from wsikit.cohort.splits import check_splits, make_splits
from wsikit.errors import ConfigError


def imbalance(site, strata, part, parts):
    """The objective, from its definition."""
    total = 0.0
    for k in np.unique(strata):
        n = (strata == k).sum()
        total += sum((((part == f) & (strata == k)).sum() - n / parts) ** 2 for f in range(parts)) / n
    return total


@given(sizes=st.lists(st.integers(1, 12), min_size=3, max_size=7), parts=st.integers(2, 3), seed=st.integers(0, 99))
def test_no_dealing_of_whole_sites_is_more_even(sizes, parts, seed):
    """Every dealing of up to seven sites is tried."""
    site = np.repeat(np.arange(len(sizes)), sizes)
    strata = np.random.default_rng(seed).integers(0, 2, len(site))
    part = deal_sites(site, strata, parts, seed=seed)
    assert sorted(set(part)) == list(range(parts))
    for number in range(len(sizes)):
        assert len(set(part[site == number])) == 1
    best = min(
        imbalance(site, strata, np.array(choice)[site], parts)
        for choice in product(range(parts), repeat=len(sizes))
        if len(set(choice)) == parts
    )
    assert imbalance(site, strata, part, parts) == pytest.approx(best, abs=1e-9)


def test_a_hundred_sites_are_dealt_almost_evenly():
    rng = np.random.default_rng(0)
    site = rng.choice(100, 900, p=rng.dirichlet(np.full(100, 0.5)))
    strata = (rng.random(900) < 0.15).astype(int)
    part = deal_sites(site, strata, 5, seed=0)
    counts = np.array([np.bincount(strata[part == f], minlength=2) for f in range(5)])
    assert np.ptp(counts[:, 1]) <= 1
    assert np.ptp(counts[:, 0]) <= 4
    assert np.array_equal(part, deal_sites(site, strata, 5, seed=0))


def cohort_of(bare_cohort, kind="class", patients=120, sites=9, seed=0):
    """Patients of sites of unequal sizes; the outcome depends on the site."""
    rng = np.random.default_rng(seed)
    site = rng.choice(sites, patients, p=np.arange(1, sites + 1) / np.arange(1, sites + 1).sum())
    chance = rng.uniform(0.2, 0.8, sites)[site]
    if kind == "class":
        target = ClassTarget((rng.random(patients) < chance).astype(np.int64), ("a", "b"))
    elif kind == "survival":
        target = SurvivalTarget(rng.exponential(10, patients) + 0.1, rng.random(patients) < chance, "months")
    else:
        target = ContinuousTarget(chance + rng.normal(size=patients))
    return replace(bare_cohort(target), columns={"hospital": tuple(f"H{s}" for s in site)})


@pytest.mark.parametrize("kind", ["class", "survival", "continuous"])
@pytest.mark.parametrize("seed", [0, 1])
def test_sites_are_whole_outside_and_inside(bare_cohort, kind, seed):
    cohort = cohort_of(bare_cohort, kind, seed=seed)
    of = dict(zip(cohort.patients, cohort.columns["hospital"], strict=True))
    splits = make_site_splits(cohort, site="hospital", folds=4, seed=seed)
    check_splits(splits, cohort)
    assert splits.made["site"] == "hospital"
    for fold in splits.folds:
        homes = [{of[p] for p in role} for role in (fold.train, fold.validation, fold.test)]
        assert all(homes)
        assert not homes[0] & homes[1]
        assert not (homes[0] | homes[1]) & homes[2]
        inner = inner_site_splits(fold, cohort, site="hospital", parts=3, seed=seed)
        assert len(inner) == 3
        watched = np.concatenate([watch for _, watch in inner])
        assert sorted(watched) == sorted(cohort.index([*fold.train, *fold.validation]))
        for train, watch in inner:
            names = [{cohort.columns["hospital"][i] for i in rows} for rows in (train, watch)]
            assert not names[0] & names[1]
    assert audit_splits(splits, cohort, site="hospital").leaks == ()
    mixed = audit_splits(make_splits(cohort, folds=4, seed=seed), cohort, site="hospital")
    assert "of a site that their models were trained on" in mixed.leaks[0]
    assert splits.hash == make_site_splits(cohort, site="hospital", folds=4, seed=seed).hash


def test_leave_one_site_out_tests_each_site_once(bare_cohort):
    cohort = cohort_of(bare_cohort, sites=5)
    splits = leave_one_site_out(cohort, site="hospital")
    of = dict(zip(cohort.patients, cohort.columns["hospital"], strict=True))
    assert [{of[p] for p in fold.test} for fold in splits.folds] == [{f"H{i}"} for i in range(5)]
    check_splits(splits, cohort)
    assert audit_splits(splits, cohort, site="hospital").leaks == ()


def test_with_one_other_site_patients_watch_and_the_tested_site_is_still_a_stranger(bare_cohort):
    cohort = cohort_of(bare_cohort, sites=2)
    for fold in leave_one_site_out(cohort, site="hospital").folds:
        inner = inner_site_splits(fold, cohort, site="hospital", parts=4, seed=0)
        assert len(inner) == 4
        for train, watch in inner:
            assert not {*train, *watch} & set(cohort.index(fold.test))


def test_fewer_models_where_there_are_fewer_sites(bare_cohort):
    cohort = cohort_of(bare_cohort, sites=4)
    fold = leave_one_site_out(cohort, site="hospital").folds[0]
    assert len(inner_site_splits(fold, cohort, site="hospital", parts=8, seed=0)) == 3


def test_tcga_barcodes_have_a_site_only_when_asked(bare_cohort):
    cohort = replace(
        bare_cohort(ContinuousTarget(np.arange(3.0))), patients=("TCGA-A1-A0SB", "TCGA-a2-0000", "TCGA-A1-ZZ99")
    )
    assert sites_of(cohort, "tcga") == ("A1", "A2", "A1")
    assert audit_splits(make_none(), cohort).site == ""
    with pytest.raises(ConfigError, match="patient 'p000' is no TCGA barcode"):
        sites_of(bare_cohort(ContinuousTarget(np.arange(3.0))), "tcga")


def make_none():
    from wsikit.cohort.splits import Splits

    return Splits((), {})


def test_what_is_refused(bare_cohort):
    cohort = cohort_of(bare_cohort, sites=3)
    with pytest.raises(ConfigError, match=r"3 sites \(H0, H1, H2\) and 5 folds; a site is never parted"):
        make_site_splits(cohort, site="hospital")
    with pytest.raises(ConfigError, match=r"no column 'hospitl'; did you mean .*hospital"):
        make_site_splits(cohort, site="hospitl", folds=2)
    one = replace(cohort, columns={"hospital": ("H",) * len(cohort)})
    with pytest.raises(ConfigError, match="all patients are of one site, 'H'; leave-one-site-out needs two"):
        leave_one_site_out(one, site="hospital")
    empty = replace(cohort, columns={"hospital": ("", *cohort.columns["hospital"][1:])})
    with pytest.raises(ConfigError, match=r"1 patients have no site \(p000\)"):
        sites_of(empty, "hospital")
    both = replace(cohort, mixed={"hospital": ("p007",)})
    with pytest.raises(ConfigError, match=r"1 patients have slides of several sites \(p007\)"):
        sites_of(both, "hospital")
    with pytest.raises(ConfigError, match="2 sites cannot be dealt into 3 parts"):
        deal_sites(np.array([0, 1]), np.array([0, 1]), 3, seed=0)
    for options in ({"folds": 1}, {"validation": 0.0}):
        with pytest.raises(ConfigError, match="expected >= 2 and 0 to 0.9"):
            make_site_splits(cohort, site="hospital", **options)
