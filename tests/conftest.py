"""Fixtures of the whole suite, and what makes every run of it the same."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from wsikit.testing.svs import write_svs

os.environ.setdefault("MPLBACKEND", "Agg")  # for subprocesses too: no window on a laptop

settings.register_profile("wsikit", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("wsikit")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Torch on one thread: sums in one order, so equal bits, and no quarrel over cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Real slides and tables, not part of the tree; tests that need them are skipped where they are absent."""
    data = Path(os.environ.get("WSIKIT_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not data.is_dir():
        pytest.skip(f"no test data at {data}; name the folder in WSIKIT_TEST_DATA")
    return data


@pytest.fixture(scope="session")
def slides_dir(test_data: Path) -> Path:
    """Real slides of several vendors."""
    return test_data / "slides"


@pytest.fixture(scope="session")
def two_slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two small slides, a.svs and b.svs: an island of stained tissue on glass."""
    folder = tmp_path_factory.mktemp("slides")
    y, x = np.mgrid[:1536, :2048]
    tissue = ((x - 1024) / 800) ** 2 + ((y - 768) / 550) ** 2 < 1
    for name, seed in (("a", 0), ("b", 1)):
        rgb = np.full((1536, 2048, 3), 243, np.uint8)
        grain = np.random.default_rng(seed).normal(0, 18, (int(tissue.sum()), 3))
        rgb[tissue] = np.clip(np.array([205, 130, 175]) + grain, 0, 255).astype(np.uint8)
        write_svs(folder / f"{name}.svs", rgb, mpp=0.5, levels=(1, 4))
    return folder
