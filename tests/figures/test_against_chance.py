"""What is drawn beside chance is what was given."""

from __future__ import annotations

import numpy as np
import pytest

from wsikit.errors import ConfigError
from wsikit.figures.against_chance import draw_against_chance


def test_everything_is_on_the_axis():
    random = np.random.default_rng(0).normal(0.5, 0.05, 200)
    figure = draw_against_chance(
        0.8, chance=0.5, name="AUC $1", interval=(0.7, 0.9), random=random, others={"probe": 0.95}
    )
    (axes,) = figure.axes
    lines = {line.get_label(): line.get_xdata() for line in axes.lines}
    assert list(lines["here: 0.80"]) == [0.8]
    assert list(lines["probe: 0.95"]) == [0.95, 0.95]
    assert [0.7, 0.9] in [list(line.get_xdata()) for line in axes.lines]
    bars = [patch for patch in axes.patches if patch.get_height() > 0]
    weights = np.array([bar.get_height() for bar in bars])
    middles = np.array([bar.get_x() + bar.get_width() / 2 for bar in bars])
    assert (middles * weights).sum() / weights.sum() == pytest.approx(random.mean(), abs=0.01)
    low, high = axes.get_xlim()
    assert low < random.min()
    assert high > 0.95
    figure.canvas.draw()
    draw_against_chance(0.5, chance=0.5, name="AUC").canvas.draw()
    with pytest.raises(ConfigError, match="1 of the numbers to draw are not finite"):
        draw_against_chance(float("nan"), chance=0.5, name="AUC")
