"""Small stores and tables, written with the real writer."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from wsikit.cohort.endpoints import ClassLabel, ClassTarget, Continuous, ContinuousTarget, Survival, SurvivalTarget
from wsikit.cohort.table import Cohort
from wsikit.store import format as fmt
from wsikit.store.writer import add_features, begin_store, write_plan, write_shard

DIM = 4


def write_store(
    root: Path,
    tiles: Mapping[str, int],
    *,
    encoder: str = "toy",
    key: str = "toy-0000",
    tile_px: int = 256,
    bad: Mapping[str, int] | None = None,
    unfinished: tuple[str, ...] = (),
) -> Path:
    """A store of random features: so many tiles for each slide, of which the first ``bad`` could not be read."""
    root.mkdir(parents=True, exist_ok=True)
    begin_store(root, {"tiling": {"tile_px": tile_px}})
    features = {"card": {"name": encoder, "dim": DIM}, "run": {"batch_size": 2}}
    for slide_id, n in tiles.items():
        rng = np.random.default_rng([n, *slide_id.encode()])
        coords = np.stack([np.arange(n) * 256, np.full(n, len(slide_id))], 1).astype(np.int32)
        facts = {
            "fingerprint": hashlib.sha256(slide_id.encode()).hexdigest(),
            "mpp": [0.5, 0.5],
            "stride_level0_px": [256, 256],
        }
        write_plan(root, slide_id, attributes=facts, coords=coords, quality=np.ones((n, 1), np.float32))
        add_features(root, slide_id, key, dim=DIM, attributes=features)
        if slide_id in unfinished:
            continue
        status = np.zeros(n, np.uint8)
        status[: (bad or {}).get(slide_id, 0)] = fmt.UNREADABLE
        values = rng.normal(size=(n, DIM)).astype(np.float16)
        write_shard(root, slide_id, key, 0, values=values, status=status, facts={})
    return root


@pytest.fixture(scope="session")
def make_store():
    """The writer of stores."""
    return write_store


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Slides s0 to s5; s4 has one bad tile."""
    tiles = {"s0": 3, "s1": 5, "s2": 2, "s3": 4, "s4": 3, "s5": 6}
    return write_store(tmp_path_factory.mktemp("cohort") / "features.zarr", tiles, bad={"s4": 1})


@pytest.fixture
def table(tmp_path: Path):
    """Writes a CSV and returns its path."""

    def write(text: str, *, name: str = "cohort.csv", encoding: str = "utf-8") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding=encoding)
        return path

    return write


def build(target: ClassTarget | SurvivalTarget | ContinuousTarget) -> Cohort:
    """Patients p000, p001, ... with an outcome and no slides: all that splits look at."""
    patients = tuple(f"p{i:03d}" for i in range(len(target)))
    endpoint: ClassLabel | Survival | Continuous
    if isinstance(target, ClassTarget):
        endpoint = ClassLabel("label", target.classes)
    elif isinstance(target, SurvivalTarget):
        endpoint = Survival(time="time", event="event", unit=target.unit)
    else:
        endpoint = Continuous("value")
    return Cohort(patients, ((),) * len(patients), endpoint, target, "toy-0000", {})


@pytest.fixture(scope="session")
def bare_cohort():
    """The builder of cohorts without slides."""
    return build
