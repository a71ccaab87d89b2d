"""Fixtures of the store's tests."""

from pathlib import Path

import pytest


@pytest.fixture
def golden() -> Path:
    """Samples of every released version of the store."""
    return Path(__file__).resolve().parents[1] / "golden"
