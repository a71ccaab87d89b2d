"""The planted patients: equal tiles, other places, and a run of which the order-blind model comes out at chance."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import wsikit as wk

HERE = Path(__file__).resolve().parents[2] / "pipelines" / "arrangement"


@pytest.fixture(scope="module")
def planted():
    """The script as a module: a pipeline is no package."""
    sys.path.insert(0, str(HERE))
    try:
        import prepare
    finally:
        sys.path.remove(str(HERE))
    yield prepare
    del sys.modules["prepare"]


def touching(kind):
    """Pairs of rare tiles with a side in common."""
    rare = kind == 0
    return int((rare[1:] & rare[:-1]).sum() + (rare[:, 1:] & rare[:, :-1]).sum())


def test_nests_and_the_same_tiles_scattered(planted):
    cohort = planted.draw(40, seed=3)
    for scattered, nested in zip(cohort[::2], cohort[1::2], strict=True):
        assert (scattered.nested, nested.nested) == (0, 1)
        assert scattered.composition == nested.composition
        counts = [np.bincount(p.kind.ravel(), minlength=planted.KINDS).tolist() for p in (scattered, nested)]
        assert counts[0] == counts[1]
        low, high = planted.MANY if nested.composition else planted.FEW
        assert low <= counts[0][0] <= high
        assert np.ptp(counts[0][1:]) <= 1
        # a nest grows side by side: every rare tile but the seeds touches one that was there before
        assert touching(nested.kind) >= counts[0][0] - planted.NESTS
        assert touching(nested.kind) > touching(scattered.kind)
    assert [sum(p.composition == a and p.nested == b for p in cohort) for a in (0, 1) for b in (0, 1)] == [10] * 4
    others = planted.draw(40, seed=4)
    again = planted.draw(40, seed=3)
    assert all(np.array_equal(a.x, b.x) and np.array_equal(a.kind, b.kind) for a, b in zip(cohort, again, strict=True))
    assert not any(np.array_equal(a.kind, b.kind) for a, b in zip(cohort, others, strict=True))


def test_features_tell_the_kinds_and_nothing_of_the_places(planted):
    cohort = planted.draw(200, seed=1)
    x, kind = np.concatenate([p.x for p in cohort]), np.concatenate([p.kind.ravel() for p in cohort])
    means = np.stack([x[kind == k].mean(0) for k in range(planted.KINDS)])
    nearest = ((x[:, None] - means) ** 2).sum(-1).argmin(1)
    assert (nearest == kind).mean() > 0.85
    left = np.concatenate([np.tile(np.arange(planted.SIDE) < planted.SIDE // 2, planted.SIDE) for _ in cohort])
    nested = np.repeat([p.nested == 1 for p in cohort], planted.SIDE**2)
    for group in (left, nested):  # means of tiles of one kind are alike, wherever and in whomever they are
        for k in range(planted.KINDS):
            mine, other = x[(kind == k) & group], x[(kind == k) & ~group]
            spread = np.sqrt(1 / len(mine) + 1 / len(other))
            assert np.abs(mine.mean(0) - other.mean(0)).max() < 5 * spread


def test_store_keeps_every_tile_at_its_place(planted, tmp_path):
    cohort = planted.draw(4, seed=0)
    planted.write(cohort, tmp_path)
    store = wk.open_store(tmp_path / "features.zarr")
    for patient in cohort:
        bag = store.bag(patient.patient_id, encoder="planted")
        column, row = (bag.coords // planted.TILE_PX).T
        assert np.array_equal(np.asarray(bag.x), patient.x[row * planted.SIDE + column].astype(np.float16))
        assert sorted(zip(row, column, strict=True)) == [(i, j) for i in range(12) for j in range(12)]
    lines = (tmp_path / "cohort.csv").read_text().splitlines()
    assert lines == ["slide_id,patient_id,composition,nested"] + [
        f"{p.patient_id},{p.patient_id},{p.composition},{p.nested}" for p in cohort
    ]


@pytest.mark.parametrize("patients", [0, 6])
def test_labels_can_only_be_balanced_in_fours(planted, patients):
    with pytest.raises(ValueError, match=f"patients={patients}; expected a multiple of 4"):
        planted.draw(patients, seed=0)


@pytest.mark.slow
def test_graph_sees_nests_and_the_mean_does_not(tmp_path):
    command = [sys.executable, HERE / "run.py", "--out", tmp_path, "--models", "mean", "graphsage"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    number = r"(\S+) \[(\S+), (\S+)\]"
    lines = re.finditer(rf"^\| (mean|graphsage) \| {number} \| {number} \|$", done.stdout, re.MULTILINE)
    found = {line[1]: [float(value) for value in line.groups()[1:]] for line in lines}
    assert found["mean"][1] < 0.5 < found["mean"][2]
    assert found["graphsage"][1] > 0.8  # the lower end of the interval
    assert min(found["mean"][4], found["graphsage"][4]) > 0.6
    assert (tmp_path / "forest.png").stat().st_size > 10_000
    assert (tmp_path / "examples.png").stat().st_size > 10_000
