"""The features of one shard: its tiles read once, encoded in fixed batches by each encoder, written to the store."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from distributed import get_worker

from wsikit.encoders.card import Encoder
from wsikit.extract.failure import writing
from wsikit.extract.inputs import SlideEntry
from wsikit.extract.plan import choice_of, read_coords
from wsikit.extract.read_ahead import Batch, read_ahead
from wsikit.extract.settings import EncoderSettings
from wsikit.slides.open import open_slide
from wsikit.slides.quality import QUALITY_NAMES, tile_quality
from wsikit.slides.slide import Slide
from wsikit.slides.stain_norm import normalise_stain
from wsikit.slides.tiling import read_tiles
from wsikit.store import format as fmt
from wsikit.store.places import StorePath
from wsikit.store.writer import features_attributes, slide_attributes, stored_quality_names, write_shard

if TYPE_CHECKING:
    from wsikit.extract.worker import ExtractPlugin


@dataclass(frozen=True)
class EncoderFacts:
    """What the client must know of an encoder: where its features go, and what is recorded of it."""

    key: str
    dim: int
    attributes: dict[str, Any]


@dataclass(frozen=True)
class Built:
    """An encoder on a worker."""

    asked: EncoderSettings
    encoder: Encoder
    facts: EncoderFacts


class _Told:
    """Tells the client how far the tiles are, once a second at most: the scheduler hears this from all workers."""

    def __init__(self, topic: str) -> None:
        self._topic, self._tiles, self._last = topic, 0, 0.0  # the first batch is told at once

    def count(self, tiles: int) -> None:
        self._tiles += tiles
        if time.monotonic() - self._last > 1:
            self.flush()

    def flush(self) -> None:
        get_worker().log_event(self._topic, self._tiles)
        self._tiles, self._last = 0, time.monotonic()


class _Output:
    """Features of one shard by one encoder, as they come."""

    def __init__(self, plugin: ExtractPlugin, root: StorePath, slide_id: str, key: str, rows: int) -> None:
        self._plugin, self._built, self.key = plugin, plugin.encoders[key], key
        self._stain = features_attributes(root, slide_id, key).get("stain")
        self.values = np.full((rows, self._built.facts.dim), np.nan, np.float16)
        self.status = np.full(rows, fmt.UNREADABLE, np.uint8)

    def take(self, batch: Batch) -> float:
        """Encode a batch; rows that are not finite get their status. Returns the seconds of the encoder alone."""
        import torch

        pixels = batch.pixels
        with self._plugin.lock:
            began = time.perf_counter()
            torch.set_num_threads(self._built.asked.threads)
            if self._stain is not None:
                method, parameters = self._stain["method"], self._stain["parameters"]
                pixels = normalise_stain(method, pixels, parameters, device=self._plugin.device)
            features = self._built.encoder.encode(pixels)
            seconds = time.perf_counter() - began
        with np.errstate(over="ignore"):
            self.values[batch.rows] = features
        bad = ~np.isfinite(self.values[batch.rows]).all(axis=1)
        self.status[batch.rows] = np.where((batch.status == fmt.OK) & bad, fmt.NOT_FINITE, batch.status)
        return seconds

    def write(self, root: StorePath, slide_id: str, shard: int, quality: npt.NDArray[np.float32]) -> None:
        made_with = self._built.facts.attributes["made_with"]
        write_shard(
            root, slide_id, self.key, shard, values=self.values, status=self.status, quality=quality,
            facts={"made_with": made_with},
        )  # fmt: skip


_Made = tuple[list[_Output], npt.NDArray[np.float32], float]
"""A shard's features by each encoder, its quality (n, M), and the seconds of the encoders alone."""


def write_features(
    root: StorePath, plugin: ExtractPlugin, slide_id: str, shard: int, keys: tuple[str, ...]
) -> tuple[int, float, dict[str, int]]:
    """Read the tiles of a shard from the slide or its copy, encode them, write the rows.

    Args:
        root: The store.
        plugin: Of the worker that this runs on.
        slide_id: A planned slide.
        shard: Which 4096 rows.
        keys: Of the encoders.

    Returns:
        Number of tiles, the seconds of the encoders alone, and how many tiles have no feature by key.
    """
    entry, made = plugin.entries[slide_id], None
    if plugin.stage is not None:
        with plugin.stage.reading(slide_id) as copy:
            if copy is not None:
                made = _from_copy(root, plugin, replace(entry, path=copy), shard, keys)
    outputs, quality, encoding = made or _features(root, plugin, entry, shard, keys)
    with writing(root):
        for output in outputs:
            output.write(root, slide_id, shard, quality)
    return len(quality), encoding, {output.key: int((output.status != fmt.OK).sum()) for output in outputs}


def _from_copy(
    root: StorePath, plugin: ExtractPlugin, entry: SlideEntry, shard: int, keys: tuple[str, ...]
) -> _Made | None:
    """The same from a copy of the slide; None where anything is wrong, so that the slide itself is asked."""
    try:
        made = _features(root, plugin, entry, shard, keys)
    except InterruptedError:
        raise
    except Exception:  # whatever it is, it is not said of the slide
        return None
    return None if any((output.status == fmt.UNREADABLE).any() for output in made[0]) else made


def _features(root: StorePath, plugin: ExtractPlugin, entry: SlideEntry, shard: int, keys: tuple[str, ...]) -> _Made:
    """Read the tiles of a shard from ``entry.path`` and encode them."""
    settings, slide_id = plugin.settings, entry.slide_id
    attributes, coords = slide_attributes(root, slide_id), read_coords(root, slide_id)
    coords = coords[fmt.rows_of(shard, len(coords))]
    choice, tile_px, mpp = choice_of(attributes), attributes["tile_px"], attributes["mpp"]
    outputs = [_Output(plugin, root, slide_id, key, len(coords)) for key in keys]
    measured = any(stored_quality_names(fmt.Layout(root).features(slide_id, key)) for key in keys)
    quality, encoding = np.empty((len(coords), len(QUALITY_NAMES)), np.float32), 0.0

    def open_it() -> Slide:
        return open_slide(
            entry.path, mpp=(mpp[0], mpp[1]), scene=entry.scene, reader=attributes["reader"], allow_unequal_mpp=True
        )

    # A copy is deleted when its last shard is done, which a file that is kept open would not be.
    is_copy = entry.path != plugin.entries[slide_id].path
    with open_it() if is_copy else plugin.slides.borrow(slide_id, open_it) as slide:

        def read(xy: npt.NDArray[np.int32], out: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
            return read_tiles(slide, choice, tile_px, xy, out, threads=settings.reader_threads)

        size, told = settings.encoders[0].batch_size, _Told(plugin.name)
        for batch in read_ahead(read, coords, batch_size=size, tile_px=tile_px, buffers=plugin.buffers):
            if measured:
                quality[batch.rows] = tile_quality(batch.pixels)
            if plugin.stopped.is_set():  # the store may be another run's by now
                raise InterruptedError(f"slide {slide_id}: the run has ended")
            encoding += sum(output.take(batch) for output in outputs)
            told.count(len(batch.status) * len(outputs))
        told.flush()
    return outputs, quality, encoding


def encoded_again(built: Built, pixels: npt.NDArray[np.uint8], features: Mapping[str, Any]) -> npt.NDArray[np.float32]:
    """Tiles of a slide whose features have these attributes, in the run's batches."""
    import torch

    torch.set_num_threads(built.asked.threads)
    device = str(built.facts.attributes["made_with"]["device"])
    if (stain := features.get("stain")) is not None:
        pixels = normalise_stain(stain["method"], pixels, stain["parameters"], device=device)
    size = built.asked.batch_size
    parts = [built.encoder.encode(pixels[i : i + size]) for i in range(0, len(pixels), size)]
    return np.concatenate([np.empty((0, built.facts.dim), np.float32), *parts])
