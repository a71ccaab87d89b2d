"""What runs on a Dask worker: planning a slide, and encoding one shard of its tiles.

A task's arguments are names and numbers; slides, settings and the encoder reach each worker once,
through a plugin. Failures that belong to one slide are returned, never raised: the run goes on.
"""

from __future__ import annotations

import contextlib
import logging
import platform
import re
import signal
import sys
import threading
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from distributed import Worker, WorkerPlugin, get_worker

from wsikit import __version__
from wsikit.encoders.card import Encoder, encoder_key, features_identity
from wsikit.encoders.registry import create_encoder
from wsikit.errors import ConfigError, StoreAccessError, WsikitError
from wsikit.extract.failure import Failure, StoreWriteError, failure_of, writing
from wsikit.extract.inputs import SlideEntry
from wsikit.extract.pictures import picture_path, picture_refused
from wsikit.extract.plan import choice_of, label_tiles, picture_again, plan, read_coords, same_slide
from wsikit.extract.read_ahead import Batch, Buffers, read_ahead
from wsikit.extract.settings import EncoderSettings, RunSettings
from wsikit.extract.stain import fit_slide
from wsikit.provenance import versions
from wsikit.slides.open import open_slide
from wsikit.slides.quality import QUALITY_NAMES, tile_quality
from wsikit.slides.stain_norm import normalise_stain
from wsikit.slides.tiling import read_tiles
from wsikit.store import format as fmt
from wsikit.store.objects import sweep_partials
from wsikit.store.places import StorePath, place_of
from wsikit.store.writer import (
    add_features,
    features_attributes,
    missing_shards,
    planned,
    slide_attributes,
    write_shard,
)

_VERSIONS = ("wsikit", "torch", "numpy", "opencv-python-headless", "openslide-bin", "tifffile", "imagecodecs", "timm")


@dataclass(frozen=True)
class Planned:
    """A slide's plan: how many tiles, which shards are still to do (for which keys), or why there is none."""

    slide_id: str
    tiles: int = 0
    dropped: int = 0
    missing: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    seconds: float = 0.0
    failure: Failure | None = None


@dataclass(frozen=True)
class Encoded:
    """One shard: how many tiles, and how the time went.

    Attributes:
        worker: Who did it.
        began: When, seconds since the epoch by that machine's clock; with
        seconds: how long it took, of which
        encoding: seconds went to the encoders, and the rest to waiting for tiles or for another shard's turn.
    """

    slide_id: str
    shard: int
    tiles: int = 0
    worker: str = ""
    began: float = 0.0
    seconds: float = 0.0
    encoding: float = 0.0
    failure: Failure | None = None


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


class ExtractPlugin(WorkerPlugin):
    """Carries settings and slides to a worker and builds the encoders there, once.

    Args:
        settings: Of the run.
        entries: Its slides by id.
        shared: Whether the workers are not this run's own processes: they may have other disks, and are left as
            they were found.
    """

    def __init__(self, settings: RunSettings, entries: Mapping[str, SlideEntry], *, shared: bool = False) -> None:
        self.settings, self.entries, self.shared = settings, dict(entries), shared
        self.name = plugin_name(str(settings.store))  # two runs may share a cluster, but never a store
        self.version = __version__  # the client's

    def setup(self, worker: Worker) -> None:
        """Called by Dask on every worker, those that replace killed ones included."""
        import cv2

        self.stopped = threading.Event()
        self.trouble = self._trouble(worker)  # an error raised here would reach nobody's eyes on a worker that is late
        self._before = (sys.getswitchinterval(), cv2.getNumThreads(), warnings.filters[:], logging.root.manager.disable)
        if not self.shared and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the client's, which then closes its workers
        sys.setswitchinterval(1e-3)  # a fifth: a thread that decodes waits less for one that only holds the interpreter
        cv2.setNumThreads(1)  # the worker's task threads are the parallelism
        logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it finds wrong is said in the slide's own row
        if self.settings.pseudonyms is not None:  # what a library logs or warns of may quote the file
            logging.disable()
            warnings.simplefilter("ignore")
        self.lock = threading.Lock()
        self.buffers = Buffers()
        self._encoders: dict[str, Built] = {}
        self.device = _device(self.settings.encoders[0].device, worker.name)

    def teardown(self, worker: Worker) -> None:
        """Called by Dask when the run ends or the worker closes: shards in the making are dropped."""
        import cv2

        self.stopped.set()
        if self.shared:
            interval, threads, filters, disabled = self._before
            sys.setswitchinterval(interval)
            cv2.setNumThreads(threads)
            warnings.filters[:] = filters  # type: ignore[index]
            logging.disable(disabled)

    def _trouble(self, worker: Worker) -> Failure | None:
        """Why this worker can do nothing for the run: another wsikit, or not the disks."""
        where = f"worker {worker.name} on {platform.node()}"
        if self.version != __version__:
            reason = other_version(where, __version__, self.version)
            return Failure(ConfigError.state, reason, fatal=True)
        needed: list[StorePath | None] = [fmt.Layout(self.settings.store).private, self.settings.report]
        needed += [entry.path.parent for entry in self.entries.values()][:1]  # of 10,000 folders one tells enough
        for path in needed if self.shared else []:
            try:
                there = path is None or path.is_dir()
            except StoreAccessError as error:
                return Failure(StoreWriteError.state, f"{where}: {error}", fatal=True)
            if not there:
                return Failure(
                    StoreWriteError.state,
                    f"{where}: no folder {path} there; store, report and slides must be under the same path on every "
                    "machine of the cluster, on a shared disk",
                    fatal=True,
                )
        return None

    @property
    def encoders(self) -> Mapping[str, Built]:
        """The encoders by key, built on first use so that an error reaches the task that asked."""
        with self.lock:
            if not self._encoders:
                built = [self._build(asked) for asked in self.settings.encoders]
                self._encoders = {one.facts.key: one for one in built}
            return self._encoders

    def _build(self, asked: EncoderSettings) -> Built:
        options = {} if asked.weights is None else {"weights": asked.weights}
        encoder = create_encoder(asked.name, precision=asked.precision, device=self.device, **options)
        stain = asked.stain_identity
        attributes = {
            "card": asdict(encoder.card),
            "identity": features_identity(encoder, stain),
            "run": {"batch_size": asked.batch_size, "threads": asked.threads},
            "made_with": {"device": self.device.split(":")[0], "cpu": _cpu_capability(), **versions(_VERSIONS)},
        }
        facts = EncoderFacts(encoder_key(encoder, stain=stain), encoder.card.dim, attributes)
        return Built(asked, encoder, facts)


def plugin_name(store: str) -> str:
    """Name of a run's plugin, and of the topic on which its workers tell how far they are."""
    return f"wsikit-extract {store}"


def other_version(where: str, found: str | None, expected: str) -> str:
    """What to say of a worker with another wsikit than the client's, or none."""
    has = f"has wsikit {found}" if found else "has no wsikit"
    return (
        f"{where} {has}, and the run was begun by wsikit {expected}; install the same version on all machines, or name "
        "the same environment in the worker's start script"
    )


def describe_encoders(store: str) -> tuple[EncoderFacts, ...] | Failure:
    """Task: build the encoders and tell what the client must know of them."""
    plugin = _plugin(store)
    if plugin.trouble is not None:
        return plugin.trouble
    try:
        return tuple(one.facts for one in plugin.encoders.values())
    except WsikitError as error:
        return Failure(error.state, str(error))


def plan_slide(store: str, slide_id: str) -> Planned:
    """Task: find a slide's tissue, lay its tiles, write them to the store, draw the picture.

    A slide that is planned already is only compared with its file. Returns the shards to do.
    """
    began = time.perf_counter()
    plugin, root = _plugin(store), place_of(store)
    if plugin.trouble is not None:
        return Planned(slide_id, failure=plugin.trouble)
    entry, report = plugin.entries[slide_id], plugin.settings.report
    try:
        encoders = plugin.encoders
        if planned(root, slide_id):
            attributes = same_slide(root, entry)
            if report is not None and not picture_path(report, slide_id).exists():
                picture_again(root, entry, plugin.settings, attributes)
        else:
            attributes = plan(root, entry, plugin.settings)
        label_tiles(root, entry, plugin.settings, attributes)
        missing: dict[int, tuple[str, ...]] = {}
        layout = fmt.Layout(root)
        sweep_partials(layout.done(slide_id))
        for key, one in encoders.items():
            features, method = one.facts.attributes, one.asked.stain
            if method is not None and not features_attributes(root, slide_id, key):
                features = {**features, "stain": fit_slide(root, entry, attributes, method)}
            with writing(root):
                sweep_partials(layout.features(slide_id, key))
                add_features(root, slide_id, key, dim=one.facts.dim, attributes=features, quality_names=QUALITY_NAMES)
            for shard in missing_shards(root, slide_id, key):
                missing[shard] = (*missing.get(shard, ()), key)
        counts, seconds = attributes["counts"], time.perf_counter() - began
        return Planned(slide_id, counts["kept"], counts["edge_tissue"], dict(sorted(missing.items())), seconds=seconds)
    except Exception as error:  # whatever is wrong with one slide must not end the others
        failure = failure_of(error, entry)
        if report is not None and not failure.fatal and not picture_path(report, slide_id).exists():
            with contextlib.suppress(Exception):  # the picture of a failure may fail too; its reason is kept
                picture_refused(report, entry, failure.state, failure.reason)
        return Planned(slide_id, failure=failure, seconds=time.perf_counter() - began)


def encode_shard(store: str, slide_id: str, shard: int, keys: tuple[str, ...]) -> Encoded:
    """Task: read the tiles of one shard once, encode them in fixed batches by each encoder, write the rows."""
    clock, began = time.time(), time.perf_counter()
    plugin, root, worker = _plugin(store), place_of(store), str(get_worker().name)
    if plugin.trouble is not None:
        return Encoded(slide_id, shard, failure=plugin.trouble)
    try:
        tiles, encoding = _encode(root, plugin, slide_id, shard, keys)
        return Encoded(slide_id, shard, tiles, worker, clock, time.perf_counter() - began, encoding)
    except Exception as error:  # as above
        failure = failure_of(error, plugin.entries[slide_id])
        return Encoded(slide_id, shard, 0, worker, clock, time.perf_counter() - began, failure=failure)


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


def _encode(
    root: StorePath, plugin: ExtractPlugin, slide_id: str, shard: int, keys: tuple[str, ...]
) -> tuple[int, float]:
    """Number of tiles, and the seconds of the encoders alone."""
    settings, entry, attributes = plugin.settings, plugin.entries[slide_id], slide_attributes(root, slide_id)
    coords = read_coords(root, slide_id)
    coords = coords[fmt.rows_of(shard, len(coords))]
    choice, tile_px, mpp = choice_of(attributes), attributes["tile_px"], attributes["mpp"]
    outputs = [_Output(plugin, root, slide_id, key, len(coords)) for key in keys]
    quality, encoding = np.empty((len(coords), len(QUALITY_NAMES)), np.float32), 0.0
    with open_slide(
        entry.path, mpp=(mpp[0], mpp[1]), scene=entry.scene, reader=attributes["reader"], allow_unequal_mpp=True
    ) as slide:

        def read(xy: npt.NDArray[np.int32], out: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
            return read_tiles(slide, choice, tile_px, xy, out, threads=settings.reader_threads)

        size = settings.encoders[0].batch_size
        for batch in read_ahead(read, coords, batch_size=size, tile_px=tile_px, buffers=plugin.buffers):
            quality[batch.rows] = tile_quality(batch.pixels)
            if plugin.stopped.is_set():  # the store may be another run's by now
                raise InterruptedError(f"slide {slide_id}: the run has ended")
            encoding += sum(output.take(batch) for output in outputs)
            get_worker().log_event(plugin.name, len(batch.status) * len(outputs))
    with writing(root):
        for output in outputs:
            output.write(root, slide_id, shard, quality)
    return len(coords), encoding


def _plugin(store: str) -> ExtractPlugin:
    plugin = get_worker().plugins[plugin_name(store)]
    assert isinstance(plugin, ExtractPlugin)
    return plugin


def _device(asked: str, worker_name: object) -> str:
    """The device by name: ``cpu``, or ``cuda:i``, where worker i, or x-i, takes GPU i (modulo their number)."""
    if asked == "cpu":
        return "cpu"
    import torch

    if not torch.cuda.is_available():
        return "cpu" if asked == "auto" else asked
    if asked not in ("auto", "cuda"):
        return asked
    found = re.search(r"(?:^|-)(\d+)$", str(worker_name))  # not the port of "tcp://10.0.0.7:41234"
    number = int(found[1]) if found else 0
    return f"cuda:{number % torch.cuda.device_count()}"


def _cpu_capability() -> str:
    import torch

    return str(torch.backends.cpu.get_cpu_capability())
