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
import uuid
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from distributed import Worker, WorkerPlugin, get_worker

from wsikit import __version__
from wsikit.allocator import give_back_freed_memory, keep_freed_memory
from wsikit.encoders.card import encoder_key, features_identity
from wsikit.encoders.registry import create_encoder
from wsikit.errors import ConfigError, StoreAccessError, WsikitError
from wsikit.extract.devices import Newcomer
from wsikit.extract.failure import Failure, StoreWriteError, failure_of, gone, writing
from wsikit.extract.features import Built, EncoderFacts, encoded_again, write_features
from wsikit.extract.inputs import SlideEntry
from wsikit.extract.open_slides import OpenSlides
from wsikit.extract.pictures import picture_path, picture_refused
from wsikit.extract.plan import label_tiles, picture_again, plan, same_slide
from wsikit.extract.read_ahead import Buffers
from wsikit.extract.settings import EncoderSettings, RunSettings
from wsikit.extract.stage import Stage
from wsikit.extract.stain import fit_slide
from wsikit.provenance import versions
from wsikit.slides.quality import QUALITY_NAMES
from wsikit.store import format as fmt
from wsikit.store.objects import sweep_partials
from wsikit.store.places import StorePath, place_of
from wsikit.store.writer import (
    add_features,
    features_attributes,
    missing_shards,
    open_shards,
    planned,
    slide_attributes,
)

_VERSIONS = ("wsikit", "torch", "numpy", "opencv-python-headless", "openslide-bin", "tifffile", "imagecodecs", "timm")


@dataclass(frozen=True)
class Planned:
    """A slide's plan: how many tiles, which shards are still to do (for which keys), or why there is none.

    Attributes:
        not_ok: Tiles without a feature in the shards that are done, by key.
    """

    slide_id: str
    tiles: int = 0
    dropped: int = 0
    missing: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    not_ok: Mapping[str, int] = field(default_factory=dict)
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
        not_ok: Tiles without a feature, by key.
    """

    slide_id: str
    shard: int
    tiles: int = 0
    worker: str = ""
    began: float = 0.0
    seconds: float = 0.0
    encoding: float = 0.0
    not_ok: Mapping[str, int] = field(default_factory=dict)
    failure: Failure | None = None


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
        self.run = uuid.uuid4().hex  # the same on every worker

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
        keep_freed_memory()
        logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it finds wrong is said in the slide's own row
        if self.settings.pseudonyms is not None:  # what a library logs or warns of may quote the file
            logging.disable()
            warnings.simplefilter("ignore")
        self.lock = threading.Lock()
        self.buffers, self.slides = Buffers(), OpenSlides()
        self._encoders: dict[str, Built] = {}
        self._ask_again = 0.0
        self.device = _device(self.settings.encoders[0].device, worker.name)
        self.stage = None if self.trouble is not None else self._stage(worker)

    def transition(self, key: object, start: str, finish: str, **rest: Any) -> None:
        """Called by Dask on every change of one of the worker's tasks."""
        if self.stage is not None:
            self.stage.follow(key, finish)

    def teardown(self, worker: Worker) -> None:
        """Called by Dask when the run ends or the worker closes: shards in the making are dropped."""
        import cv2

        self.stopped.set()
        self.slides.close()
        if self.stage is not None:
            self.stage.close()
        if self.shared:
            interval, threads, filters, disabled = self._before
            sys.setswitchinterval(interval)
            cv2.setNumThreads(threads)
            give_back_freed_memory()
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

    def _stage(self, worker: Worker) -> Stage | None:
        """Where this worker's slides are copied to, if they are."""
        root = self.settings.store
        if self.settings.stage is None:
            return None
        try:
            return Stage(
                self.settings.stage,
                str(root),
                look_up=lambda slide_id: (self.entries[slide_id], slide_attributes(root, slide_id)["fingerprint"]),
                finished=lambda slide_id: not any(missing_shards(root, slide_id, key) for key in self.encoders),
                say=lambda kind, line: worker.log_event(self.name, [kind, line]),
            )
        except ConfigError as error:
            self.trouble = Failure(error.state, str(error), fatal=True)
            return None

    @property
    def encoders(self) -> Mapping[str, Built]:
        """The encoders by key, built on first use so that an error reaches the task that asked."""
        with self.lock:
            if not self._encoders:
                built = [self._build(asked) for asked in self.settings.encoders]
                self._enter(built)
                self._encoders = {one.facts.key: one for one in built}
            elif self._ask_again and time.monotonic() > self._ask_again:
                self._enter(list(self._encoders.values()))
            return self._encoders

    def _enter(self, built: Sequence[Built]) -> None:
        """Put this worker's kind of device on record, or raise MixedDevicesError."""
        mixed, settled, began = self.settings.mixed_devices, True, time.monotonic()
        for one in built:
            made_with = one.facts.attributes["made_with"]
            newcomer = Newcomer(
                self.settings.store, one.facts.key, made_with, self.run, self.entries, partial(encoded_again, one)
            )
            settled &= newcomer.enter(mixed=mixed)
        now = time.monotonic()
        self._ask_again = 0.0 if settled else now + 20 * (now - began)  # at most a twentieth of the time goes to it

    def _build(self, asked: EncoderSettings) -> Built:
        options = {} if asked.weights is None else {"weights": asked.weights}
        device = asked.device_where(self.device)
        encoder = create_encoder(asked.name, precision=asked.precision, device=device, **options)
        stain = asked.stain_identity
        attributes = {
            "card": asdict(encoder.card),
            "identity": features_identity(encoder, stain),
            "run": {"batch_size": asked.batch_size, "threads": asked.threads},
            "made_with": {"device": device.split(":")[0], "cpu": _cpu_capability(), **versions(_VERSIONS)},
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
        not_ok: dict[str, int] = {}
        layout = fmt.Layout(root)
        sweep_partials(layout.done(slide_id))
        measures = QUALITY_NAMES if plugin.settings.quality else ()
        for key, one in encoders.items():
            features, method = one.facts.attributes, one.asked.stain
            if method is not None and not features_attributes(root, slide_id, key):
                features = {**features, "stain": fit_slide(root, entry, attributes, method)}
            with writing(root):
                sweep_partials(layout.features(slide_id, key))
                add_features(root, slide_id, key, dim=one.facts.dim, attributes=features, quality_names=measures)
            shards, not_ok[key] = open_shards(root, slide_id, key)
            for shard in shards:
                missing[shard] = (*missing.get(shard, ()), key)
        counts, seconds = attributes["counts"], time.perf_counter() - began
        ordered = dict(sorted(missing.items()))
        return Planned(slide_id, counts["kept"], counts["edge_tissue"], ordered, not_ok, seconds)
    except Exception as error:  # whatever is wrong with one slide must not end the others
        failure = failure_of(gone(root) or error, entry)
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
        tiles, encoding, not_ok = write_features(root, plugin, slide_id, shard, keys)
        return Encoded(slide_id, shard, tiles, worker, clock, time.perf_counter() - began, encoding, not_ok)
    except Exception as error:  # as above
        failure = failure_of(gone(root) or error, plugin.entries[slide_id])
        return Encoded(slide_id, shard, 0, worker, clock, time.perf_counter() - began, failure=failure)


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
