"""Slides for the tests of extraction and of its faults: quick to read, with every tile different."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from wsikit.testing.svs import write_svs


def paint(path: Path, size: int, seed: int, **options) -> Path:
    """A slide without glass: smooth colour noise."""
    import cv2

    rng = np.random.default_rng(seed)
    coarse = rng.integers(60, 230, (size // 16, size // 16, 3), dtype=np.uint8)
    write_svs(path, cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC), levels=(1, 4), **options)
    return path


@pytest.fixture(scope="session")
def cohort(tmp_path_factory) -> Path:
    """Four good slides; ``large`` has two shards of tiles of 32 px, ``fine`` is to be resampled."""
    folder = tmp_path_factory.mktemp("cohort")
    paint(folder / "large.svs", 2112, 1)
    paint(folder / "small.svs", 520, 2)
    paint(folder / "middle.svs", 1040, 3)
    paint(folder / "fine.svs", 1040, 4, mpp=0.2527, magnification=40)
    return folder


def tree(store: Path) -> dict[str, bytes]:
    """Every object of a store outside ``.wsikit``."""
    files = (p for p in store.rglob("*") if p.is_file() and ".wsikit" not in p.relative_to(store).parts)
    return {p.relative_to(store).as_posix(): p.read_bytes() for p in files}


@pytest.fixture(scope="session")
def tree_of():
    """The function ``tree``."""
    return tree
