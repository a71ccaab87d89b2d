"""Draw tiles of a store at random, read and encode them again, and compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.encoders.card import encoder_key
from wsikit.encoders.registry import create_encoder
from wsikit.errors import ConfigError
from wsikit.extract.inputs import SlideEntry
from wsikit.extract.plan import choice_of
from wsikit.extract.settings import EncoderSettings
from wsikit.slides.open import open_slide
from wsikit.slides.stain_norm import normalise_stain
from wsikit.slides.tiling import read_tiles
from wsikit.store import format as fmt
from wsikit.store.reader import FeatureStore
from wsikit.store.verify import Finding

LEAST_COSINE = 0.999
"""Across device kinds and batch sizes, every row agrees at least so well."""


def re_extract(
    store: FeatureStore, entries: Sequence[SlideEntry], asked: EncoderSettings, *, tiles: int, seed: int = 0
) -> list[Finding]:
    """Compare random tiles of a store with what their slides and encoder give now.

    Args:
        store: The store.
        entries: Where the slides are; those that the store does not have are passed over.
        asked: The encoder, as it was given to ``extract``.
        tiles: How many tiles of each slide.
        seed: Of the draw.

    Returns:
        One finding for each slide whose file or features differ.

    Raises:
        ConfigError: None of the slides is in the store, or the encoder is not the one that it was made with.
    """
    encoder = create_encoder(
        asked.name,
        precision=asked.precision,
        device="cpu" if asked.device == "auto" else asked.device,
        **({} if asked.weights is None else {"weights": asked.weights}),
    )
    key = encoder_key(encoder, stain=asked.stain_identity)
    in_store = set(store.slide_ids)
    known = [entry for entry in entries if entry.slide_id in in_store]
    if not known:
        raise ConfigError(f"store {store.path}: none of the {len(entries)} slides given is in it")
    findings = []
    for entry in known:
        if key not in store.keys(entry.slide_id):
            raise ConfigError(
                f"store {store.path}, slide {entry.slide_id!r}: no features {key}; it has "
                f"{', '.join(store.keys(entry.slide_id))}: give the same --encoder, --weights, "
                "--precision and --stain-norm"
            )
        attributes = store.slide(entry.slide_id)
        found = entry.fingerprint()
        if found != attributes["fingerprint"]:
            what = f"the file has fingerprint {found[:12]}, the store {attributes['fingerprint'][:12]}"
            findings.append(Finding(entry.slide_id, "differs", what))
            continue
        status, coords = store.status(entry.slide_id, encoder=key), store.coords(entry.slide_id)
        rng = np.random.default_rng([seed, int(found[:8], 16)])
        rows = np.sort(rng.choice(len(coords), min(tiles, len(coords)), replace=False))
        pixels, again = tiles_again(entry, attributes, coords[rows])
        stored = store.values(entry.slide_id, encoder=key, rows=rows.tolist()).astype(np.float32)
        stain = store.encoder(entry.slide_id, key).get("stain")
        if stain is not None:
            pixels = normalise_stain(stain["method"], pixels, stain["parameters"])
        fresh = encoder.encode(pixels)
        for i, row in enumerate(rows.tolist()):
            if (again[i] == fmt.UNREADABLE) != (status[row] == fmt.UNREADABLE):
                what = f"tile {row} at {coords[row].tolist()}: status {status[row]}, now {again[i]}"
            elif status[row] == fmt.OK and _cosine(stored[i], fresh[i]) < LEAST_COSINE:
                cosine = _cosine(stored[i], fresh[i])
                what = f"tile {row} at {coords[row].tolist()}: cosine {cosine:.4f} to its features now"
            else:
                continue
            findings.append(Finding(entry.slide_id, "differs", f"features {key}: {what}"))
            break
    return findings


def tiles_again(
    entry: SlideEntry, attributes: Mapping[str, Any], coords: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Tiles of a planned slide as the run read them.

    Args:
        entry: The slide.
        attributes: Of its plan.
        coords: (n, 2) of the tiles.

    Returns:
        Pixels (n, tile_px, tile_px, 3) and status (n,).
    """
    pixels = np.empty((len(coords), attributes["tile_px"], attributes["tile_px"], 3), np.uint8)
    with open_slide(
        entry.path,
        mpp=(attributes["mpp"][0], attributes["mpp"][1]),
        scene=entry.scene,
        reader=attributes["reader"],
        allow_unequal_mpp=True,
    ) as slide:
        return pixels, read_tiles(slide, choice_of(attributes), attributes["tile_px"], coords, pixels)


def _cosine(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norms if norms else float(np.array_equal(a, b))
