"""Cohorts with one planted fault each: the audit finds that one, and calls a clean cohort clean."""

from __future__ import annotations

import csv
import functools
import json
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest

from wsikit.errors import ConfigError
from wsikit.evaluation.audit import outcome as audit_outcome
from wsikit.evaluation.audit.check import AuditSettings, Check, worst
from wsikit.evaluation.audit.cohort import audit_cohort
from wsikit.evaluation.audit.slides import duplicates
from wsikit.evaluation.audit.target import audited
from wsikit.evaluation.baselines import baseline_predictions
from wsikit.reports.audit import write_audit
from wsikit.store.writer import add_features, begin_store, write_plan, write_shard

QUICK = AuditSettings(permutations=60, label_permutations=20, bootstrap=200)


def plant(
    folder: Path,
    *,
    faults: Collection[str] = (),
    patients: int = 60,
    prefix: str = "P",
    trained_on: list[str] | None = (),  # type: ignore[assignment]
) -> Path:
    """A cohort of three hospitals whose label shows in the features, and what ``faults`` names."""
    root = folder / "features.zarr"
    root.mkdir(parents=True)
    begin_store(root, {"tiling": {"tile_px": 256}})
    rng = np.random.default_rng(0)
    label, site = np.arange(patients) % 2, np.arange(patients) // 2 % 3
    if "linked" in faults:  # hospital 0 has most of the sick
        site = np.where((label == 1) & (rng.random(patients) < 0.8), 0, 1 + np.arange(patients) % 2)
    rows, drawn = [], []
    for i in range(patients):
        name, tiles = f"s{i:03d}", 12
        x = rng.normal(size=(tiles, 8))
        if "no signal" not in faults:
            x[:, 0] += 1.2 * label[i] + rng.normal(0, 0.3)
        if "batch" in faults:
            x[:, 4:7] += 3.0 * np.eye(3)[site[i]]
        drawn.append(x)
        if "saved twice" in faults and i == 9:
            x = drawn[3]
        colour = rng.normal(size=(tiles, 3)) + (1.5 * label[i] if "colour" in faults else 0)
        coords = np.stack([np.arange(tiles), np.zeros(tiles)], 1).astype(np.int32) * 256
        number = 3 if "duplicate" in faults and i == 8 else i
        facts = {
            "fingerprint": f"{number:064d}", "mpp": [0.25, 0.25], "stride_level0_px": [256.0, 256.0],
            "vendor": "aperio", "reader": "openslide",
        }  # fmt: skip
        write_plan(root, name, attributes=facts, coords=coords, quality=np.ones((tiles, 1), np.float32))
        for key, values in (("toy-0000", x), ("colour-0000", colour)):
            card = {"name": key.split("-")[0], "dim": values.shape[1], "pretraining": trained_on}
            add_features(root, name, key, dim=values.shape[1], attributes={"card": card, "run": {}})
            write_shard(
                root, name, key, 0, values=values.astype(np.float16), status=np.zeros(tiles, np.uint8), facts={}
            )
        rows.append([name, f"{prefix}{i:03d}", label[i], "ABC"[site[i]]])
    with (folder / "cohort.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["slide_id", "patient_id", "label", "hospital"], *rows])
    return folder


@functools.cache
def _planted(root: Path, faults: frozenset[str]) -> Path:
    return plant(root / "-".join(sorted(faults) or ["clean"]), faults=faults)


@pytest.fixture(scope="module")
def planted_with(tmp_path_factory):
    """The function that plants a cohort with some faults, each cohort once; not to be written to."""
    root = tmp_path_factory.mktemp("audited")
    return lambda *faults: _planted(root, frozenset(faults))


def audit(folder: Path, *, label: str | None = "label", site: str | None = "hospital", **more) -> dict[str, Check]:
    asked = audited(str(folder / "features.zarr"), folder / "cohort.csv", label=label, site=site, encoder="toy")
    found = audit_cohort(asked.cohort, site=site, outcome=asked.outcome, fold=asked.fold, settings=QUICK, **more)
    return {check.name: check for check in found}


def verdicts(checks: dict[str, Check]) -> dict[str, str]:
    return {name: check.verdict for name, check in checks.items()}


def test_a_clean_cohort_is_green(planted_with):
    checks = audit(planted_with())
    assert verdicts(checks) == {
        "duplicates": "green", "site: hospital": "green", "site: vendor": "green", "label permutation": "green",
        "colour only": "green", "number of tiles only": "green", "pre-training": "green",
    }  # fmt: skip
    assert worst(list(checks.values())) == "green"
    site = checks["site: hospital"].number
    assert site is not None
    assert site.chance == pytest.approx(1 / 3)
    assert site.interval is not None
    assert site.interval.low < 1 / 3 < site.interval.high
    shuffled = checks["label permutation"].number
    assert shuffled is not None
    assert abs(shuffled.random.mean() - 0.5) < 0.06
    assert shuffled.value > 0.85


def test_a_site_that_shows_is_amber_and_red_where_the_outcome_follows_it(planted_with):
    checks = audit(planted_with("batch"))
    found = checks["site: hospital"]
    assert found.verdict == "amber"
    assert found.number is not None
    assert found.number.value > 0.95
    corrected = checks["batch effect: hospital"]
    assert corrected.number is not None
    assert corrected.number.others["before"] > 0.9
    assert corrected.number.value < 0.75, "fitted on one half, it takes much away from the other"
    linked = audit(planted_with("batch", "linked"))["site: hospital"]
    assert linked.verdict == "red"
    assert "keep sites apart" in linked.advice


@pytest.mark.parametrize(
    ("fault", "check", "verdict", "words"),
    [
        ("duplicate", "duplicates", "red", "1 slide files belong to more than one patient: s003 = s008."),
        ("saved twice", "duplicates", "amber", "1 pairs of patients have the same mean features: P003 and P009."),
        ("colour", "colour only", "amber", "a linear model of the features"),
        ("no signal", "label permutation", "amber", "on the true one 0."),
    ],
)
def test_each_fault_is_found_and_no_other(fault, check, verdict, words, planted_with):
    checks = audit(planted_with(fault))
    assert words in checks[check].found
    if fault == "colour":  # as good as the features, or better: then they add nothing
        assert checks[check].verdict in ("amber", "red")
    else:
        assert checks[check].verdict == verdict
    assert {name for name, found in checks.items() if found.verdict != "green"} == {check}


def test_features_that_a_question_needs_and_the_store_lacks_are_said(planted_with):
    asked = audited(str(planted_with() / "features.zarr"), planted_with() / "cohort.csv", label="label", encoder="toy")
    settings = AuditSettings(permutations=20, label_permutations=20, bootstrap=100, colour="texture")
    found = {check.name: check for check in audit_cohort(asked.cohort, settings=settings)}["texture only"]
    assert found.verdict == "amber"
    assert "--encoder texture" in found.advice


def test_colour_that_does_as_well_as_the_features_is_red(planted_with):
    found = audit(planted_with("colour", "no signal"))["colour only"]
    assert found.verdict == "red"
    assert found.number is not None
    assert found.number.value > 0.9 > found.number.others["linear model of the features"]


def test_an_encoder_that_saw_the_collection_is_red(tmp_path):
    folder = plant(tmp_path / "a", patients=12, prefix="TCGA-A1-A", trained_on=["tcga", "PAIP"])
    found = audit(folder)["pre-training"]
    assert found.verdict == "red"
    assert "toy was trained on tcga, PAIP. The patients' ids are those of TCGA." in found.found
    assert audit(folder, pretraining=["CPTAC"])["pre-training"].verdict == "green"
    unknown = audit(plant(tmp_path / "b", patients=12, trained_on=None))["pre-training"]
    assert unknown.verdict == "amber"
    assert "does not say what it was trained on" in unknown.found


def test_a_leak_is_found_by_shuffled_labels(planted_with, monkeypatch):
    """The model is fitted on the tested patients too: the mistake that the question is there for."""

    def leaky(features, target, fold):
        everybody = np.concatenate([features, features])
        twice = target.take(np.tile(np.arange(len(target)), 2))
        return baseline_predictions(everybody, twice, np.repeat([0, 1], len(fold)))[: len(fold)]

    monkeypatch.setattr(audit_outcome, "baseline_predictions", leaky)
    found = audit(planted_with())["label permutation"]
    assert found.verdict == "red"
    assert found.number is not None
    assert found.number.random.mean() > 0.6


def test_without_a_label_only_the_site_is_asked_about(planted_with):
    checks = audit(planted_with("batch"), label=None)
    assert verdicts(checks)["site: hospital"] == "amber"
    assert "label permutation" not in checks
    assert "colour only" not in checks


def test_what_cannot_be_asked_is_refused(tmp_path):
    folder = plant(tmp_path / "a", patients=12)
    table = folder / "cohort.csv"
    with pytest.raises(ConfigError, match="needs --label COLUMN, --site COLUMN, or both"):
        audited(str(folder / "features.zarr"), table)
    with pytest.raises(ConfigError, match="no column 'hospitl'; did you mean 'hospital'"):
        audit(folder, site="hospitl")
    (folder / "run").mkdir()
    (folder / "run" / "run.json").write_text("{}")
    with pytest.raises(ConfigError, match="name them with --store"):
        audited(str(folder / "run"), table)
    few = audit(folder)["site: hospital"]
    assert few.verdict == "green"
    assert "two groups of at least 6 patients are needed" in few.found


def test_page_shows_red_first_and_escapes(tmp_path):
    folder = plant(tmp_path / "a", faults={"duplicate"}, patients=20, prefix="<i>P")
    asked = audited(str(folder / "features.zarr"), folder / "cohort.csv", label="label", encoder="toy")
    checks = audit_cohort(asked.cohort, settings=QUICK)
    html = write_audit(checks, asked.cohort, tmp_path / "audit.html", title="<b>x").read_text()
    assert "<b>x" not in html
    assert "<i>P" not in html
    assert "Red. Results on this cohort would not mean what they seem to." in html
    places = [html.index(f"{name}: {colour}<") for name, colour in (("duplicates", "red"), ("colour only", "green"))]
    assert places == sorted(places)
    assert html.count("data:image/png;base64,") == sum(check.number is not None for check in checks)
    assert "http" not in html


def test_command_exits_1_on_red_and_prints_json(tmp_path):
    folder = plant(tmp_path / "a", faults={"duplicate"}, patients=24)
    words = ["audit", "features.zarr", "--cohort", "cohort.csv", "--label", "label", "--encoder", "toy", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "wsikit", *words, "--permutations", "20"], capture_output=True, text=True, cwd=folder
    )
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    assert found["verdict"] == "red"
    assert {c["name"]: c["verdict"] for c in found["checks"]}["duplicates"] == "red"
    assert (folder / "audit.html").exists()


def test_a_run_is_audited_on_its_own_folds(tmp_path, experiment, planted):
    from wsikit.evaluation.crossval import crossval

    result = crossval(experiment(planted, tmp_path / "run", training={"epochs": 1}), workers=1)
    asked = audited(str(tmp_path / "run"), planted / "cohort.csv", stores=[str(planted / "features.zarr")])
    assert asked.cohort.patients == result.cohort.patients
    assert asked.fold is not None
    np.testing.assert_array_equal(asked.fold, result.fold)
    checks = {c.name: c for c in audit_cohort(asked.cohort, fold=asked.fold, settings=QUICK)}
    assert checks["duplicates"].verdict == "green"
    assert checks["label permutation"].verdict == "green", "the label of that cohort shows in its features"


def test_a_duplicate_across_folds_is_named_as_such(planted_with):
    folder = planted_with("duplicate")  # s003 = s008
    asked = audited(str(folder / "features.zarr"), folder / "cohort.csv", label="label", encoder="toy")
    means = np.random.default_rng(0).normal(size=(60, 8))
    apart = duplicates(asked.cohort, means, np.arange(60) % 2)
    assert "patient, 1 of them in different folds of the run: s003 = s008" in apart.found
    together = duplicates(asked.cohort, means, np.zeros(60, np.int64))
    assert together.verdict == "red"
    assert "folds" not in together.found
