"""Overlay pictures show what they are given, where it is."""

from __future__ import annotations

import numpy as np

from wsikit.figures.overlay import BAD, TILE, TISSUE, draw_overlay, draw_placard
from wsikit.figures.tile_map import draw_tile_map, feature_colours, score_colours


def near(picture, colour, tolerance=40):
    return np.abs(picture.astype(int) - np.array(colour)).max(axis=2) < tolerance


def test_outline_runs_round_the_tissue_and_glass_is_dimmed():
    rgb = np.full((600, 800, 3), 200, np.uint8)
    mask = np.zeros((75, 100), bool)
    mask[20:40, 30:60] = True
    picture = draw_overlay(rgb, mask, title="a")
    outline = near(picture[:600], TISSUE)
    rows, cols = np.nonzero(outline)
    assert abs(rows.min() - 160) < 6
    assert abs(rows.max() - 320) < 6
    assert abs(cols.min() - 240) < 6
    assert abs(cols.max() - 480) < 6
    assert (picture[200:280, 300:420] == 200).all()  # tissue as it is
    assert picture[50, 50].tolist() != [200, 200, 200]


def test_tiles_are_boxed_in_their_place():
    rgb = np.full((600, 800, 3), 255, np.uint8)
    picture = draw_overlay(rgb, None, np.array([[100.0, 200.0, 50.0, 50.0]]), title="a")
    blue = near(picture[:600], np.array(TILE) * 0.6 + 255 * 0.4, 12)
    rows, cols = np.nonzero(blue)
    assert (rows.min(), rows.max(), cols.min(), cols.max()) == (200, 250, 100, 150)


def test_scale_bar_has_its_length():
    rgb = np.full((600, 800, 3), 128, np.uint8)
    bar = draw_overlay(rgb, title="a", um_per_px=10.0)[580:590, :500]  # 30 % of 8 mm: the bar is 2 mm = 200 px
    dark = (bar.max(axis=2) < 60).sum(axis=1)
    assert abs(int(dark.max()) - 200) <= 2


def test_refusals_look_like_refusals_and_long_reasons_fit():
    words = "no usable micrometres per pixel " * 20 + "x" * 300
    short, long = draw_placard("a", ["b"]), draw_placard("a", [words])
    assert near(short, BAD).any()
    assert long.shape[0] > short.shape[0] + 100
    assert long.shape[1] == short.shape[1]
    margin = long[120:, -20:]
    assert (margin > 200).all()  # nothing runs over the edge


def test_small_thumbnails_are_enlarged():
    assert min(draw_overlay(np.zeros((40, 60, 3), np.uint8), title="a").shape[:2]) >= 320


def test_tile_map_tints_each_tile_with_its_colour():
    rgb = np.full((40, 40, 3), 255, np.uint8)
    boxes = np.array([[0, 0, 20, 20], [20, 20, 20, 20]], float)
    colours = np.array([[255, 0, 0], [0, 0, 255]], np.uint8)
    picture = draw_tile_map(rgb, boxes, colours, opacity=1.0)
    assert (picture[:20, :20] == [255, 0, 0]).all()
    assert (picture[20:, 20:] == [0, 0, 255]).all()
    assert (picture[:20, 20:] == 255).all()


def test_colours_of_scores_and_features_say_what_they_should():
    low, high = score_colours(np.array([0.0, 1.0])).astype(int)
    assert low[2] > low[0]
    assert high[0] > high[2]
    x = np.concatenate([np.random.default_rng(0).normal(c, 0.1, (20, 5)) for c in (0, 5)])
    colours = feature_colours(x).astype(int)
    apart = np.abs(colours[:20, 0].mean() - colours[20:, 0].mean())
    assert apart > 80  # two kinds of tiles have two colours
