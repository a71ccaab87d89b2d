"""Kaplan-Meier figures: the curve, the counts below their ticks, and room for every word."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.colors import to_hex

from wsikit.errors import ConfigError
from wsikit.figures.kaplan_meier import KaplanMeierGroup, draw_kaplan_meier
from wsikit.figures.look import COLOURS, text_inches, wrap_text


def random_group(name, patients, scale, seed=0):
    rng = np.random.default_rng([seed, patients])
    death, leave = rng.exponential(scale, patients), rng.uniform(5, 100, patients)
    return KaplanMeierGroup(name, np.minimum(death, leave), death <= leave)


def test_curve_is_the_product_of_the_survivors_shares():
    figure = draw_kaplan_meier([KaplanMeierGroup("a", [2, 4, 4, 6, 7, 9], [1, 1, 1, 0, 1, 0])], unit="years")
    curve, censored = figure.axes[0].lines
    assert curve.get_drawstyle() == "steps-post"
    at = dict(zip(curve.get_xdata().tolist(), curve.get_ydata().tolist(), strict=True))
    expected = {0: 1, 2: 5 / 6, 4: 5 / 6 * 3 / 5, 6: 1 / 2, 7: 1 / 2 * 1 / 2, 9: 1 / 4}
    assert at == pytest.approx(expected)
    assert censored.get_xdata().tolist() == [6, 9]
    assert censored.get_ydata() == pytest.approx([1 / 2, 1 / 4])


def test_band_is_greenwoods_on_the_log_log_scale():
    group = random_group("a", 80, 40)
    figure = draw_kaplan_meier([group], unit="months")
    at = 30.0
    deaths = np.unique(group.time[group.event & (group.time <= at)])
    n = np.array([(group.time >= t).sum() for t in deaths])
    survival = np.prod(1 - 1 / n)
    half = 1.959964 * np.sqrt((1 / (n * (n - 1))).sum()) / abs(np.log(survival))
    low, high = survival ** np.exp(half), survival ** np.exp(-half)
    corners = figure.axes[0].collections[0].get_paths()[0].vertices
    inside = corners[(corners[:, 0] > deaths[-1]) & (corners[:, 0] <= at)]
    assert inside[:, 1].min() == pytest.approx(low, abs=1e-6)
    assert inside[:, 1].max() == pytest.approx(high, abs=1e-6)


def test_numbers_at_risk_stand_below_their_ticks():
    groups = [random_group("low", 60, 80), random_group("high", 70, 20)]
    figure = draw_kaplan_meier(groups, unit="months")
    axes = figure.axes[0]
    ticks = axes.get_xticks()
    assert set(np.diff(ticks)) == {24.0}  # years
    numbers = [text for text in axes.texts if text.get_text().isdigit()]
    assert len(numbers) == 2 * len(ticks)
    figure.canvas.draw()
    tops = []
    for group, row in zip(groups, (numbers[: len(ticks)], numbers[len(ticks) :]), strict=True):
        assert [int(text.get_text()) for text in row] == [(group.time >= tick).sum() for tick in ticks]
        for text, tick in zip(row, ticks, strict=True):
            box = text.get_window_extent()
            assert (box.x0 + box.x1) / 2 == pytest.approx(axes.transData.transform((tick, 0))[0], abs=2)
        tops.append(row[0].get_window_extent().y1)
    assert tops[0] > tops[1]
    assert tops[0] < axes.get_tightbbox().y1


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("words", [1, 14])
def test_nothing_overlaps_and_nothing_leaves_the_paper(groups, words):
    drawn = [random_group(" ".join(["Gruppe"] * words) + f" {i}", 20 + i, 30 + 9 * i) for i in range(groups)]
    figure = draw_kaplan_meier(drawn, unit="days", title="Survival " * words, note="log-rank p = 0.03 " * words)
    figure.canvas.draw()
    axes = figure.axes[0]
    texts = [*figure.texts, *axes.texts, *figure.legends[0].texts]
    texts += [axes.xaxis.label, axes.yaxis.label, *axes.get_xticklabels(), *axes.get_yticklabels()]
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts if text.get_text()]
    for number, (name, box) in enumerate(boxes):
        assert box.x0 >= 0, name
        assert box.x1 <= figure.bbox.width, name
        assert box.y0 >= 0, name
        assert box.y1 <= figure.bbox.height, name
        for other, its in boxes[:number]:
            # Line spacing inside a font's box is no ink: two rows may touch, and may not run into one another.
            apart = box.x1 <= its.x0 or its.x1 <= box.x0 or box.y1 <= its.y0 + 3 or its.y1 <= box.y0 + 3
            assert apart, (name, other)
    legend = figure.legends[0].get_window_extent()
    assert legend.y0 > axes.get_window_extent().y1


def test_every_group_has_its_colour_dashes_and_count():
    groups = [random_group(f"g{i}", 20 + i, 40) for i in range(6)]
    figure = draw_kaplan_meier(groups, unit="months")
    curves = figure.axes[0].lines[::2]
    assert [to_hex(curve.get_color()).upper() for curve in curves] == list(COLOURS)
    assert len({str(curve._unscaled_dash_pattern) for curve in curves}) == 6
    legend = [text.get_text() for text in figure.legends[0].texts]
    assert legend[3] == f"g3  (23 patients, {int(groups[3].event.sum())} events)"


def test_without_events_and_in_every_file_format(tmp_path):
    figure = draw_kaplan_meier([KaplanMeierGroup("all", [1, 2, 3], [0, 0, 0])], unit="years", title="no event")
    assert set(figure.axes[0].lines[0].get_ydata()) == {1.0}
    for name, head in (("a.png", b"\x89PNG"), ("a.pdf", b"%PDF"), ("a.svg", b"<?xml")):
        figure.savefig(tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(head)


def test_text_is_wrapped_by_its_width():
    text = "iiii WWWW " * 12
    lines = wrap_text(text, inches=2, points=12)
    assert " ".join(lines).split() == text.split()
    assert max(text_inches(line, points=12) for line in lines) <= 2
    assert text_inches("WWWW", points=12) > 2 * text_inches("iiii", points=12)
    assert text_inches("WWWW", points=12, bold=True) > text_inches("WWWW", points=12)
    assert "".join(wrap_text("x" * 99, inches=1, points=12)) == "x" * 99  # a word that is too long is broken
    assert wrap_text("", inches=1, points=12) == []


def test_no_window_is_opened(tmp_path, monkeypatch):
    """With a window toolkit asked for and no display, drawing works all the same."""
    monkeypatch.setenv("MPLBACKEND", "TkAgg")
    monkeypatch.delenv("DISPLAY", raising=False)
    code = (
        "import sys\nfrom wsikit.figures.kaplan_meier import *\ng = KaplanMeierGroup('a', [1, 2], [1, 0])\n"
        "draw_kaplan_meier([g], unit='years').savefig(sys.argv[1])\nassert 'tkinter' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "a.png"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("groups", "match"),
    [
        ([], "one to 6 groups.*found 0"),
        ([KaplanMeierGroup("a", [1, 2], [1])], r"group 'a'.*found shapes \(2,\) and \(1,\)"),
        ([KaplanMeierGroup("a", [], [])], "group 'a'.*at least one patient"),
        ([KaplanMeierGroup("a", [0, 2], [1, 1])], "group 'a': every time must be above 0 and finite; the lowest is 0"),
        ([KaplanMeierGroup("a", [1, 2], [1, 2])], r"group 'a': every event must be 0 or 1; found \[1.0, 2.0\]"),
    ],
)
def test_what_is_refused(groups, match):
    with pytest.raises(ConfigError, match=match):
        draw_kaplan_meier(groups, unit="months")
