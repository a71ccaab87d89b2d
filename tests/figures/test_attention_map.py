"""Attention maps: the average tile is the middle of the scale, whatever the model."""

from __future__ import annotations

import numpy as np
import pytest

from wsikit.figures.attention_map import attention_limits, attention_positions, draw_attention_map
from wsikit.figures.tile_map import score_colours


def test_scale_is_logarithmic_around_the_average():
    found = attention_positions(np.array([1 / 16, 1 / 4, 1, 2, 4, 0, 100]), (1 / 16, 4.0))
    assert found == pytest.approx([0, 0.25, 0.5, 0.75, 1, 0, 1])


def test_ends_are_powers_of_two_and_wide_enough():
    assert attention_limits(np.ones(100)) == (0.5, 2.0)
    assert attention_limits(np.array([0.0] * 99 + [100.0])) == (1 / 64, 64.0)
    assert attention_limits(np.geomspace(0.1, 10, 1000)) == (1 / 16, 16.0)


@pytest.mark.parametrize("size", [(300, 900), (900, 300), (64, 64)])
@pytest.mark.parametrize("limits", [(0.5, 2.0), (1 / 64, 4096.0)])
def test_tiles_and_bar_have_their_colours_in_any_shape(size, limits):
    rgb = np.full((*size, 3), 255, np.uint8)
    boxes = np.array([[0, 0, size[1] / 2, size[0] / 2]])
    picture = draw_attention_map(rgb, boxes, np.array([limits[1]]), limits=limits)
    factor = max(1, 480 / max(size))
    height, width = round(size[0] * factor), round(size[1] * factor)
    cell = (picture.shape[1] - 20) // 2
    assert cell == max(width, 380)
    left = cell + 20 + (cell - width) // 2
    top = score_colours(np.array([1.0]))[0]
    assert np.abs(picture[height // 4, left + width // 4] - (0.65 * top + 0.35 * 255)).max() <= 1
    assert (picture[height // 2 + 9 :, : cell // 2][:5] == 255).all()
    bar = picture[height + 12, cell + 20 :]
    assert (bar[29] == score_colours(np.array([1.5 / (cell - 56)]))[0]).all()
    assert np.abs(bar[cell - 30].astype(int) - top).max() <= 3
    words = picture[height + 30 :, cell + 20 :]
    assert (words < 128).any()
    assert (words[:, [0, 1, -2, -1]] == 255).all(), "no label is cut off"


def test_scale_bar_is_on_the_slide_only():
    rgb, boxes = np.full((500, 500, 3), 128, np.uint8), np.zeros((0, 4))
    with_bar = draw_attention_map(rgb, boxes, np.ones(0), limits=(0.5, 2.0), um_per_px=1.0)
    without = draw_attention_map(rgb, boxes, np.ones(0), limits=(0.5, 2.0))
    assert (with_bar[:, :500] != without[:, :500]).any()
    assert (with_bar[:, 500:] == without[:, 500:]).all()
