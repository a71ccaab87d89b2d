"""The report of a cross-validation: one file, complete, safe, and with the result's own numbers."""

from __future__ import annotations

import configparser
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import wsikit.reports
from wsikit.evaluation.result import Metric
from wsikit.reports.cases import case_groups, in_fold_units
from wsikit.reports.crossval import write_report
from wsikit.reports.words import cautions, headline, value_text

EVIL = "<script>alert(1)</script>&\"'"
FIGURE = {"class": "roc.png", "classes": "roc.png", "survival": "kaplan_meier.png", "continuous": "scatter.png"}


class Page(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.open = "", []
        self.feed(html)
        self.close()
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += f" {data}"


def page_of(result) -> Page:
    return Page(write_report(result).read_text(encoding="utf-8"))


@pytest.mark.parametrize("kind", list(FIGURE))
def test_report_is_one_whole_file(kind, make_result):
    result = make_result(kind)
    said: list[str] = []
    path = write_report(result, say=said.append)
    assert path == result.out / "report.html"
    assert said[-1] == f"report: {path}"
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    assert page.open == [], "every element is closed"
    sources = [a["src"] for _, a in page.tags if "src" in a]
    shown = [case.patient for group in case_groups(result) for case in group.cases]
    tiles = sum(result.cohort.slides[i][0].path is not None for i in shown)  # one slide has no file to show tiles of
    assert [a["alt"] for _, a in page.tags if a.get("class") == "tiles"][tiles - 1 :], "a row of tiles of each slide"
    more = {"class": 2, "classes": 1}.get(kind, 0)  # calibration, and of two classes the decision curve
    assert len(sources) == 2 + more + 4 + tiles  # main figure, training, two slides of each end
    assert all(source.startswith(("data:image/png;base64,", "data:image/jpeg;base64,")) for source in sources)
    assert not [a for _, a in page.tags if "href" in a]
    assert {"script", "link", "iframe"} & {tag for tag, _ in page.tags} == set()
    assert "http" not in html
    assert "@import" not in html
    for name in (FIGURE[kind], "training.png"):
        assert (result.out / "figures" / name).read_bytes().startswith(b"\x89PNG")
    assert len(list((result.out / "heatmaps").glob("*.png"))) == 4
    assert len(list((result.out / "heatmaps").glob("*.geojson"))) == 4


def test_sections_are_in_order_and_hold_the_numbers(make_result):
    result = make_result("class")
    text = page_of(result).text
    titles = ["Planted <i>report", "What to be careful about", "Result", "Numbers", "Paired differences", "Cohort",
              "Splits", "Training", "Single slides", "Most right", "Most wrong", "Provenance"]  # fmt: skip
    places = [text.index(f" {title}") for title in titles]
    assert places == sorted(places)
    assert headline(result) in text
    assert text.index(headline(result)) < text.index("What to be careful about")
    for metric in (*result.model.metrics, *result.baselines[0].metrics):
        assert metric.name in text
        assert value_text(metric) in text
    assert result.differences[0].name in text
    assert result.splits.hash in text
    assert "versions \u203a wsikit 9.9.9" in text
    for caution in cautions(result):
        assert caution in text


def test_headline_says_value_interval_and_baseline(make_result):
    result = make_result("class")
    main = result.model.metrics[0]
    low, high, other = main.interval.low, main.interval.high, result.baselines[0].metrics[0].value
    words = f"AUC {main.value:.2f} (95 % interval {low:.2f} to {high:.2f}) over 16 patients; "
    assert headline(result) == words + f"mean of colour alone {other:.2f}."


def test_what_comes_from_files_is_escaped(make_result):
    result = make_result("class")
    patient = result.cohort.patients.index(EVIL)
    prediction = np.full_like(result.model.prediction, 0.5)
    prediction[patient] = np.eye(2)[1 - result.cohort.target.label[patient]]  # the most wrong: it is shown
    result = replace(result, model=replace(result.model, prediction=prediction))
    page = page_of(result)
    assert EVIL in page.text
    assert "<b>tumour" in page.text
    assert "<i>P98" in page.text
    assert "<i>cohort.csv" in page.text
    assert "A note of <i>this</i> run." in page.text
    assert {"script", "i"} & {tag for tag, _ in page.tags} == set()


def test_every_exclusion_is_counted_and_named(make_result):
    result = make_result("continuous")
    text = page_of(result).text
    assert "2 slides left out: in no store S98-0, S99-0" in text
    assert "2 patients left out: no slide that can be used <i>P98, P99" in text
    assert "1 patient left out: no value of grade P15" in text
    slides = sum(exclusion.kind == "slide" for exclusion in result.cohort.exclusions)
    assert f"16 slides {slides} left out" in text
    assert "19 rows in the table" in text
    assert "16 slides used" in text
    assert "15 patients analysed" in text


def test_classification_shows_the_best_and_worst_by_the_true_class(make_result):
    result = make_result("class")
    true = result.model.prediction[np.arange(16), result.cohort.target.label]
    best, worst = case_groups(result)
    assert [c.patient for c in best.cases] == np.argsort(-true)[:2].tolist()
    assert [c.patient for c in worst.cases] == np.argsort(true)[:2].tolist()
    text = page_of(result).text
    probability = result.model.prediction[worst.cases[0].patient, 1]
    assert f"Probability of <b>tumour {probability:.2f}, threshold 0.50".replace(" ", "") in text.replace(" ", "")


def test_several_classes_are_called_by_the_highest_probability(make_result):
    result = make_result("classes")
    _, worst = case_groups(result)
    patient = worst.cases[0].patient
    chosen, label = int(result.model.prediction[patient].argmax()), int(result.cohort.target.label[patient])
    assert chosen != label
    highest, own = result.model.prediction[patient, [chosen, label]]
    names = result.cohort.target.classes
    assert worst.cases[0].facts[:3] == (
        ("True", names[label]),
        ("Predicted", f"{names[chosen]}, probability {highest:.2f}"),
        ("Of the true class", f"{own:.2f}"),
    )


def test_regression_shows_the_smallest_and_largest_error(make_result):
    result = make_result("continuous")
    error = np.abs(result.model.prediction[:, 0] - result.cohort.target.value)
    small, large = case_groups(result)
    assert [c.patient for c in small.cases] == np.argsort(error)[:2].tolist()
    assert [c.patient for c in large.cases] == np.argsort(-error)[:2].tolist()


def test_risks_of_differently_scaled_folds_are_put_on_one_scale(make_result):
    result = make_result("survival")
    shifted = result.model.prediction * np.where(result.fold == 0, 1.0, 50.0)[:, None] + 100 * result.fold[:, None]
    scaled = replace(result, model=replace(result.model, prediction=shifted))
    shown = [[c.patient for c in group.cases] for group in case_groups(result)]
    assert [[c.patient for c in group.cases] for group in case_groups(scaled)] == shown
    assert {result.fold[i] for group in shown for i in group} == {0, 1}
    assert in_fold_units(np.array([1.0, 3.0, 5.0, 5.0]), np.array([0, 0, 1, 1])).tolist() == [-1, 1, 0, 0]


def test_without_attention_and_without_pictures(make_result):
    result = make_result("class", attention=(None,) * 16)
    text = page_of(result).text
    assert "no attention over tiles" in text
    assert not (result.out / "heatmaps").exists()
    none = result.experiment.model_copy(
        update={"evaluation": result.experiment.evaluation.model_copy(update={"heatmaps": 0})}
    )
    assert "Single slides" not in page_of(replace(result, experiment=none)).text


def test_heatmaps_of_an_earlier_run_are_not_left(make_result):
    result = make_result("class")
    (result.out / "heatmaps").mkdir(parents=True)
    (result.out / "heatmaps" / "earlier.png").write_bytes(b"old")
    write_report(result)
    assert not (result.out / "heatmaps" / "earlier.png").exists()


def test_undefined_main_metric_is_said(make_result):
    result = make_result("class")
    nothing = Metric("AUC", None, None, "no fold has both classes")
    model = replace(result.model, metrics=(nothing,))
    result = replace(result, model=model, fold=np.arange(16), differences=(replace(nothing, name="AUC minus"),))
    text = page_of(result).text
    assert "AUC is not defined over 16 patients: no fold has both classes." in text
    assert "not defined" in text


def test_one_risk_group_has_one_curve(make_result):
    result = make_result("survival", risk_group=np.zeros(16, np.int64), log_rank=None)
    write_report(result)
    assert (result.out / "figures" / "kaplan_meier.png").exists()


def test_cautions_name_what_is_not_established(make_result):
    result = make_result("class")
    (difference,) = result.differences
    for value, low, high, words in (
        (
            0.1,
            -0.1,
            0.2,
            "The advantage over mean of colour is not established: it is +0.10, interval \u22120.10 to +0.20.",
        ),
        (-0.2, -0.3, 0.1, "It is not better than mean of colour: the difference is \u22120.20"),
        (0.2, 0.1, 0.3, ""),
    ):
        moved = replace(difference, value=value, interval=replace(difference.interval, low=low, high=high))
        said = " ".join(cautions(replace(result, differences=(moved,))))
        assert words in said
        assert ("mean of colour" in said) == bool(words)
    assert cautions(result)[0] == "A note of <i>this</i> run."


def test_templates_are_shipped():
    config = configparser.ConfigParser()
    config.read(Path(__file__).parents[2] / "setup.cfg", encoding="utf-8")
    patterns = config["options.package_data"]["wsikit.reports"].split()
    folder = Path(wsikit.reports.__file__).parent
    files = [p for p in folder.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")]
    assert len(files) >= 2
    assert [p for p in files if not any(p.relative_to(folder).match(pattern) for pattern in patterns)] == []
