"""The curve that is drawn is the one that was given."""

from __future__ import annotations

import numpy as np
import pytest

from wsikit.errors import ConfigError
from wsikit.figures.detection_curve import draw_detection_curve


def test_points_and_intervals_are_drawn():
    figure = draw_detection_curve([0.01, 0.1], [0.6, 0.9], [[0.5, 0.75], [0.8, 0.95]], control=(0.51, 0.4, 0.62))
    (axes,) = figure.axes
    points = next(line for line in axes.lines if line.get_marker() == "o")
    np.testing.assert_allclose(points.get_xydata(), [[1, 0.6], [10, 0.9]])
    (bars,) = axes.collections
    np.testing.assert_allclose([part[:, 1] for part in bars.get_segments()], [[0.5, 0.75], [0.8, 0.95]])
    (band,) = axes.patches
    assert (band.get_y(), band.get_y() + band.get_height()) == (0.4, pytest.approx(0.62))
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1 %", "10 %"]
    figure.canvas.draw()


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="interval \\(S, 2\\)"):
        draw_detection_curve([0.1], [0.5], [0.4, 0.6], control=(0.5, 0.4, 0.6))
    with pytest.raises(ConfigError, match="shares above 0"):
        draw_detection_curve([0.0], [0.5], [[0.4, 0.6]], control=(0.5, 0.4, 0.6))
