"""What runs on a Dask worker: planning a slide, and encoding one shard of its tiles.

A task's arguments are names and numbers; slides, settings and the encoder reach each worker once,
through a plugin. Failures that belong to one slide are returned, never raised: the run goes on.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from distributed import Worker, WorkerPlugin, get_worker

from wsikit.encoders.card import Encoder, encoder_key
from wsikit.encoders.registry import create_encoder
from wsikit.errors import TileReadError, WsikitError
from wsikit.extract.failure import Failure, failure_of, writing
from wsikit.extract.inputs import SlideEntry
from wsikit.extract.pictures import picture_path, picture_refused
from wsikit.extract.plan import choice_of, picture_again, plan, read_coords, same_slide
from wsikit.extract.settings import RunSettings
from wsikit.provenance import versions
from wsikit.slides.level import LevelChoice
from wsikit.slides.open import open_slide
from wsikit.slides.slide import Slide
from wsikit.slides.tiling import read_tile
from wsikit.store import format as fmt
from wsikit.store.objects import sweep_partials
from wsikit.store.writer import add_features, missing_shards, planned, slide_attributes, write_shard

PLUGIN = "wsikit-extract"
TOPIC = "wsikit-tiles"
_VERSIONS = ("wsikit", "torch", "numpy", "opencv-python-headless", "openslide-bin", "tifffile", "imagecodecs", "timm")


@dataclass(frozen=True)
class Planned:
    """A slide's plan: how many tiles, which shards are still to do, or why there is none."""

    slide_id: str
    tiles: int = 0
    dropped: int = 0
    missing: tuple[int, ...] = ()
    seconds: float = 0.0
    failure: Failure | None = None


@dataclass(frozen=True)
class Encoded:
    """One shard: how many tiles, and how the time went."""

    slide_id: str
    shard: int
    tiles: int = 0
    seconds: float = 0.0
    failure: Failure | None = None


@dataclass(frozen=True)
class EncoderFacts:
    """What the client must know of the encoder: where its features go, and what is recorded of it."""

    key: str
    dim: int
    attributes: dict[str, Any]


class ExtractPlugin(WorkerPlugin):
    """Carries settings and slides to a worker and builds the encoder there, once."""

    name = PLUGIN

    def __init__(self, settings: RunSettings, entries: Mapping[str, SlideEntry]) -> None:
        self.settings, self.entries = settings, dict(entries)

    def setup(self, worker: Worker) -> None:
        """Called by Dask on every worker, those that replace killed ones included."""
        import cv2

        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the client's, which then closes its workers
        cv2.setNumThreads(1)  # the worker's task threads are the parallelism
        logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it finds wrong is said in the slide's own row
        if self.settings.pseudonyms is not None:  # what a library logs or warns of may quote the file
            logging.disable()
            warnings.simplefilter("ignore")
        self.lock = threading.Lock()
        self._encoder: Encoder | None = None
        self._device = _device(self.settings.encoder.device, worker.name)

    @property
    def encoder(self) -> Encoder:
        """The encoder, built on first use so that an error reaches the task that asked."""
        with self.lock:
            if self._encoder is None:
                asked = self.settings.encoder
                options = {} if asked.weights is None else {"weights": asked.weights}
                self._encoder = create_encoder(asked.name, precision=asked.precision, device=self._device, **options)
            return self._encoder

    def facts(self) -> EncoderFacts:
        """Key, width and attributes of the encoder's features."""
        asked, encoder = self.settings.encoder, self.encoder
        attributes = {
            "card": asdict(encoder.card),
            "identity": dict(encoder.identity),
            "run": {"batch_size": asked.batch_size, "threads": asked.threads},
            "made_with": {"device": self._device.split(":")[0], "cpu": _cpu_capability(), **versions(_VERSIONS)},
        }
        return EncoderFacts(encoder_key(encoder), encoder.card.dim, attributes)


def describe_encoder() -> EncoderFacts | Failure:
    """Task: build the encoder and tell what the client must know of it."""
    try:
        return _plugin().facts()
    except WsikitError as error:
        return Failure(error.state, str(error))


def plan_slide(store: str, slide_id: str) -> Planned:
    """Task: find a slide's tissue, lay its tiles, write them to the store, draw the picture.

    A slide that is planned already is only compared with its file. Returns the shards to do.
    """
    began = time.perf_counter()
    plugin, root = _plugin(), Path(store)
    entry, report = plugin.entries[slide_id], plugin.settings.report
    try:
        facts = plugin.facts()
        if planned(root, slide_id):
            attributes = same_slide(root, entry)
            if report is not None and not picture_path(report, slide_id).exists():
                picture_again(root, entry, plugin.settings, attributes)
        else:
            attributes = plan(root, entry, plugin.settings)
        with writing(root):
            sweep_partials(fmt.Layout(root).features(slide_id, facts.key))
            add_features(root, slide_id, facts.key, dim=facts.dim, attributes=facts.attributes)
        counts, missing = attributes["counts"], missing_shards(root, slide_id, facts.key)
        return Planned(
            slide_id, counts["kept"], counts["edge_tissue"], tuple(missing), seconds=time.perf_counter() - began
        )
    except Exception as error:  # whatever is wrong with one slide must not end the others
        failure = failure_of(error, entry)
        if report is not None and not failure.fatal and not picture_path(report, slide_id).exists():
            with contextlib.suppress(Exception):  # the picture of a failure may fail too; its reason is kept
                picture_refused(report, entry, failure.state, failure.reason)
        return Planned(slide_id, failure=failure, seconds=time.perf_counter() - began)


def encode_shard(store: str, slide_id: str, shard: int) -> Encoded:
    """Task: read the tiles of one shard, encode them in fixed batches, write the rows."""
    began = time.perf_counter()
    plugin, root = _plugin(), Path(store)
    try:
        tiles = _encode(root, plugin, slide_id, shard)
        return Encoded(slide_id, shard, tiles, time.perf_counter() - began)
    except Exception as error:  # as above
        return Encoded(
            slide_id, shard, failure=failure_of(error, plugin.entries[slide_id]), seconds=time.perf_counter() - began
        )


def _encode(root: Path, plugin: ExtractPlugin, slide_id: str, shard: int) -> int:
    settings, entry, facts = plugin.settings, plugin.entries[slide_id], plugin.facts()
    attributes = slide_attributes(root, slide_id)
    coords = read_coords(root, slide_id)
    coords = coords[fmt.rows_of(shard, len(coords))]
    choice, tile_px, batch_size = choice_of(attributes), attributes["tile_px"], settings.encoder.batch_size
    values = np.full((len(coords), facts.dim), np.nan, np.float16)
    status = np.full(len(coords), fmt.UNREADABLE, np.uint8)
    pixels = np.empty((min(batch_size, len(coords)), tile_px, tile_px, 3), np.uint8)
    mpp = (attributes["mpp"][0], attributes["mpp"][1])
    with open_slide(
        entry.path, mpp=mpp, scene=entry.scene, reader=attributes["reader"], allow_unequal_mpp=True
    ) as slide:
        for start in range(0, len(coords), batch_size):
            rows = slice(start, min(start + batch_size, len(coords)))
            batch = pixels[: rows.stop - start]
            status[rows] = read_tiles(slide, choice, tile_px, coords[rows], batch)
            values[rows] = _run_encoder(plugin, batch, status[rows])
            get_worker().log_event(TOPIC, rows.stop - start)
    with writing(root):
        write_shard(
            root, slide_id, facts.key, shard, values=values, status=status,
            facts={"made_with": facts.attributes["made_with"]},
        )  # fmt: skip
    return len(coords)


def read_tiles(
    slide: Slide, choice: LevelChoice, tile_px: int, coords: npt.NDArray[np.int32], out: npt.NDArray[np.uint8]
) -> npt.NDArray[np.uint8]:
    """Read tiles into ``out`` (n, tile_px, tile_px, 3); returns their status, (n,) uint8.

    A tile that cannot be read leaves zeros in its place, so that the batch stays the same batch, and
    its status says so. It is tried twice: network disks fail for a moment.
    """
    status = np.zeros(len(coords), np.uint8)
    for i, (x, y) in enumerate(coords.tolist()):
        for attempt in (1, 2):
            try:
                out[i] = read_tile(slide, choice, tile_px, (x, y))
                break
            except TileReadError:
                if attempt == 2:
                    out[i], status[i] = 0, fmt.UNREADABLE
    return status


def _run_encoder(
    plugin: ExtractPlugin, batch: npt.NDArray[np.uint8], status: npt.NDArray[np.uint8]
) -> npt.NDArray[np.float16]:
    """float16 features of a batch; marks rows as not finite in ``status``."""
    import torch

    encoder = plugin.encoder
    with plugin.lock:
        torch.set_num_threads(plugin.settings.encoder.threads)
        features = encoder.encode(batch)
    with np.errstate(over="ignore"):
        half = features.astype(np.float16)
    status[(status == fmt.OK) & ~np.isfinite(half).all(axis=1)] = fmt.NOT_FINITE
    return half


def _plugin() -> ExtractPlugin:
    plugin = get_worker().plugins[PLUGIN]
    assert isinstance(plugin, ExtractPlugin)
    return plugin


def _device(asked: str, worker_name: object) -> str:
    """The device by name: ``cpu``, or ``cuda:i``, where worker i takes GPU i (modulo their number)."""
    if asked == "cpu":
        return "cpu"
    import torch

    if not torch.cuda.is_available():
        return "cpu" if asked == "auto" else asked
    if asked not in ("auto", "cuda"):
        return asked
    number = int(str(worker_name)) if str(worker_name).isdigit() else 0
    return f"cuda:{number % torch.cuda.device_count()}"


def _cpu_capability() -> str:
    import torch

    return str(torch.backends.cpu.get_cpu_capability())
