"""Training curves: every model in its fold's picture, on shared axes, and nothing in anything's way."""

from __future__ import annotations

import numpy as np
import pytest

from wsikit.errors import ConfigError
from wsikit.figures.training_curves import TrainingCurve, draw_training_curves


def curves(folds=5, models=3, epochs=20):
    rng = np.random.default_rng(0)
    return [
        TrainingCurve(f"fold {f + 1}", *rng.random((2, epochs)), kept=1 + (f + m) % epochs)
        for f in range(folds)
        for m in range(models)
    ]


def test_every_curve_is_in_its_picture_with_the_epoch_that_was_kept():
    drawn = curves()
    figure = draw_training_curves(drawn)
    assert [axes.get_title() for axes in figure.axes] == [f"fold {i}" for i in range(1, 6)]
    for number, axes in enumerate(figure.axes):
        mine = drawn[3 * number : 3 * number + 3]
        assert len(axes.lines) == 9
        for curve, (train, validation, kept) in zip(mine, zip(*[iter(axes.lines)] * 3, strict=True), strict=True):
            assert np.array_equal(train.get_ydata(), curve.train)
            assert np.array_equal(validation.get_ydata(), curve.validation)
            assert np.array_equal(train.get_xdata(), np.arange(1, 21))
            assert kept.get_xydata().tolist() == [[curve.kept, curve.validation[curve.kept - 1]]]
    assert len({axes.get_ylim() for axes in figure.axes}) == 1


def test_one_stray_epoch_does_not_flatten_the_others():
    smooth = np.linspace(1, 0.5, 200)
    wild = smooth.copy()
    wild[3] = 1e6
    figure = draw_training_curves([TrainingCurve("fold 1", wild, smooth, kept=200)])
    assert figure.axes[0].get_ylim()[1] < 2


@pytest.mark.parametrize("folds", [1, 2, 5, 12])
@pytest.mark.parametrize("epochs", [1, 40])
def test_nothing_overlaps_and_nothing_leaves_the_paper(folds, epochs):
    figure = draw_training_curves(curves(folds, 2, epochs))
    figure.canvas.draw()
    texts = [*figure.texts, *figure.legends[0].texts]
    for axes in figure.axes:
        texts.append(axes.title)
        low, high = np.transpose([axes.get_xlim(), axes.get_ylim()])  # labels beyond are not drawn
        for labels, i in ((axes.get_xticklabels(), 0), (axes.get_yticklabels(), 1)):
            texts += [label for label in labels if low[i] <= label.get_position()[i] <= high[i]]
    boxes = [(t.get_text(), t.get_window_extent()) for t in texts if t.get_text() and t.get_visible()]
    assert len(boxes) > folds
    inside = [b for b in boxes if b[1].width > 0]
    for number, (name, box) in enumerate(inside):
        assert box.x0 >= 0, name
        assert box.x1 <= figure.bbox.width, name
        assert box.y0 >= 0, name
        assert box.y1 <= figure.bbox.height, name
        for other, its in inside[:number]:
            apart = box.x1 <= its.x0 or its.x1 <= box.x0 or box.y1 <= its.y0 + 3 or its.y1 <= box.y0 + 3
            assert apart, (name, other)


@pytest.mark.parametrize(
    ("drawn", "match"),
    [
        ([], "no training curves"),
        ([TrainingCurve("fold 1", [1, 2], [1], 1)], r"'fold 1'.*found shapes \(2,\) and \(1,\)"),
        ([TrainingCurve("fold 1", [1, 2], [1, 2], 3)], "'fold 1': epoch 3 was kept, and there are 1 to 2"),
    ],
)
def test_what_is_refused(drawn, match):
    with pytest.raises(ConfigError, match=match):
        draw_training_curves(drawn)
