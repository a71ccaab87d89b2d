"""The curves that are drawn are those that were given."""

from __future__ import annotations

import numpy as np
import pytest

from wsikit.errors import ConfigError
from wsikit.figures.removal_curves import draw_removal_curves


def test_lines_are_the_curves():
    share = [0.0, 0.4, 0.8]
    figure = draw_removal_curves(share, [1, 0.3, 0.1], [1, 0.9, 0.8], [[1, 0.6, 0.4], [1, 0.8, 0.2]], name="risk $x")
    (axes,) = figure.axes
    lines = {line.get_label(): line for line in axes.lines}
    np.testing.assert_allclose(lines["highest first"].get_xydata(), [[0, 1], [40, 0.3], [80, 0.1]])
    np.testing.assert_allclose(lines["lowest first"].get_ydata(), [1, 0.9, 0.8])
    np.testing.assert_allclose(lines["random, mean"].get_ydata(), [1, 0.7, 0.3])
    (band,) = axes.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (0.2, 1)
    assert axes.get_ylabel() == "risk $x"
    figure.canvas.draw()


def test_curves_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="random \\(R, S\\) with R of at least 1"):
        draw_removal_curves([0, 1], [1, 0], [1, 0], np.zeros((0, 2)), name="risk")
    with pytest.raises(ConfigError, match="not finite"):
        draw_removal_curves([0, 1], [1, np.nan], [1, 0], [[1, 0]], name="risk")
