"""A feature store from features that something else has computed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.config import config_hash
from wsikit.encoders.card import EncoderCard, slug
from wsikit.errors import ChangedError, ConfigError
from wsikit.store import format as fmt
from wsikit.store.lease import Lease
from wsikit.store.places import StorePath, place_of
from wsikit.store.reader import FeatureStore, open_store
from wsikit.store.writer import (
    add_features,
    begin_store,
    missing_shards,
    planned,
    slide_attributes,
    write_plan,
    write_shard,
)


def store_features(
    out: str | PathLike[str],
    features: Mapping[str, npt.NDArray[np.floating[Any]]],
    *,
    encoder: str,
    source: str,
    coords: Mapping[str, npt.NDArray[np.integer[Any]]] | None = None,
    tile_level0_px: float = 256,
    mpp: float | None = None,
) -> FeatureStore:
    """Write features that were not extracted by wsikit into a store, so that everything behind it can be used.

    For features of another tool, and for bags that never were slides. A second call with another ``encoder`` adds
    features to the same tiles. What is there already is left alone.

    Args:
        out: The store's folder or URL; made if it is not there.
        features: By slide, (N, D), finite; kept as float16. All slides have the same D.
        encoder: What made them: the name they are asked for by.
        source: Where they come from, in words; kept in the store.
        coords: By slide, (N, 2) whole numbers: x then y of each tile's top-left corner, level-0 px. None where
            there are no places: the rows are laid out in a line.
        tile_level0_px: Side of a tile and distance of neighbouring tiles, level-0 px.
        mpp: Micrometres per level-0 px; None where there are none.

    Raises:
        ConfigError: Shapes that do not fit, another D than the store has under this name, values that float16 cannot
            hold, or slides without places.
        ChangedError: The store has other tiles, or other features under this name, of one of the slides.

    Example:
        >>> bags = {"a": np.ones((3, 8)), "b": np.zeros((5, 8))}
        >>> store = store_features("toy.zarr", bags, encoder="toy", source="made up")     # doctest: +SKIP
        >>> store.bag("b", encoder="toy").x.shape                                         # doctest: +SKIP
        (5, 8)
    """
    if not features:
        raise ConfigError("no features: expected arrays (N, D) by slide_id")
    if tile_level0_px <= 0 or (mpp is not None and mpp <= 0):
        raise ConfigError(f"tile_level0_px={tile_level0_px} and mpp={mpp}, expected numbers above 0")
    widths = {x.shape[1] for x in features.values() if x.ndim == 2}
    if len(widths) != 1:
        raise ConfigError(f"features of widths {sorted(widths)}, expected (N, D) with one D for all slides")
    (dim,) = widths
    root = place_of(out)
    root.mkdir(parents=True, exist_ok=True)
    identity = {"source": source, "encoder": encoder}
    key = f"{slug(encoder)}-{config_hash(identity)[:8]}"
    card = asdict(
        EncoderCard(encoder, dim, None, mpp, None, None, licence="not known", source=source, citation="not known")
    )
    with Lease(root):
        begin_store(root, {"source": "arrays", "tile_level0_px": float(tile_level0_px), "mpp": mpp})
        _refuse_other_width(open_store(root), key, dim)
        for slide_id, given in features.items():
            fmt.check_slide_id(slide_id)
            x, places = _checked(slide_id, given), _places(slide_id, len(given), coords, tile_level0_px)
            order = np.lexsort((places[:, 0], places[:, 1]))  # row by row, as everywhere
            x, places = np.ascontiguousarray(x[order]), np.ascontiguousarray(places[order])
            _plan(root, slide_id, places, float(tile_level0_px), mpp)
            run = {"sha256": hashlib.sha256(x.tobytes()).hexdigest()}  # other features of this name are refused
            add_features(root, slide_id, key, dim=dim, attributes={"card": card, "identity": identity, "run": run})
            for shard in missing_shards(root, slide_id, key):
                rows = fmt.rows_of(shard, len(x))
                status = np.full(rows.stop - rows.start, fmt.OK, np.uint8)
                write_shard(root, slide_id, key, shard, values=x[rows], status=status, facts={})
    return open_store(root)


def _refuse_other_width(store: FeatureStore, key: str, dim: int) -> None:
    for slide_id in store.slide_ids:
        if key in store.keys(slide_id):
            found = store.encoder(slide_id, key)["card"]
            if found["dim"] != dim:
                raise ConfigError(
                    f"store {store.path}: features of encoder {found['name']!r} are {found['dim']} wide there (slide "
                    f"{slide_id!r}), these are {dim}; give these another encoder name"
                )
            return


def _checked(slide_id: str, given: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float16]:
    with np.errstate(over="ignore"):
        x = np.asarray(given).astype(np.float16)
    bad = int((~np.isfinite(x)).any(axis=1).sum())
    if bad:
        raise ConfigError(
            f"slide {slide_id!r}: {bad} of {len(x)} rows hold NaN, infinity, or values beyond 65504, which float16 "
            "cannot hold; leave such rows out, or bring the columns to one scale"
        )
    if not len(x):
        raise ConfigError(f"slide {slide_id!r}: no rows; leave it out")
    return x


def _places(
    slide_id: str, rows: int, coords: Mapping[str, npt.NDArray[np.integer[Any]]] | None, tile: float
) -> npt.NDArray[np.int32]:
    """(N, 2) int32."""
    if coords is None:
        line = np.rint(np.arange(rows) * tile)
        return np.stack([line, np.zeros(rows)], 1).astype(np.int32)
    if slide_id not in coords:
        raise ConfigError(f"slide {slide_id!r} has features but no coords; expected them for all slides or for none")
    found = np.asarray(coords[slide_id])
    if found.shape != (rows, 2) or not np.issubdtype(found.dtype, np.integer):
        raise ConfigError(
            f"slide {slide_id!r}: {rows} rows of features and coords of shape {found.shape}, {found.dtype}; "
            f"expected ({rows}, 2) whole numbers"
        )
    if found.min() < 0 or found.max() >= 2**31:
        raise ConfigError(f"slide {slide_id!r}: coords from {found.min()} to {found.max()}, expected 0 to 2147483647")
    return found.astype(np.int32)


def _plan(root: StorePath, slide_id: str, places: npt.NDArray[np.int32], tile: float, mpp: float | None) -> None:
    """Write where the tiles are, or make sure that the store has the same."""
    fingerprint = hashlib.sha256(places.tobytes()).hexdigest()
    if planned(root, slide_id):
        if slide_attributes(root, slide_id)["fingerprint"] != fingerprint:
            raise ChangedError(
                f"store {root}, slide {slide_id!r}: its tiles are at other places than in the store; 'wsikit remove' "
                "it first, or give it another slide_id"
            )
        return
    size = [int(end) for end in np.ceil(places.max(0) + tile)]
    tile_px = max(1, round(tile))
    area_mm2 = None if mpp is None else len(places) * (tile * mpp / 1000) ** 2
    attributes: dict[str, Any] = {
        "fingerprint": fingerprint,
        "file_bytes": None,
        "vendor": None,
        "reader": "arrays",
        "scene": None,
        "scenes": 1,
        "size_level0_px": size,
        "mpp": None if mpp is None else [mpp, mpp],
        "mpp_source": None if mpp is None else "given",
        "level": 0,
        "level_downsample": 1.0,
        "read_px": [tile_px, tile_px],
        "resampler": "none",
        "achieved_mpp": None if mpp is None else [mpp, mpp],
        "tile_px": tile_px,
        "tile_level0_px": [tile, tile],
        "stride_level0_px": [tile, tile],
        "tissue": {"method": "none", "parameters": {}, "fraction": None, "area_mm2": area_mm2, "unreadable_px": 0},
        "counts": {"kept": len(places), "glass": 0, "edge": 0, "edge_tissue": 0},
    }
    quality = np.ones((len(places), len(fmt.QUALITY_NAMES)), np.float32)
    write_plan(root, slide_id, attributes=attributes, coords=places, quality=quality)
