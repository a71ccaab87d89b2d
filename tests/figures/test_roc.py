"""ROC figures: folds are never mixed, and the mean is the mean."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from wsikit.errors import ConfigError
from wsikit.figures.roc import RocCurve, draw_roc


def folds_of_one_model(seed=0, patients=200, folds=5):
    rng = np.random.default_rng(seed)
    positive, fold = rng.random(patients) < 0.4, np.arange(patients) % folds
    return np.round(rng.normal(size=patients) + positive, 1), positive, fold


def lines_of(figure):
    """(thin, bold) curves as (M, 2) arrays."""
    curves = [line for line in figure.axes[0].lines[1:] if len(line.get_xdata())]
    return tuple(
        [np.stack(line.get_data(), axis=1) for line in curves if (line.get_linewidth() > 2) == bold]
        for bold in (False, True)
    )


def area(curve):
    return np.trapezoid(curve[:, 1], curve[:, 0])


def test_thin_lines_are_the_folds_and_the_bold_line_is_their_mean():
    score, positive, fold = folds_of_one_model()
    thin, bold = lines_of(draw_roc([RocCurve("a", score, positive, fold)]))
    aucs = [roc_auc_score(positive[fold == f], score[fold == f]) for f in range(5)]
    assert [area(curve) for curve in thin] == pytest.approx(aucs, abs=1e-12)
    assert len(bold) == 1
    assert area(bold[0]) == pytest.approx(np.mean(aucs), abs=1e-12)
    assert bold[0][[0, -1]].tolist() == [[0, 0], [1, 1]]
    assert (np.diff(bold[0], axis=0) >= -1e-12).all()


def test_one_fold_is_its_own_mean():
    score, positive = [0.1, 0.4, 0.3, 0.8, 0.4], [0, 0, 1, 1, 1]
    thin, bold = lines_of(draw_roc([RocCurve("a", score, positive, np.zeros(5))]))
    corners = [[0, 0], [0, 1 / 3], [1 / 2, 2 / 3], [1 / 2, 1], [1, 1]]
    assert thin[0] == pytest.approx(np.array(corners))
    assert np.unique(bold[0], axis=0) == pytest.approx(np.array(corners))


def test_each_model_may_have_its_own_scale():
    score, positive, fold = folds_of_one_model(1)
    shifted = score * np.array([1, 4, 0.1, 9, 2])[fold] + np.array([0, 50, -3, 7, 1])[fold]
    _, plain = lines_of(draw_roc([RocCurve("a", score, positive, fold)]))
    _, moved = lines_of(draw_roc([RocCurve("a", shifted, positive, [f"fold {f}" for f in fold])]))
    assert moved[0] == pytest.approx(plain[0], abs=1e-9)


def test_folds_of_one_class_are_named_in_the_legend():
    score, positive, fold = folds_of_one_model(2)
    positive[fold == 3] = True
    figure = draw_roc([RocCurve("ABMIL", score, positive, fold, "AUC 0.76")])
    thin, _ = lines_of(figure)
    assert len(thin) == 4
    legend = [text.get_text() for text in figure.legends[0].texts]
    assert legend[0] == "ABMIL  AUC 0.76  (1 of 5 folds have one class only)"


@pytest.mark.parametrize("curves", [1, 6])
@pytest.mark.parametrize("words", [1, 12])
def test_nothing_overlaps_and_nothing_leaves_the_paper(curves, words, tmp_path):
    drawn = [RocCurve("Model " * words + str(i), *folds_of_one_model(i), "AUC 0.76 (0.70–0.81)") for i in range(curves)]
    figure = draw_roc(drawn, title="Metastasis " * words)
    figure.canvas.draw()
    axes = figure.axes[0]
    texts = [*figure.texts, *figure.legends[0].texts, axes.xaxis.label, axes.yaxis.label]
    texts += [*axes.get_xticklabels(), *axes.get_yticklabels()]
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts if text.get_text()]
    for number, (name, box) in enumerate(boxes):
        assert box.x0 >= 0, name
        assert box.x1 <= figure.bbox.width, name
        assert box.y0 >= 0, name
        assert box.y1 <= figure.bbox.height, name
        for other, its in boxes[:number]:
            apart = box.x1 <= its.x0 or its.x1 <= box.x0 or box.y1 <= its.y0 + 3 or its.y1 <= box.y0 + 3
            assert apart, (name, other)
    axes_box = axes.get_window_extent()
    assert axes_box.width == pytest.approx(axes_box.height)
    figure.savefig(tmp_path / "roc.png")
    assert (tmp_path / "roc.png").stat().st_size > 20_000


@pytest.mark.parametrize(
    ("curves", "match"),
    [
        ([], "one to 6 curves.*found 0"),
        ([RocCurve("a", [1, 2], [0, 1], [0])], r"curve 'a'.*found shapes \(2,\), \(2,\) and \(1,\)"),
        ([RocCurve("a", [1, np.nan], [0, 1], [0, 0])], r"curve 'a': 1 score\(s\) are not finite"),
        ([RocCurve("a", [1, 2], [0, 2], [0, 0])], "curve 'a': positive must be 0 or 1"),
        ([RocCurve("a", [1, 2], [0, 1], [0, 1])], "curve 'a': none of its 2 folds has both classes"),
    ],
)
def test_what_is_refused(curves, match):
    with pytest.raises(ConfigError, match=match):
        draw_roc(curves)


def test_folds_of_some_curves_only():
    model, other = (RocCurve(name, *folds_of_one_model(i), thin=i == 0) for i, name in enumerate(("$a$ model", "b")))
    figure = draw_roc([model, other])
    thin, bold = lines_of(figure)
    assert (len(thin), len(bold)) == (5, 2)
    legend = figure.legends[0].texts
    assert legend[-1].get_text() == "thin: each fold of $a$ model; bold: mean of the folds"
    assert not legend[0].get_parse_math()
    assert [t.get_text() for t in draw_roc([other]).legends[0].texts][-1] == "mean of the folds"
