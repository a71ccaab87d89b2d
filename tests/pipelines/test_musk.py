"""MUSK1 as the literature counts it, kept row by row."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import wsikit as wk

SCRIPT = Path(__file__).resolve().parents[2] / "pipelines" / "musk" / "run.py"


@pytest.fixture(scope="module")
def musk():
    """The script as a module: a pipeline is no package."""
    spec = importlib.util.spec_from_file_location("musk_run", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_92_molecules_of_476_shapes(musk, test_data, tmp_path):
    table = np.loadtxt(test_data / "bags" / "musk1.csv", delimiter=",")
    musk.prepare(test_data / "bags" / "musk1.csv", tmp_path)
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


def test_a_molecule_with_two_labels(musk, tmp_path):
    (tmp_path / "two.csv").write_text("1,7,0.5,2\n0,7,1,3\n")
    with pytest.raises(AssertionError, match="molecule-007 has two labels"):
        musk.prepare(tmp_path / "two.csv", tmp_path / "out")
