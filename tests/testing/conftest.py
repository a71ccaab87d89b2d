"""One small planted cohort and one slide, drawn once for this folder."""

from pathlib import Path

import pytest

from wsikit.testing import CohortTruth, SlideTruth, plant_cohort, plant_slide


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SlideTruth]:
    """A 1,536 px slide, a third of its tissue lesion, no artefacts."""
    path = tmp_path_factory.mktemp("planted") / "one.svs"
    return path, plant_slide(path, seed=5, size_px=1536, tissue_fraction=0.45, lesion_fraction=0.35, artefacts=())


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> CohortTruth:
    """Six patients on slides of 512 px, drawn by two processes."""
    return plant_cohort(tmp_path_factory.mktemp("cohort"), patients=6, size_px=512, seed=3, processes=2)
