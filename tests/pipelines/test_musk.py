"""MUSK1 as the literature counts it, kept row by row."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import wsikit as wk
from wsikit.aggregators.registry import AGGREGATORS, create_aggregator
from wsikit.evaluation.result import Round

HERE = Path(__file__).resolve().parents[2] / "pipelines" / "musk"


@pytest.fixture(scope="module")
def scripts():
    """The scripts as modules: a pipeline is no package. Their aggregator is taken out of the registry again."""
    sys.path.insert(0, str(HERE))
    names = ("prepare", "scores", "minn", "run")
    try:
        yield {name: importlib.import_module(name) for name in names}
    finally:
        sys.path.remove(str(HERE))
        for name in names:
            sys.modules.pop(name, None)
        AGGREGATORS._entries.pop("minn", None)


def test_92_molecules_of_476_shapes(scripts, test_data, tmp_path):
    table = np.loadtxt(test_data / "bags" / "musk1.csv", delimiter=",")
    scripts["prepare"].prepare(test_data / "bags" / "musk1.csv", tmp_path)
    store = wk.open_store(tmp_path / "features.zarr")
    lines = (tmp_path / "cohort.csv").read_text().splitlines()[1:]
    labels = {slide: int(label) for slide, _, label in (line.split(",") for line in lines)}
    assert len(labels) == 92
    assert sum(labels.values()) == 47  # as UCI describes it: 47 musks, 45 others
    rows = 0
    for slide, label in labels.items():
        mine = table[table[:, 1] == int(slide.removeprefix("molecule-"))]
        assert (mine[:, 0] == label).all()
        assert np.array_equal(np.asarray(store.bag(slide, encoder="musk").x), mine[:, 2:].astype(np.float16))
        rows += len(mine)
    assert rows == 476


def test_a_molecule_with_two_labels(scripts, tmp_path):
    (tmp_path / "two.csv").write_text("1,7,0.5,2\n0,7,1,3\n")
    with pytest.raises(AssertionError, match="molecule-007 has two labels"):
        scripts["prepare"].prepare(tmp_path / "two.csv", tmp_path / "out")


def test_only_what_needs_places_is_left_out(scripts):
    rows = scripts["run"].ALL
    assert set(wk_names()) - set(rows) == {
        "gat", "gin", "graphsage", "gtp", "hierarchical", "longnet", "patch-gcn", "rrt", "transmil",
    }  # fmt: skip
    assert rows[:3] == ["abmil", "minn-max", "minn-gated"]
    assert len(rows) == len(set(rows))


def wk_names():
    return [name for name in AGGREGATORS.names() if name != "minn"]


@pytest.mark.parametrize("pooling", ["max", "attention", "gated"])
def test_the_literature_network_worked_out_shape_by_shape(scripts, pooling):
    model = create_aggregator("minn", in_dim=6, seed=1, pooling=pooling).eval()
    x, offsets = torch.randn(5, 6, generator=torch.Generator().manual_seed(2)), torch.tensor([0, 2, 5])
    found = model(x, offsets=offsets).embedding
    h = x
    for layer in list(model.project)[0:6:2]:
        h = (h @ layer.weight.T + layer.bias).relu()
    expected = []
    for part in (h[:2], h[2:]):
        if pooling == "max":
            expected.append(part.amax(0))
            continue
        hidden = (part @ model.scores.value.weight.T + model.scores.value.bias).tanh()
        if pooling == "gated":
            hidden = hidden * (part @ model.scores.gate.weight.T + model.scores.gate.bias).sigmoid()
        expected.append((hidden @ model.scores.score.weight.T).softmax(0).T[0] @ part)
    assert torch.allclose(found, torch.stack(expected), atol=1e-6)
    assert found.shape == (2, 64)


def test_accuracies_of_two_dealings(scripts):
    scores = scripts["scores"]
    label = np.array([0, 1] * 20)

    def said(right):
        called = np.where(right, label, 1 - label)
        return np.stack([1 - called, called], 1).astype(float)

    rng = np.random.default_rng(0)
    first, second = rng.permutation(np.arange(40) < 36), rng.permutation(np.arange(40) < 32)
    folds = np.repeat([0, 1], 20)
    good = scores.row_of("good", [Round(said(first), folds), Round(said(second), folds)], label, None)
    assert good.right.mean() == pytest.approx((36 + 32) / 80)
    assert sorted(good.folds) == sorted(part.mean() for right in (first, second) for part in (right[:20], right[20:]))
    same = scores.row_of("same", [Round(said(first), folds), Round(said(second), folds)], label, None)
    poor = scores.row_of("poor", [Round(said(np.arange(40) % 3 == 0), folds)] * 2, label, None)
    (level, _, one), (less, ends, p) = scores.gaps([same, poor], good, label)
    assert (level, one) == (0, 1)
    assert less == pytest.approx(14 / 40 - 34 / 40)
    assert ends.low < less < ends.high < 0
    assert p == pytest.approx(2 * 2 / 2001)  # never on the other side, and two were looked at
    lines = scores.table([good, same, poor], label).splitlines()
    assert lines[2].startswith("| good | 0.850 [")
    assert "accuracy minus good" in lines[0]


@pytest.mark.slow
def test_the_table_of_two_rows(test_data, tmp_path):
    command = [sys.executable, HERE / "run.py", test_data / "bags" / "musk1.csv", "--out", tmp_path]
    done = subprocess.run([*command, "--aggregators", "mean", "lse"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.findall(r"^\| (.+?) \| (\S+) \[", (tmp_path / "table.md").read_text(), re.MULTILINE)
    assert [name for name, _ in found] == ["mean", "lse", "linear probe on the mean shape"]
    assert min(float(value) for _, value in found) > 0.7  # half of the molecules are musk
    assert "same content" not in done.stdout  # molecules of as many shapes are not one molecule
