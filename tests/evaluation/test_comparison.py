"""Comparisons: a planted difference is found, none is not, and runs that do not belong together are named."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kstest
from sklearn.metrics import roc_auc_score

from wsikit.cohort.endpoints import ClassLabel, ClassTarget, Survival, SurvivalTarget
from wsikit.errors import ConfigError
from wsikit.evaluation.comparison import compare_runs, holm
from wsikit.evaluation.result import Round
from wsikit.evaluation.run_files import StoredRun, read_external, read_run
from wsikit.metrics import delong_test
from wsikit.reports.comparison import p_text, write_comparison

ENDPOINT = ClassLabel("label", ("0", "1"))


def run_of(name, score, positive, fold, held_out=False):
    chance = 1 / (1 + np.exp(-np.asarray(score)))
    patients = tuple(f"p{i:03d}" for i in range(len(positive)))
    target = ClassTarget(np.asarray(positive).astype(np.int64), ENDPOINT.classes)
    rounds = (Round(np.stack([1 - chance, chance], 1), np.asarray(fold)),)
    return StoredRun(name, Path("runs") / name, ENDPOINT, patients, target, rounds, held_out)


def pair(seed, n=200, gain=0.0, held_out=False, names=("a", "b")):
    """Two runs of models that see the same signal through noise of their own; the first sees ``gain`` more."""
    rng = np.random.default_rng(seed)
    positive, fold = rng.permutation(np.arange(n) < n // 2), np.arange(n) % 4
    if held_out:
        fold = np.zeros(n, np.int64)
    shared = rng.normal(size=n)
    return [
        run_of(name, 1 * positive * (1 + more) + shared + 0.6 * rng.normal(size=n), positive, fold, held_out)
        for name, more in zip(names, (gain, 0.0), strict=True)
    ]


def test_a_planted_difference_is_found_and_its_interval_holds_it():
    found = compare_runs(pair(0, n=400, gain=0.9), draws=1000)
    (difference,) = found.differences
    assert (difference.first, difference.second) == ("a", "b")
    assert difference.value == pytest.approx(found.values[0].value - found.values[1].value)
    assert difference.interval.low > 0.05
    assert difference.p == pytest.approx(2 / 1001)
    assert difference.delong is None  # out-of-fold scores are of several models
    backwards = compare_runs(pair(0, n=400, gain=0.9)[::-1], draws=1000).differences[0]
    assert (backwards.value, backwards.p) == (-difference.value, difference.p)


def test_pairs_stay_inside_folds():
    a, b = pair(1)
    scaled = [replace(r, rounds=(Round(np.stack([1 - c, c], 1), r.rounds[0].fold),)) for r in (a, b)
              for c in [r.rounds[0].prediction[:, 1] * np.array([1, 0.5, 0.2, 0.1])[r.rounds[0].fold]]]  # fmt: skip
    assert compare_runs(scaled, draws=100).differences == compare_runs([a, b], draws=100).differences


def test_a_run_against_itself_is_no_difference():
    a, _ = pair(2)
    (difference,) = compare_runs([a, replace(a, name="again")], draws=200).differences
    assert (difference.value, difference.interval.low, difference.interval.high, difference.p) == (0.0, 0.0, 0.0, 1.0)


def test_three_runs_are_corrected_and_held_out_ones_have_delong():
    a, b = pair(3, gain=0.5, held_out=True)
    c = pair(4, held_out=True)[0]
    c = replace(c, name="c", target=a.target)
    found = compare_runs([a, b, c], draws=400)
    assert [(d.first, d.second) for d in found.differences] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert [d.p_holm for d in found.differences] == holm([d.p for d in found.differences])
    positive = a.target.label == 1
    for d, (x, y) in zip(found.differences, ((a, b), (a, c), (b, c)), strict=True):
        score = [r.rounds[0].prediction[:, 1] for r in (x, y)]
        assert d.delong == delong_test(*score, positive)
        assert d.value == pytest.approx(roc_auc_score(positive, score[0]) - roc_auc_score(positive, score[1]))
    # the bootstrap and DeLong agree where both may be used
    assert found.differences[0].interval.low == pytest.approx(
        found.differences[0].value - 1.96 * found.differences[0].delong.standard_error, abs=0.015
    )


def test_repeats_are_averaged():
    (a, b), (a2, b2) = pair(5), pair(5)
    rng = np.random.default_rng(0)
    fold = rng.permutation(a.rounds[0].fold)
    other = [np.clip(r.rounds[0].prediction + 0.01, 0, 1) for r in (a2, b2)]
    both = [replace(r, rounds=(*r.rounds, Round(o, fold))) for r, o in zip((a, b), other, strict=True)]
    found = compare_runs(both, draws=100).differences[0].value
    each = [
        compare_runs([replace(r, rounds=(r.rounds[i],)) for r in both], draws=100).differences[0].value for i in (0, 1)
    ]
    assert found == pytest.approx(np.mean(each))


def test_holm_by_its_steps_and_in_any_order():
    assert holm([0.01, 0.02, 0.03, 0.5]) == pytest.approx([0.04, 0.06, 0.06, 0.5])
    assert holm([0.5, 0.03, 0.01, 0.02]) == pytest.approx([0.5, 0.06, 0.04, 0.06])
    assert holm([0.9, 0.9]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]


@pytest.mark.slow
def test_p_values_of_no_difference_are_uniform_and_intervals_hold_zero():
    """400 simulated pairs of equally good models, 5 % level: binomial error 1.1 %."""
    p, hits = [], 0
    for seed in range(400):
        (difference,) = compare_runs(pair(seed + 100, n=160), draws=300).differences
        p.append(difference.p)
        hits += difference.interval.low <= 0 <= difference.interval.high
    assert kstest(p, "uniform").pvalue > 0.001
    assert 0.025 < np.mean(np.array(p) < 0.05) < 0.085
    assert 0.92 < hits / 400 < 0.98


def test_runs_that_do_not_belong_together_are_named():
    a, b = pair(0, n=40)
    words = "runs 'a' and 'b' cannot be compared: "
    less = replace(b, patients=b.patients[:-1], target=b.target.take(np.arange(39)))
    with pytest.raises(ConfigError, match=words + r"1 patients are in 'a' only \(p039\)"):
        compare_runs([a, less])
    label = b.target.label.copy()
    label[3] = 1 - label[3]
    other = replace(b, target=ClassTarget(label, ENDPOINT.classes))
    with pytest.raises(ConfigError, match=words + "patient 'p003' has outcome [01] in 'a' and [01] in 'b'"):
        compare_runs([a, other])
    fold = b.rounds[0].fold.copy()
    fold[[0, 1]] = fold[[1, 0]]
    moved = replace(b, rounds=(Round(b.rounds[0].prediction, fold),))
    with pytest.raises(ConfigError, match=words + "their folds differ, as those of patient 'p000'"):
        compare_runs([a, moved])
    renamed = replace(b, rounds=(Round(b.rounds[0].prediction, 3 - b.rounds[0].fold),))
    assert compare_runs([a, renamed], draws=100).differences  # the same folds under other numbers
    survival = Survival("time", "months", event="event")
    times = SurvivalTarget(np.arange(1.0, 41), np.ones(40, bool), "months")
    with pytest.raises(ConfigError, match=words + "they predict different outcomes"):
        compare_runs([a, replace(b, endpoint=survival, target=times)])
    with pytest.raises(ConfigError, match=r"1 cross-validation\(s\) and held-out predictions"):
        compare_runs([a, replace(b, held_out=True)])
    with pytest.raises(ConfigError, match=r"1 cross-validation\(s\) and 2 cross-validation\(s\)"):
        compare_runs([a, replace(b, rounds=b.rounds * 2)])
    with pytest.raises(ConfigError, match="same patients in another order"):
        compare_runs([a, replace(b, patients=(b.patients[1], b.patients[0], *b.patients[2:]))])
    with pytest.raises(ConfigError, match="is given twice"):
        compare_runs([a, a])
    with pytest.raises(ConfigError, match="1 run to compare, expected two or more"):
        compare_runs([a])
    with pytest.raises(ConfigError, match="5 draws at level 0.95"):
        compare_runs([a, b], draws=5)


def stored(folder, run):
    """The files of a run, as ``wsikit crossval`` leaves them."""
    folder.mkdir()
    facts = {"name": run.name, "endpoint": {"kind": "class", "column": "label", "classes": ["0", "1"]}}
    (folder / "run.json").write_text(json.dumps(facts))
    for number, one in enumerate(run.rounds, 1):
        with (folder / ("predictions.csv" if number == 1 else f"predictions-{number}.csv")).open("w", newline="") as f:
            writer = csv.writer(f)
            writer.writerow(["patient_id", "fold", "label", "probability_0", "probability_1"])
            for i, patient in enumerate(run.patients):
                writer.writerow([patient, one.fold[i], run.target.label[i], *map(repr, one.prediction[i].tolist())])
    return folder


def test_runs_are_read_from_their_files(tmp_path):
    a, b = pair(6, n=30)
    twelve = replace(
        a, rounds=tuple(Round(a.rounds[0].prediction * (1 - k / 100), a.rounds[0].fold) for k in range(12))
    )
    again = read_run(stored(tmp_path / "a", twelve))
    assert again.patients == a.patients
    assert len(again.rounds) == 12  # predictions-10 comes after predictions-9
    for x, y in zip(again.rounds, twelve.rounds, strict=True):
        assert np.array_equal(x.prediction, y.prediction)
    path = stored(tmp_path / "b", b) / "predictions.csv"
    text = path.read_text().splitlines()
    for change, words in (
        (["patient_id,fold,label,probability_0,x", *text[1:]], "no column 'probability_1'"),
        ([*text[:-1], text[-1].rsplit(",", 1)[0] + ",nan"], "the prediction of patient 'p029' is no number"),
        (text[:1], "no rows with patient_id"),
    ):
        path.write_text("\n".join(change))
        with pytest.raises(ConfigError, match=words):
            read_run(tmp_path / "b")
    with pytest.raises(ConfigError, match=r"no run.json and predictions.csv; expected a folder that 'wsikit crossval'"):
        read_run(tmp_path / "absent")


def test_external_predictions_take_their_outcomes_from_a_table(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        rows = [f"p{i},s{i},5,{1 - i / 10},{i / 10}" for i in range(8)]
        (tmp_path / name / "predictions.csv").write_text(
            "\n".join(["patient_id,slides,tiles,probability_0,probability_1", *rows])
        )
    table = tmp_path / "cohort.csv"
    table.write_text(
        "\n".join(["slide_id,patient_id,label", *[f"s{i},p{i},{'' if i == 7 else i % 2}" for i in range(8)]])
    )
    run = read_external(tmp_path / "a", table, ENDPOINT)
    assert run.held_out
    assert run.patients == tuple(f"p{i}" for i in range(7))  # the eighth has no outcome
    assert run.target.label.tolist() == [0, 1, 0, 1, 0, 1, 0]
    found = compare_runs([run, read_external(tmp_path / "b", table, ENDPOINT)], draws=100)
    assert found.differences[0].delong.p == 1.0
    table.write_text("slide_id,patient_id,label\ns0,p0,1\n")
    with pytest.raises(ConfigError, match=r"7 patients are not in .*cohort.csv \(p1, p2"):
        read_external(tmp_path / "a", table, ENDPOINT)


def test_the_page_is_whole_and_escaped(tmp_path):
    a, b = pair(7, gain=0.5, names=("<b>one", "two"))
    found = compare_runs([a, b], draws=200)
    page = write_comparison(found, tmp_path / "out").read_text()
    assert "&lt;b&gt;one minus two" in page
    assert "<b>one" not in page
    assert page.count("data:image/png;base64,") == 1
    assert "DeLong" not in page
    with (tmp_path / "out" / "comparison.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["second"] for row in rows] == ["", "", "two"]
    assert float(rows[2]["value"]) == found.differences[0].value
    assert float(rows[2]["p_holm"]) == found.differences[0].p_holm
    assert (tmp_path / "out" / "figures" / "differences.png").read_bytes().startswith(b"\x89PNG")
    assert [p_text(0.2), p_text(0.00001), p_text(2 / 2001, 2 / 2001)] == ["0.2", "< 0.0001", "\u2264 0.001"]
