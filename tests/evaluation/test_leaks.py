"""Traps: a leaked patient, a shared site, one file under two names, NaN, nothing: each is named.

Two encoders under one name are in ``tests/cohort/test_table.py``, a collapsed model in ``test_crossval.py``.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
import yaml

from wsikit.errors import ConfigError, StoreError
from wsikit.evaluation.crossval import crossval
from wsikit.reports.crossval import write_report
from wsikit.store.writer import add_features, write_plan, write_shard


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def sited(planting, tmp_path_factory):
    """The planted cohort with a site (four, of ten patients each), a sex and an age."""
    folder = planting(tmp_path_factory.mktemp("sited") / "cohort")
    rows = rows_of(folder / "cohort.csv")
    for row in rows:
        number = int(row["patient_id"][1:])
        row |= {"site": f"H{number % 4}", "sex": "FM"[number % 2], "age": str(40 + number)}
    with (folder / "cohort.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return folder


QUICK = {"training": {"epochs": 2}, "evaluation": {"bootstrap": 100}}


def test_a_shared_site_is_a_note_and_where_sites_are_named_they_are_kept_apart(sited, experiment, tmp_path):
    plain = crossval(experiment(sited, tmp_path / "plain", splits={"folds": 2, "inner_folds": 1}, **QUICK), workers=1)
    assert plain.notes[0].startswith("40 of 40 tested patients (100 %) are of a site that their models were trained on")
    assert json.loads((plain.out / "run.json").read_text())["audit"]["leaks"] == [plain.notes[0]]
    kept = experiment(sited, tmp_path / "kept", splits={"folds": 2, "inner_folds": 2, "site": "site"}, **QUICK)
    said: list[str] = []
    result = crossval(kept, workers=1, say=said.append)
    assert not any("site" in note for note in result.notes)
    assert not any("LEAK" in line for line in said)
    of = dict(zip(result.cohort.patients, result.cohort.columns["site"], strict=True))
    for fold in result.splits.folds:
        assert not {of[p] for p in fold.test} & {of[p] for p in (*fold.train, *fold.validation)}
    assert result.audit.folds[0].sites != result.audit.folds[1].sites
    file = {"file": plain.out / "splits.csv", "site": "site"}
    with pytest.raises(ConfigError, match=r"fold 0: site 'H0' is in test and in train, though 'site: site'"):
        crossval(experiment(sited, tmp_path / "x", splits=file, **QUICK), workers=1)


def test_leave_one_site_out_subgroups_and_the_report(sited, experiment, tmp_path):
    wanted = experiment(
        sited, tmp_path / "run", training={"epochs": 4},
        splits={"kind": "leave-one-site-out", "site": "site", "inner_folds": 2},
        evaluation={"bootstrap": 100, "subgroups": ["sex", "age:60"], "heatmaps": 0},
    )  # fmt: skip
    result = crossval(wanted, workers=1)
    assert len(result.splits.folds) == 4
    assert [(g.column, g.name, len(g.rows)) for g in result.subgroups] == [
        ("sex", "F", 20), ("sex", "M", 20), ("age", "age below 60", 20), ("age", "age 60 or more", 20),
    ]  # fmt: skip
    women = result.subgroups[0]
    for metric, whole in zip(women.metrics, result.model.metrics, strict=True):
        assert metric.name == whole.name
    called = result.model.prediction[women.rows, 1] > result.threshold[women.rows]
    sick = result.cohort.target.label[women.rows] == 1
    found = {m.name: m.value for m in women.metrics}
    assert found["sensitivity"] == pytest.approx(called[sick].mean())
    written = rows_of(result.out / "subgroups.csv")
    assert len(written) == 4 * len(women.metrics)
    assert float(written[0]["value"]) == women.metrics[0].value
    assert written[0]["patients"] == "20"
    text = write_report(result).read_text()
    for words in ("age 60 or more", "What tested patients share with the others", "Decision curve"):
        assert words in text
    with pytest.raises(ConfigError, match="subgroups: no column 'sexx'; did you mean 'sex'"):
        crossval(experiment(sited, tmp_path / "y", evaluation={"subgroups": ["sexx"]}), workers=1)
    assert not (tmp_path / "y").exists()  # refused before anything is fitted


def test_repeats_deal_anew_and_metrics_are_means(sited, experiment, tmp_path):
    splits = {"folds": 2, "inner_folds": 1, "repeats": 3}
    result = crossval(experiment(sited, tmp_path / "run", splits=splits, **QUICK), workers=1)
    assert len(result.repeats) == 2
    hashes = json.loads((result.out / "run.json").read_text())["splits hash of repeats"]
    assert len(set(hashes)) == 3
    once = crossval(experiment(sited, tmp_path / "once", splits=splits | {"repeats": 1}, **QUICK), workers=1)
    assert np.array_equal(once.model.prediction, result.model.prediction)  # the first is as it was
    from sklearn.metrics import brier_score_loss

    label = result.cohort.target.label
    tables = [rows_of(result.out / f"predictions{end}.csv") for end in ("", "-2", "-3")]
    brier = [brier_score_loss(label, [float(r["probability_1"]) for r in rows]) for rows in tables]
    found = {m.name: m for m in result.model.metrics}
    assert found["Brier score"].value == pytest.approx(np.mean(brier))
    assert len({tuple(r["fold"] for r in rows) for rows in tables}) == 3
    free = found["AUC, mean of folds"]
    assert free.interval.draws == 6
    assert free.note.startswith("not conditional on the fitted models: Nadeau and Bengio's corrected t interval")
    assert free.interval.high - free.interval.low > found["AUC"].interval.high - found["AUC"].interval.low
    assert sorted(p.name for p in (result.out / "models").iterdir() if p.is_dir()) == ["repeat-2", "repeat-3"]
    assert [d.value for d in result.differences] == pytest.approx(
        [found["AUC"].value - b.metrics[0].value for b in result.baselines]
    )
    crossval(experiment(sited, tmp_path / "run", splits=splits | {"repeats": 1}, **QUICK), workers=1)
    assert not list((tmp_path / "run").glob("*-2.csv"))  # of the earlier run


def test_a_file_under_two_names_is_a_note(planting, experiment, tmp_path):
    folder = planting(tmp_path / "cohort")
    root = folder / "features.zarr"
    for name in ("s001-0", "s002-0"):
        (file,) = [f for f in root.rglob("zarr.json") if name in f.parts and "fingerprint" in f.read_text()]
        text = json.loads(file.read_text())
        text["attributes"]["fingerprint"] = "a" * 64
        file.write_text(json.dumps(text))
    halves = "\n".join(["patient_id,fold", *(f"p{i:03d},{i % 2}" for i in range(40))])
    (tmp_path / "folds.csv").write_text(halves + "\n")
    splits = {"file": tmp_path / "folds.csv", "inner_folds": 1}
    result = crossval(experiment(folder, tmp_path / "run", splits=splits, **QUICK), workers=1)
    assert "'s001-0' of patient 'p001' and 's002-0' of patient 'p002' have the same content" in result.notes[0]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_bag_that_holds_no_numbers_is_refused_with_its_slide(planting, experiment, tmp_path, value):
    folder = planting(tmp_path / "cohort")
    root, ones = folder / "features.zarr", np.ones((3, 1), np.float32)
    x = np.ones((3, 8), np.float16)
    x[1, 5] = value
    facts = {"fingerprint": "e" * 64, "mpp": [0.5, 0.5], "stride_level0_px": [256, 256]}
    write_plan(root, "sick", attributes=facts, coords=np.zeros((3, 2), np.int32), quality=ones)
    add_features(root, "sick", "toy-0000", dim=8, attributes={"card": {"name": "toy", "dim": 8}, "run": {}})
    write_shard(root, "sick", "toy-0000", 0, values=x, status=np.zeros(3, np.uint8), facts={})
    with (folder / "cohort.csv").open("a") as file:
        file.write("sick,p999,1,III,3.5,True,9,1,0\n")
    with pytest.raises(StoreError, match="slides 'sick': 1 of 3 tiles have features that are infinite or no number"):
        crossval(experiment(folder, tmp_path / "run", **QUICK), workers=1)


def test_an_empty_bag_is_refused_with_its_slide(planting, experiment, tmp_path):
    folder = planting(tmp_path / "cohort")
    root = folder / "features.zarr"
    facts = {"fingerprint": "e" * 64, "mpp": [0.5, 0.5], "stride_level0_px": [256, 256]}
    write_plan(root, "bare", attributes=facts, coords=np.zeros((2, 2), np.int32), quality=np.ones((2, 1), np.float32))
    add_features(root, "bare", "toy-0000", dim=8, attributes={"card": {"name": "toy", "dim": 8}, "run": {}})
    status = np.full(2, 1, np.uint8)
    write_shard(root, "bare", "toy-0000", 0, values=np.full((2, 8), np.nan, np.float16), status=status, facts={})
    with (folder / "cohort.csv").open("a") as file:
        file.write("bare,p999,1,III,3.5,True,9,1,0\n")
    with pytest.raises(ConfigError, match=r"bare \(without a usable tile\)"):
        crossval(experiment(folder, tmp_path / "run", **QUICK), workers=1)


@pytest.mark.parametrize(
    ("splits", "words"),
    [
        ({"kind": "leave-one-site-out"}, "needs the column with the site"),
        ({"kind": "leave-one-site-out", "site": "s", "repeats": 2}, "repeats deal the folds anew"),
        ({"file": "x.csv", "repeats": 2}, "repeats deal the folds anew"),
        ({"kind": "leave-one-site-out", "site": "s", "file": "x.csv"}, "makes its own folds"),
    ],
)
def test_settings_that_contradict_one_another(planted, experiment, tmp_path, splits, words):
    with pytest.raises(ConfigError, match=words):
        experiment(planted, tmp_path, splits=splits)


def command(*args, cwd):
    return subprocess.run([sys.executable, "-m", "wsikit", *map(str, args)], capture_output=True, text=True, cwd=cwd)


def test_the_commands_splits_and_compare(sited, experiment, tmp_path):
    config = {"cohort": str(sited / "cohort.csv"), "stores": str(sited / "features.zarr"), "encoder": "toy",
              "endpoint": {"kind": "class", "column": "label", "classes": [0, 1]}}  # fmt: skip
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    first = crossval(
        experiment(sited, tmp_path / "one", splits={"folds": 2, "inner_folds": 1, "site": "site"}, **QUICK), workers=1
    )
    clean = command("splits", "audit", "one/splits.csv", "--cohort", "config.yaml", cwd=tmp_path)
    assert clean.returncode == 0, clean.stderr
    assert "no leak found: no patient, site or slide" in clean.stdout
    assert first.splits.hash in clean.stdout
    wrote = command("splits", "write", "one/splits.csv", "--cohort", "config.yaml", "--layout", "clam",
                    "--out", "clam", cwd=tmp_path)  # fmt: skip
    assert wrote.returncode == 0, wrote.stderr
    folds = "\n".join(["patient_id,fold", *(f"p{i:03d},{i // 2 % 2}" for i in range(40))])
    (tmp_path / "leaky.csv").write_text(folds.replace("p001,0", "p001,1") + "\n")
    leaky = command("splits", "audit", "leaky.csv", "--cohort", "config.yaml", cwd=tmp_path)
    assert leaky.returncode == 1
    assert "LEAK: " in leaky.stdout
    assert "(1 site ('H1'))" in leaky.stdout
    again = experiment(
        sited, tmp_path / "two", splits={"file": tmp_path / "clam", "inner_folds": 1}, training={"epochs": 3},
        evaluation={"bootstrap": 100},
    )  # fmt: skip
    crossval(again, workers=1)
    done = command("compare", "one", "two", "--bootstrap", "200", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "one minus two" in done.stdout
    assert (tmp_path / "comparison" / "comparison.html").is_file()
    crossval(experiment(sited, tmp_path / "three", splits={"folds": 2, "inner_folds": 1}, **QUICK), workers=1)
    refused = command("compare", "one", "three", cwd=tmp_path)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: runs 'one' and 'three' cannot be compared: their folds differ")
