"""Calibration, decision and forest figures: the numbers are where they should be, the words on the paper."""

from __future__ import annotations

import numpy as np
import pytest

from wsikit.errors import ConfigError
from wsikit.figures.calibration import CalibrationPoints, draw_calibration
from wsikit.figures.decision_curve import DecisionCurve, draw_decision_curve
from wsikit.figures.forest import ForestRow, draw_forest

LONG = "A model with a long name and a $dollar$ in it, " * 4


def assert_words_on_paper(figure):
    figure.canvas.draw()
    texts = [*figure.texts, *(t for legend in figure.legends for t in legend.get_texts())]
    for text in texts:
        box = text.get_window_extent()
        assert 0 <= box.x0 <= box.x1 <= figure.bbox.width
        assert 0 <= box.y0 <= box.y1 <= figure.bbox.height
    for axes in figure.axes:
        box = axes.get_tightbbox()
        assert box.x0 >= 0
        assert box.y0 >= 0


def test_calibration_shows_the_bins_and_wilsons_intervals():
    points = CalibrationPoints(LONG, [0.1, 0.6], [0.0, 0.5], [10, 40], "slope 0.8")
    figure = draw_calibration([points, CalibrationPoints("b", [0.5], [1.0], [1])], title=LONG)
    axes = figure.axes[0]
    assert axes.lines[1].get_xydata().tolist() == [[0.1, 0.0], [0.6, 0.5]]
    (first, second) = axes.collections[0].get_segments()
    # 0 of 10: Wilson's upper end is z^2 / (n + z^2); 20 of 40 is symmetric
    assert first[1][1] == pytest.approx(3.8415 / 13.8415, abs=1e-4)
    assert second[:, 1].mean() == pytest.approx(0.5)
    assert second[1, 1] - 0.5 == pytest.approx(0.1480, abs=1e-3)
    assert_words_on_paper(figure)


def test_decision_curves_show_benefit_all_and_nobody():
    cuts = np.linspace(0.01, 0.9, 20)
    everybody = 0.4 - 0.6 * cuts / (1 - cuts)
    figure = draw_decision_curve(cuts, [DecisionCurve(LONG, 0.3 - 0.2 * cuts)], everybody, title=LONG)
    axes = figure.axes[0]
    assert axes.lines[0].get_ydata() == pytest.approx(0.3 - 0.2 * cuts)
    assert axes.lines[1].get_ydata() == pytest.approx(everybody)
    assert axes.lines[2].get_ydata().tolist() == [0, 0]
    assert axes.get_ylim()[0] > everybody.min()  # the harm of treating all does not flatten the rest
    assert_words_on_paper(figure)


def test_forest_rows_are_in_order_from_the_top():
    rows = [ForestRow(LONG, 0.1, -0.1, 0.3), ForestRow("b", 0.2, 0.15, 0.3), ForestRow("c", 0.0, 0.0, 0.0)]
    figure = draw_forest(rows, name="difference", reference=0, title=LONG)
    lines = figure.axes[0].lines
    assert lines[0].get_xdata() == pytest.approx([0, 0])
    points = [line for line in lines if line.get_marker() == "s"]
    assert [p.get_xdata()[0] for p in points] == [0.1, 0.2, 0.0]
    heights = [p.get_ydata()[0] for p in points]
    assert heights == sorted(heights, reverse=True)
    names = {t.get_text().replace("\n", " "): t for t in figure.texts}
    assert names["b"].get_position()[1] > names["c"].get_position()[1]
    assert_words_on_paper(figure)


@pytest.mark.parametrize(
    ("draw", "words"),
    [
        (lambda: draw_calibration([]), "found 0"),
        (lambda: draw_calibration([CalibrationPoints("x", [0.1], [0.1, 0.2], [1])]), "curve 'x': predicted, observed"),
        (lambda: draw_calibration([CalibrationPoints("x", [1.1], [0.1], [1])]), "shares from 0 to 1"),
        (lambda: draw_calibration([CalibrationPoints("x", [0.1], [0.1], [0])]), "a patient in every bin"),
        (lambda: draw_decision_curve([0.1], [], [0.1]), "found 0"),
        (lambda: draw_decision_curve([0.1], [DecisionCurve("x", [0.1, 0.2])], [0.1]), r"must be \(T,\)"),
        (lambda: draw_decision_curve([0.1], [DecisionCurve("x", [np.nan])], [0.1]), "not finite"),
        (lambda: draw_forest([], name="x"), "no rows"),
        (lambda: draw_forest([ForestRow("x", 1, 2, 0)], name="x"), "row 'x': 1, 2 to 0; expected finite, low first"),
    ],
)
def test_what_is_refused(draw, words):
    with pytest.raises(ConfigError, match=words):
        draw()
