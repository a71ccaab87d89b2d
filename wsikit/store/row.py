"""What one row of a slide's features stands for: a square of the slide, in pixels and micrometres."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from wsikit.errors import ConfigError, StoreError
from wsikit.store import format as fmt
from wsikit.store.reader import FeatureStore

UNKNOWN = (float("nan"), float("nan"))
"""Resolution of what came without one, as features that were not extracted by wsikit."""


@dataclass(frozen=True)
class Row:
    """One planned tile.

    Attributes:
        slide_id: The slide.
        row: Index into coords, quality, and the values and status of every encoder.
        xy_level0: Top-left corner (x, y), level-0 px.
        size_level0_px: (width, height) that it covers, level-0 px; need not be whole.
        corner_um: Top-left corner from the slide's, micrometres.
        size_um: (width, height), micrometres.
        level: The level it is read from.
        read_px: (width, height) read, px of that level.
        tile_px: Side of the tile that the encoder sees, px.
        achieved_mpp: Micrometres per px of that tile (x, y).
        resampler: "none" where the pixels are as scanned.
        quality: Its measures by name; those of the pixels only where they could be read.
        status: By key of the features: the word for its status, or "not finished".
        norm: By key: length of its feature vector, for rows that have one.
    """

    slide_id: str
    row: int
    xy_level0: tuple[int, int]
    size_level0_px: tuple[float, float]
    corner_um: tuple[float, float]
    size_um: tuple[float, float]
    level: int
    read_px: tuple[int, int]
    tile_px: int
    achieved_mpp: tuple[float, float]
    resampler: str
    quality: Mapping[str, float]
    status: Mapping[str, str]
    norm: Mapping[str, float]


def describe_row(store: FeatureStore, slide_id: str, row: int) -> Row:
    """What a row of a slide stands for.

    Raises:
        UnknownNameError: No such slide.
        ConfigError: No such row.

    Example:
        >>> describe_row(wk.open_store("cohort.zarr"), "a", 17).size_um      # doctest: +SKIP
        (128.0, 128.0)
    """
    facts, coords = store.slide(slide_id), store.coords(slide_id)
    if not 0 <= row < len(coords):
        raise ConfigError(f"slide {slide_id!r}: no row {row}; it has rows 0 to {len(coords) - 1}")
    (x, y), (mpp_x, mpp_y), (width, height) = coords[row].tolist(), facts["mpp"] or UNKNOWN, facts["tile_level0_px"]
    status: dict[str, str] = {}
    norm: dict[str, float] = {}
    for key in store.keys(slide_id):
        try:
            code = int(store.status(slide_id, encoder=key)[row])
        except StoreError:
            status[key] = "not finished"
            continue
        status[key] = fmt.STATUS_NAMES.get(code, str(code))
        if code == fmt.OK:
            vector = store.values(slide_id, encoder=key, rows=[row])[0].astype(np.float32)
            norm[key] = float(np.linalg.norm(vector))
    measures = {name: float(values[row]) for name, values in store.quality(slide_id).items()}
    quality = {name: value for name, value in measures.items() if value == value}  # NaN: it could not be read
    return Row(
        slide_id, row, (x, y), (width, height), (x * mpp_x, y * mpp_y), (width * mpp_x, height * mpp_y),
        facts["level"], (facts["read_px"][0], facts["read_px"][1]), facts["tile_px"],
        tuple(facts["achieved_mpp"] or UNKNOWN), facts["resampler"],
        quality, status, norm,
    )  # fmt: skip
