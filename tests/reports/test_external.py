"""The report of an external validation says what was frozen, keeps the two results apart, and holds all it shows."""

from __future__ import annotations

import html
import re
from dataclasses import replace

import cv2
import numpy as np
import pytest

from wsikit.cohort.endpoints import endpoint_from
from wsikit.cohort.table import load_cohort
from wsikit.evaluation.assessment import ClassSets
from wsikit.evaluation.external_result import ExternalResult
from wsikit.evaluation.external_survival import Absolute
from wsikit.evaluation.outliers import unlikeness
from wsikit.evaluation.recalibration import Recalibration
from wsikit.evaluation.recalibration_survival import RiskRecalibration
from wsikit.evaluation.result import ModelResult, SubgroupResult
from wsikit.evaluation.risk_groups import log_rank
from wsikit.evaluation.scores import measured, metrics_of
from wsikit.evaluation.settings import EvaluationSettings
from wsikit.reports import pictures
from wsikit.reports.external import write_external_report
from wsikit.reports.words import interval_text
from wsikit.tasks.task import create_task

from .conftest import ENDPOINTS

SETTINGS = EvaluationSettings(bootstrap=100)


@pytest.fixture
def make_external(planted, tmp_path):
    """The function that makes the result of an external validation by hand, with random predictions."""

    def made(kind):
        endpoint = endpoint_from(ENDPOINTS[kind])
        cohort = load_cohort(
            planted / "cohort.csv", endpoint=endpoint, stores=planted / "features.zarr", missing_slides="exclude"
        )
        task, n = create_task(endpoint, cohort.target), len(cohort)
        rng, zeros = np.random.default_rng(1), np.zeros(len(cohort), np.int64)
        prediction = rng.normal(size=(n, len(task.columns)))
        if kind.startswith("class"):
            prediction = np.exp(prediction) / np.exp(prediction).sum(1, keepdims=True)
        two, survival = kind == "class", kind == "survival"
        found = metrics_of(
            task, prediction, cohort.target, zeros, SETTINGS, threshold=np.full(n, 0.37) if two else None
        )
        slope = measured("calibration slope", lambda r: 0.5 + 1e-3 * r.mean(), n, zeros, SETTINGS, "1 is right")
        found = (*(m for m in found if m.name != "calibration slope"), slope)
        inside = prediction > 0.5
        calls = tuple("high" if v > 0 else "low" for v in prediction[:, 0]) if survival else ("",) * n
        return ExternalResult(
            out=tmp_path / "external", cohort=cohort, columns=task.columns,
            model=ModelResult("as trained (<i>abmil on texture)", prediction, found),
            recalibrated=ModelResult("recalibrated on 16 patients", prediction[:, ::-1], found[-1:]) if two else None,
            recalibration=Recalibration("slope", -0.25, 0.5, n) if two else None,
            models=4, trained=80, threshold=0.37 if two else None, cuts="best balanced accuracy of <b>fold 1",
            calls=calls,
            unlike=unlikeness([(np.arange(200.0), np.append(np.arange(n - 1.0), 500.0))]),
            sets=ClassSets(0.5, False, endpoint.classes, prediction, inside, 80) if two else None,
            absolute=Absolute(8.0, "months", "as asked for", rng.random(n)) if survival else None,
            log_rank=log_rank(cohort.target.time, cohort.target.event, calls, permutations=100) if survival else None,
            notes=("A note of <i>this</i> cohort.",), manifest={"table": "<i>elsewhere.csv"},
        )  # fmt: skip

    return made


def read(path):
    page = path.read_text(encoding="utf-8")
    return page, " ".join(html.unescape(re.sub(r"<style>.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL)).split())


def test_what_was_frozen_stands_there_with_its_source_and_names_cannot_break_the_page(make_external):
    result = make_external("class")
    page, text = read(write_external_report(result))
    assert "a probability above 0.37 calls a patient positive" in text
    assert "It was chosen at training (best balanced accuracy of <b>fold 1)" in text
    assert "A note of <i>this</i> cohort." in text
    assert "The predictions are too extreme: the calibration slope is 0.51" in text
    assert "<i>abmil" not in page
    assert "<b>fold 1" not in page
    assert 'src="http' not in page
    assert page.count('src="data:image/png;base64,') == 3


def test_the_recalibrated_column_is_the_second_and_has_its_own_numbers_only(make_external):
    result = make_external("class")
    page, text = read(write_external_report(result))
    head = re.search(r"<thead><tr><th></th>(.*?)</tr>", page, re.DOTALL)[1]
    names = re.findall(r"<th>(.*?)</th>", head)
    assert [html.unescape(n) for n in names] == [result.model.name, result.recalibrated.name]
    rows = dict(re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', page, re.DOTALL))
    cells = {name: re.findall(r"<td.*?>(.*?)<small>", row, re.DOTALL) for name, row in rows.items()}
    assert cells["AUC"][1].strip() == ""
    assert cells["calibration slope"][1].strip().startswith("0.51")
    assert "learnt on all 16" in text
    assert "logit\N{NO-BREAK SPACE}p\N{PRIME} = -0.250 + 0.500" in html.unescape(page)


def test_recalibrated_risks_have_their_curve_and_the_formula_for_further_patients(make_external):
    result = make_external("survival")
    risk = np.linspace(0.1, 0.6, len(result.cohort))[:, None]
    second = ModelResult("recalibrated on 16 patients", risk, result.model.metrics[-1:])
    mended = replace(result, recalibrated=second, recalibration=RiskRecalibration("slope", 0.25, 1.5, 8.0, 16))
    _, text = read(write_external_report(mended))
    words = text.replace("\N{NO-BREAK SPACE}", " ")
    assert (
        "risk until 8 months = 1 \N{MINUS SIGN} exp(\N{MINUS SIGN}0.25 exp(1.500 log_risk)), learnt on all 16" in words
    )
    with_second = cv2.imread(str(result.out / "figures" / "risk_calibration.png"))
    write_external_report(result)
    assert cv2.imread(str(result.out / "figures" / "risk_calibration.png")).shape != with_second.shape  # a line less


def test_sets_are_counted_by_size(make_external):
    result = make_external("class")
    inside = result.sets.inside
    held = inside[np.arange(len(inside)), result.cohort.target.label]
    _, text = read(write_external_report(result))
    one = int((inside.sum(1) == 1).sum())
    assert f"1 class {one} patients; {int(held.sum())} of them hold the truth" in text
    assert "empty: no class fits 0 patients" in text


def test_subgroups_have_a_row_each_with_the_patients_and_every_metric(make_external):
    result = make_external("class")
    main = result.model.metrics
    few = tuple(replace(m, value=None, interval=None, note="<i>too few") for m in main)
    groups = (SubgroupResult("sex", "<i>F", np.arange(6), main), SubgroupResult("sex", "M", np.arange(6, 7), few))
    page, text = read(write_external_report(replace(result, subgroups=groups)))
    assert "In the subgroups all of this is the same" in text
    assert "<i>F" not in page
    rows = re.findall(r"<small>sex</small></th>(.*?)</tr>", page, re.DOTALL)
    assert len(rows) == 2
    assert "6 patients" in rows[0]
    assert all(row.count('<td class="v">') == len(main) for row in rows)
    assert interval_text(main[0]) in html.unescape(rows[0])
    assert rows[1].count("not defined") == len(main)
    assert "Without it: 1 group; the table says why." in text
    assert "Subgroups" not in read(write_external_report(result))[1]
    assert not (result.out / "figures" / "subgroups.png").exists()


def test_the_picture_of_subgroups_has_all_patients_and_every_group_that_has_the_metric(make_external, monkeypatch):
    drawn, plain = [], pictures.draw_forest

    def kept(rows, **options):
        drawn.append((rows, options))
        return plain(rows, **options)

    monkeypatch.setattr(pictures, "draw_forest", kept)
    result = make_external("class")
    main, *others = result.model.metrics
    lower = replace(main, value=main.value - 0.1, interval=replace(main.interval, low=0.1, high=0.3))
    few = replace(main, value=None, interval=None, note="too few")
    groups = (
        SubgroupResult("age", "age below 60", np.arange(6), (lower, *others)),
        SubgroupResult("sex", "F", np.arange(1), (main, *others)),
        SubgroupResult("sex", "M", np.arange(6, 7), (few, *others)),
    )
    write_external_report(replace(result, subgroups=groups))
    ((rows, options),) = drawn
    assert options == {"name": main.name, "reference": main.value}
    assert [(row.name, row.value, row.low, row.high) for row in rows] == [
        ("all patients", main.value, main.interval.low, main.interval.high),
        ("age below 60 (6 patients)", lower.value, 0.1, 0.3),
        ("sex: F (1 patient)", main.value, main.interval.low, main.interval.high),
    ]
    assert (result.out / "figures" / "subgroups.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("kind", "pictures"),
    [
        ("class", {"roc.png", "calibration.png", "decision.png"}),
        ("classes", {"roc.png", "calibration.png"}),
        ("survival", {"kaplan_meier.png", "risk_calibration.png"}),
        ("continuous", {"scatter.png"}),
    ],
)
def test_each_endpoint_has_its_figures(make_external, kind, pictures):
    result = make_external(kind)
    page = write_external_report(result)
    written = {p.name: cv2.imread(str(p)) for p in (page.parent / "figures").iterdir()}
    assert set(written) == pictures
    assert all(picture.std() > 5 for picture in written.values())
    _, text = read(page)
    assert f"{len(result.cohort)} patients who had no part in the models" in text
    assert f"{1 / len(result.cohort):.0%} unlike the training" in text  # the last one lies beyond all of 200
