"""Shipped for tests and benchmarks: slides and cohorts with planted truth, and slides that are broken.

Nothing is drawn or imported before it is asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wsikit.testing.cohort import CohortTruth as CohortTruth
    from wsikit.testing.cohort import plant_cohort as plant_cohort
    from wsikit.testing.faults import bad_slides as bad_slides
    from wsikit.testing.faults import corrupt_tiles as corrupt_tiles
    from wsikit.testing.planted import plant_slide as plant_slide
    from wsikit.testing.stains import Site as Site
    from wsikit.testing.stains import site as site
    from wsikit.testing.svs import write_svs as write_svs
    from wsikit.testing.truth import SlideTruth as SlideTruth

_PUBLIC = {
    "CohortTruth": "wsikit.testing.cohort",
    "plant_cohort": "wsikit.testing.cohort",
    "bad_slides": "wsikit.testing.faults",
    "corrupt_tiles": "wsikit.testing.faults",
    "plant_slide": "wsikit.testing.planted",
    "Site": "wsikit.testing.stains",
    "site": "wsikit.testing.stains",
    "write_svs": "wsikit.testing.svs",
    "SlideTruth": "wsikit.testing.truth",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'wsikit.testing' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
