"""Toy cohorts in real stores, and one thread for all of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from wsikit.cohort.bags import Bags
from wsikit.cohort.table import CohortSlide
from wsikit.store.reader import open_store
from wsikit.store.writer import add_features, begin_store, write_plan, write_shard

KEY = "toy-0000"


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    """Equal bits in every test here."""


@pytest.fixture(scope="session")
def write_bags(tmp_path_factory: pytest.TempPathFactory):
    """Writes the features of patients (one slide each) to a store and gives their bags."""

    def write(features: Sequence[npt.NDArray[np.floating]]) -> Bags:
        root: Path = tmp_path_factory.mktemp("toy") / "features.zarr"
        root.mkdir()
        begin_store(root, {"tiling": {"tile_px": 256}})
        card = {"card": {"name": "toy", "dim": features[0].shape[1]}, "run": {}}
        for i, x in enumerate(features):
            name, n = f"s{i:03d}", len(x)
            coords = np.stack([np.arange(n), np.zeros(n)], 1).astype(np.int32) * 256
            quality = np.ones((n, 1), np.float32)
            facts = {"fingerprint": "f" * 64, "stride_level0_px": [256, 256]}
            write_plan(root, name, attributes=facts, coords=coords, quality=quality)
            add_features(root, name, KEY, dim=x.shape[1], attributes=card)
            write_shard(root, name, KEY, 0, values=x.astype(np.float16), status=np.zeros(n, np.uint8), facts={})
        store = open_store(root)
        return Bags([(CohortSlide(f"s{i:03d}", store, None),) for i in range(len(features))], encoder=KEY)

    return write


def draw(seed: int, patients: int = 40, dim: int = 6) -> tuple[list[npt.NDArray[np.float64]], npt.NDArray[np.int64]]:
    """Features of tiles, and whether one of each patient's 8 to 20 tiles is of the planted kind."""
    rng = np.random.default_rng(seed)
    label = np.arange(patients) % 2
    features = [rng.normal(size=(rng.integers(8, 21), dim)) for _ in range(patients)]
    for x, planted in zip(features, label, strict=True):
        if planted:
            x[rng.integers(len(x))] += np.array([5, -5, *[0] * (dim - 2)])
    return features, label


@pytest.fixture(scope="session")
def toy_draw():
    """The features of a toy cohort."""
    return draw


@pytest.fixture(scope="session")
def toy(write_bags):
    """Bags and labels of 40 patients, the odd ones with one planted tile."""
    features, label = draw(0)
    return write_bags(features), label
