"""Tuning figures: every trial is where its value and its setting are, and the best is the same point everywhere."""

from __future__ import annotations

import numpy as np
import pytest

from wsikit.errors import ConfigError
from wsikit.figures.tuning import TuningHistory, draw_tuning

VALUE = [0.6, np.nan, 0.8, 0.7, 0.75, 0.65, 0.5, 0.72]
RATE = [1e-3, 1e-4, 5e-3, 1e-2, 2e-3, 3e-4, 0.1, 7e-3]
KIND = ["a", None, "b", "a", True, "b", "a", "b"]


def drawn(**more):
    history = TuningHistory(VALUE, {"rate": RATE, "kind": KIND, "width": [64, 128] * 4}, ("rate",), "fold 1")
    return draw_tuning(history, name="AUC", **more)


def test_points_are_the_trials_and_the_best_is_marked_in_every_picture():
    course, rate, kind, width = drawn().axes
    so_far, points, best = course.lines
    assert so_far.get_ydata().tolist() == [0.6, 0.6, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8]
    assert points.get_xdata().tolist() == list(range(1, 9))
    assert best.get_xydata().tolist() == [[3, 0.8]]
    assert rate.get_xscale() == "log"
    assert rate.lines[0].get_xdata().tolist() == RATE
    assert rate.lines[1].get_xydata().tolist() == [[5e-3, 0.8]]
    assert [t.get_text() for t in kind.get_xticklabels()] == ["a", "None", "b", "True"]
    assert kind.lines[1].get_xydata().tolist() == [[2, 0.8]]
    assert [t.get_text() for t in width.get_xticklabels()] == ["64", "128"]
    assert [a.get_xlabel() for a in (course, rate, kind, width)] == ["trial", "rate", "kind", "width"]
    assert len({a.get_ylim() for a in (course, rate, kind, width)}) == 1


def test_of_a_loss_the_lowest_is_best():
    so_far, _, best = drawn(lower=True).axes[0].lines
    assert so_far.get_ydata().tolist() == [0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.5, 0.5]
    assert best.get_xydata().tolist() == [[7, 0.5]]


@pytest.mark.parametrize("settings", [0, 1, 2, 5, 8])
def test_nothing_leaves_the_paper_or_lies_upon_another(settings):
    names = {f"a_rather_long_setting_{i}": RATE for i in range(settings)}
    history = TuningHistory(VALUE, names, (), "repeat 2, fold 3: trial 3 of 8 was chosen, as nothing else was better")
    figure = draw_tuning(history, name="Harrell's C on inner folds")
    figure.canvas.draw()
    boxes = [(t.get_text(), t.get_window_extent()) for t in figure.texts]
    boxes += [(a.get_xlabel(), a.xaxis.label.get_window_extent()) for a in figure.axes]
    boxes += [("axes", a.get_window_extent()) for a in figure.axes]
    for number, (name, box) in enumerate(boxes):
        assert box.x0 >= 0, name
        assert box.x1 <= figure.bbox.width, name
        assert box.y0 >= 0, name
        assert box.y1 <= figure.bbox.height, name
        assert not any(box.overlaps(other) for _, other in boxes[:number]), name


def test_what_cannot_be_drawn_is_named():
    with pytest.raises(ConfigError, match="no trial with a value"):
        draw_tuning(TuningHistory([np.nan], {}), name="AUC")
    with pytest.raises(ConfigError, match="2 values of 'rate', expected 1"):
        draw_tuning(TuningHistory([0.5], {"rate": [1, 2]}), name="AUC")
