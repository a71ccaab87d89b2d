"""wsikit: from whole-slide images to slide-level answers. Importing it loads neither torch nor dask."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
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
    "FeatureStore": "wsikit.store.reader",
    "Bag": "wsikit.store.reader",
    "extract_features": "wsikit.extract.run",
    "EncoderSettings": "wsikit.extract.settings",
    "collect_slides": "wsikit.extract.inputs",
    "create_encoder": "wsikit.encoders.registry",
    "list_encoders": "wsikit.encoders.registry",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'wsikit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
