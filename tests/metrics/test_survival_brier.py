"""The Brier score of survival: the plain one without censoring, and the same on average with it."""

from __future__ import annotations

import numpy as np
import pytest

from wsikit.errors import ConfigError
from wsikit.metrics import UndefinedMetricError, brier_score, survival_brier


def planted(n, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    return 1 - np.exp(-0.7 * np.exp(x)), rng.exponential(np.exp(-x)), rng.exponential(1.2, n)


def test_without_censoring_it_is_the_plain_one():
    risk, time, _ = planted(300)
    assert survival_brier(risk, time, np.ones(300, bool), at=0.7) == pytest.approx(brier_score(risk, time <= 0.7))


def test_censoring_of_half_the_patients_moves_it_by_chance_only():
    risk, time, censored = planted(60000)
    event = time <= censored
    assert 0.3 < (~event).mean() < 0.6
    whole = brier_score(risk, time <= 0.7)
    assert survival_brier(risk, np.minimum(time, censored), event, at=0.7) == pytest.approx(whole, abs=0.003)
    naive = np.mean((risk - (event & (time <= 0.7))) ** 2)  # the censored taken for well
    assert abs(naive - whole) > 0.02


def test_the_weights_are_those_of_the_formula_with_ties():
    """An event at the time of a censoring comes before it; whoever is censored before the time has weight 0."""
    time, event = np.array([1.0, 2, 2, 3, 4, 5]), np.array([1, 0, 1, 0, 1, 1])
    risk = np.array([0.7, 0.5, 0.6, 0.2, 0.3, 0.1])
    after_2 = 3 / 4  # four are left after the event of time 2, one of whom is censored then
    expected = (0.3**2 + 0.4**2 + (0.2**2 + 0.3**2 + 0.1**2) / after_2) / 6
    assert survival_brier(risk, time, event, at=2.5) == pytest.approx(expected)


def test_what_is_not_defined_and_what_is_wrong():
    with pytest.raises(UndefinedMetricError, match="no patient was followed to 9; the longest is 3"):
        survival_brier([0.1, 0.2], [2, 3], [1, 0], at=9)
    assert survival_brier([0.1, 0.2], [2, 3], [1, 1], at=9) == pytest.approx((0.81 + 0.64) / 2)
    with pytest.raises(UndefinedMetricError, match="no patients"):
        survival_brier([], [], [], at=1)
    with pytest.raises(ConfigError, match=r"risks of 0.1 to 1.2; expected probabilities"):
        survival_brier([0.1, 1.2], [2, 3], [1, 0], at=1)
