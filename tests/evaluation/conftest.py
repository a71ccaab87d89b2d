"""Planted cohorts in real stores: the share of one kind of tile decides every outcome."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
import pytest

from wsikit.evaluation.settings import Experiment, experiment_from
from wsikit.store.writer import add_features, begin_store, write_plan, write_shard

DIM = 8
ENDPOINTS = {
    "class": {"kind": "class", "column": "label", "classes": ["0", "1"]},
    "three": {"kind": "class", "column": "grade", "classes": ["I", "II", "III"]},
    "survival": {"kind": "survival", "time": "time", "event": "event", "unit": "months"},
    "continuous": {"kind": "continuous", "column": "value"},
    "ordinal": {"kind": "ordinal", "column": "grade", "classes": ["I", "II", "III"]},
    "binned": {"kind": "continuous", "column": "value", "bins": 12},
    "labels": {"kind": "labels", "columns": ["label", "late", "odd"]},
}


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    """Equal bits in every test here."""


def write_features(root: Path, slide_id: str, tables: dict[str, np.ndarray]) -> None:
    """One slide with the features of several encoders, by key, each (N, D)."""
    tiles = len(next(iter(tables.values())))
    coords = np.stack([np.arange(tiles), np.zeros(tiles)], 1).astype(np.int32) * 256
    facts = {
        "fingerprint": hashlib.sha256(slide_id.encode()).hexdigest(),
        "mpp": [0.5, 0.5],
        "size_level0_px": [4096, 256],
        "tile_level0_px": [256.0, 256.0],
        "stride_level0_px": [256, 256],
    }
    write_plan(root, slide_id, attributes=facts, coords=coords, quality=np.ones((tiles, 1), np.float32))
    for key, x in tables.items():
        card = {"card": {"name": key.split("-")[0], "dim": x.shape[1]}, "run": {"batch_size": 2}}
        add_features(root, slide_id, key, dim=x.shape[1], attributes=card)
        write_shard(root, slide_id, key, 0, values=x.astype(np.float16), status=np.zeros(tiles, np.uint8), facts={})


def plant(
    folder: Path,
    *,
    patients: int = 40,
    garbage: Collection[str] = (),
    key: str = "toy-0000",
    tile_px: int = 256,
) -> Path:
    """``cohort.csv`` and ``features.zarr`` of patients p000, p001, ...; every fifth has two slides.

    Args:
        folder: Made here.
        patients: How many.
        garbage: Patients with other features and other outcomes; all else stays as it is.
        key: Of the features.
        tile_px: Of the store.
    """
    root = folder / "features.zarr"
    root.mkdir(parents=True)
    begin_store(root, {"tiling": {"tile_px": tile_px}})
    burden = np.random.default_rng(0).permutation(patients) / patients
    rows = []
    for i in range(patients):
        patient, rng = f"p{i:03d}", np.random.default_rng([2, i])
        bad = patient in garbage
        for number in range(2 if i % 5 == 0 else 1):
            tiles = int(rng.integers(8, 15))
            x = rng.normal(size=(tiles, DIM))
            x[: round(tiles * burden[i] * 0.7)] += np.array([5, -5, 5, -5, 0, 0, 0, 0])
            if bad:
                x = 40 * np.random.default_rng([3, i]).normal(size=x.shape) + 100
            write_features(root, f"s{i:03d}-{number}", {key: x, "colour-0000": rng.normal(size=(tiles, 3))})
            level = 1 - burden[i] if bad else burden[i]
            time = round(np.random.default_rng([4, i]).exponential() ** 0.4 * np.exp(4 - 4 * level) + 0.1, 3)
            event = (i % 4 != 0) != bad
            grade = ["I", "II", "III"][int(level * 2.999)]
            late, odd = "" if i % 7 == 0 else int(level >= 0.7), "" if i % 3 == 0 else i % 2
            row = [f"s{i:03d}-{number}", patient, int(level >= 0.5), grade, time, event, level * 10 + 3, late, odd]
            rows.append(row)
    with (folder / "cohort.csv").open("w", newline="") as file:
        names = ["slide_id", "patient_id", "label", "grade", "time", "event", "value", "late", "odd"]
        csv.writer(file).writerows([names, *rows])
    return folder


@pytest.fixture(scope="session")
def planting() -> Callable[..., Path]:
    """The function that plants a cohort in a folder."""
    return plant


@pytest.fixture(scope="session")
def features_writer() -> Callable[..., None]:
    """The function that writes one slide's features into a store."""
    return write_features


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A planted cohort of 40 patients; not to be written to."""
    return plant(tmp_path_factory.mktemp("planted") / "cohort")


def build(folder: Path, out: Path, kind: str = "class", **changes: dict[str, object]) -> Experiment:
    """A small experiment; ``changes`` are merged into its parts."""
    values: dict[str, object] = {
        "cohort": folder / "cohort.csv", "stores": folder / "features.zarr", "encoder": "toy",
        "endpoint": ENDPOINTS[kind], "out": out, "name": "planted",
    }  # fmt: skip
    parts: dict[str, dict[str, object]] = {
        "model": {"options": {"embed_dim": 16, "dropout": 0.1}},
        "training": {"epochs": 12, "learning_rate": 0.01, "tile_dropout": 0.2, "device": "cpu"},
        "splits": {"folds": 3, "inner_folds": 2},
        "evaluation": {"bootstrap": 200, "permutations": 200},
    }
    for name in parts.keys() | changes.keys():
        values[name] = parts.get(name, {}) | changes.get(name, {})
    return experiment_from(values)


@pytest.fixture(scope="session")
def experiment() -> Callable[..., Experiment]:
    """The builder of small experiments."""
    return build
