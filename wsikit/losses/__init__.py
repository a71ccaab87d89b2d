"""Losses of time-to-event outcomes: pure functions of tensors. Importing this package does not load torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wsikit.losses.cox import cox_partial_likelihood as cox_partial_likelihood

_PUBLIC = {"cox_partial_likelihood": "wsikit.losses.cox"}

__all__ = [*_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'wsikit.losses' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
