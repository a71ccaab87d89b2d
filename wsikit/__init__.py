"""wsikit: from whole-slide images to slide-level answers. Importing it loads neither torch nor dask."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from wsikit import losses as losses
    from wsikit import metrics as metrics
    from wsikit.aggregators.registry import create_aggregator as create_aggregator
    from wsikit.aggregators.registry import list_aggregators as list_aggregators
    from wsikit.cohort.endpoints import ClassLabel as ClassLabel
    from wsikit.cohort.endpoints import Continuous as Continuous
    from wsikit.cohort.endpoints import Survival as Survival
    from wsikit.cohort.split_files import load_splits as load_splits
    from wsikit.cohort.splits import make_splits as make_splits
    from wsikit.cohort.splits import save_splits as save_splits
    from wsikit.cohort.table import Cohort as Cohort
    from wsikit.cohort.table import load_cohort as load_cohort
    from wsikit.encoders.registry import create_encoder as create_encoder
    from wsikit.encoders.registry import list_encoders as list_encoders
    from wsikit.extract.inputs import collect_slides as collect_slides
    from wsikit.extract.run import extract_features as extract_features
    from wsikit.extract.settings import EncoderSettings as EncoderSettings
    from wsikit.geometry import Mpp as Mpp
    from wsikit.slides.open import open_slide as open_slide
    from wsikit.slides.slide import Slide as Slide
    from wsikit.slides.tiling import TileSet as TileSet
    from wsikit.slides.tiling import TilingSpec as TilingSpec
    from wsikit.slides.tiling import tile_slide as tile_slide
    from wsikit.slides.tissue_mask import TissueMask as TissueMask
    from wsikit.slides.tissue_mask import segment_tissue as segment_tissue
    from wsikit.store.from_arrays import store_features as store_features
    from wsikit.store.reader import Bag as Bag
    from wsikit.store.reader import FeatureStore as FeatureStore
    from wsikit.store.reader import open_store as open_store

_PUBLIC = {
    "open_slide": "wsikit.slides.open",
    "segment_tissue": "wsikit.slides.tissue_mask",
    "TissueMask": "wsikit.slides.tissue_mask",
    "tile_slide": "wsikit.slides.tiling",
    "TilingSpec": "wsikit.slides.tiling",
    "TileSet": "wsikit.slides.tiling",
    "Slide": "wsikit.slides.slide",
    "Mpp": "wsikit.geometry",
    "open_store": "wsikit.store.reader",
    "store_features": "wsikit.store.from_arrays",
    "FeatureStore": "wsikit.store.reader",
    "Bag": "wsikit.store.reader",
    "extract_features": "wsikit.extract.run",
    "EncoderSettings": "wsikit.extract.settings",
    "collect_slides": "wsikit.extract.inputs",
    "create_encoder": "wsikit.encoders.registry",
    "list_encoders": "wsikit.encoders.registry",
    "load_cohort": "wsikit.cohort.table",
    "Cohort": "wsikit.cohort.table",
    "ClassLabel": "wsikit.cohort.endpoints",
    "Survival": "wsikit.cohort.endpoints",
    "Continuous": "wsikit.cohort.endpoints",
    "make_splits": "wsikit.cohort.splits",
    "save_splits": "wsikit.cohort.splits",
    "load_splits": "wsikit.cohort.split_files",
    "create_aggregator": "wsikit.aggregators.registry",
    "list_aggregators": "wsikit.aggregators.registry",
}
_ROOMS = ("losses", "metrics")

__all__ = ["__version__", *_PUBLIC, *_ROOMS]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    if name in _ROOMS:
        return importlib.import_module(f"wsikit.{name}")
    raise AttributeError(f"module 'wsikit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
