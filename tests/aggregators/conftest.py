"""The libraries that models are compared with: what they say on import is not ours."""

from __future__ import annotations

import warnings
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def geometric() -> ModuleType:
    """The layers of PyTorch Geometric."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch_geometric.nn
    return torch_geometric.nn


@pytest.fixture(scope="session")
def torchmil() -> ModuleType:
    """The package torchmil, which is there for comparison only."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("torchmil")
