"""Predicted against true: both axes alike, every patient on the paper."""

from __future__ import annotations

import numpy as np
import pytest

from wsikit.errors import ConfigError
from wsikit.figures.scatter import draw_scatter


def test_axes_are_alike_and_hold_every_point():
    true, predicted = np.array([40.0, 80.0, 55.0]), np.array([60.0, 20.0, 90.0])
    figure = draw_scatter(true, predicted, name="age ($x$)", title="Age " * 30, note="Three patients " * 20)
    axes = figure.axes[0]
    assert axes.get_xlim() == axes.get_ylim()
    assert axes.get_xlim()[0] < 20
    assert axes.get_xlim()[1] > 90
    assert axes.lines[1].get_xydata().tolist() == np.stack([true, predicted], 1).tolist()
    assert (np.diff(axes.lines[0].get_xydata(), axis=1) == 0).all(), "the dashed line is that of equality"
    figure.canvas.draw()
    box = axes.get_window_extent()
    assert box.width == pytest.approx(box.height)
    for text in (*figure.texts, axes.xaxis.label, axes.yaxis.label):
        extent = text.get_window_extent()
        assert 0 <= extent.x0 <= extent.x1 <= figure.bbox.width
        assert 0 <= extent.y0 <= extent.y1 <= figure.bbox.height
    assert axes.xaxis.label.get_text() == "True age ($x$)"
    assert not axes.xaxis.label.get_parse_math()


def test_equal_values_can_be_drawn():
    assert draw_scatter([2.0], [2.0], name="grade").axes[0].get_xlim() == (1.5, 2.5)


@pytest.mark.parametrize(
    ("true", "predicted", "match"),
    [([1, 2], [1], r"found shapes \(2,\) and \(1,\)"), ([], [], "not empty"), ([1, np.nan], [1, 2], "1 pair")],
)
def test_what_is_refused(true, predicted, match):
    with pytest.raises(ConfigError, match=match):
        draw_scatter(true, predicted, name="grade")
