"""One extraction run: plan every slide, encode every shard, keep account of each slide."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsikit.encoders.registry import encoder_card
from wsikit.errors import ConfigError
from wsikit.extract.accounts import Accounts
from wsikit.extract.devices import Agreement, agreements
from wsikit.extract.failure import Failure, StoreWriteError
from wsikit.extract.inputs import SlideEntry, collect_slides, in_part, with_annotations
from wsikit.extract.outcome import SlideOutcome
from wsikit.extract.pseudonyms import pseudonymise as hide
from wsikit.extract.settings import EncoderSettings, RunSettings
from wsikit.extract.stage import stage_settings, task_key
from wsikit.extract.usage import Usage
from wsikit.slides.tiling import TilingSpec
from wsikit.slides.tissue_mask import DEFAULT_METHOD
from wsikit.store.format import Layout
from wsikit.store.lease import Lease
from wsikit.store.objects import write_atomic
from wsikit.store.places import ObjectPath, StorePath, place_of
from wsikit.store.writer import begin_store

if TYPE_CHECKING:
    from wsikit.extract.clusters import Crew


class Progress:
    """What a run tells whoever watches it: override what you want to see."""

    def slides(self, total: int) -> None:
        """How many slides there are."""

    def planned(self, slide_id: str, tiles_to_do: int) -> None:
        """A slide is planned (or cannot be: 0 tiles)."""

    def tiles(self, count: int) -> None:
        """So many tiles more are encoded."""

    def finished(self, outcome: SlideOutcome) -> None:
        """Nothing more will happen to this slide."""

    def say(self, line: str) -> None:
        """Something to know."""


@dataclass(frozen=True)
class RunReport:
    """What came of a run.

    Attributes:
        store: The feature store.
        keys: Keys of the encoders' features in it.
        outcomes: One for every slide asked for, sorted by id.
        report: Folder with slides.csv, failures.csv, index.html and overlays.
        waited: Share of the workers' time, while they were at tiles, in which the encoder had none to encode.
        tiles_per_s: Tiles read per second, while at least one worker was at tiles.
        agreements: Of features in the store by several kinds of device: how well these agree.
    """

    store: StorePath
    keys: tuple[str, ...]
    outcomes: tuple[SlideOutcome, ...]
    report: Path
    waited: float = 0.0
    tiles_per_s: float = 0.0
    agreements: tuple[Agreement, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every slide is done."""
        return all(outcome.ok for outcome in self.outcomes)


def extract_features(
    slides: Iterable[str | PathLike[str]] | str | PathLike[str],
    *,
    out: str | PathLike[str] | ObjectPath,
    encoder: str | EncoderSettings | Sequence[str | EncoderSettings] = "texture",
    spec: TilingSpec | None = None,
    tissue: str = DEFAULT_METHOD,
    tissue_options: dict[str, Any] | None = None,
    manifest: str | PathLike[str] | None = None,
    missing_mpp: float | None = None,
    allow_unequal_mpp: bool = False,
    max_unreadable: float = 0.0,
    quality: bool = True,
    annotations: str | PathLike[str] | None = None,
    annotation_classes: Iterable[str] = (),
    pseudonymise: str | PathLike[str] | None = None,
    workers: int | None = None,
    scheduler: str | PathLike[str] | None = None,
    cluster: str | PathLike[str] | None = None,
    worker_timeout_s: float | None = None,
    reader_threads: int | None = None,
    part: tuple[int, int] | None = None,
    stage: str | PathLike[str] | None = None,
    stage_gb: float | None = None,
    mixed_devices: bool = False,
    wait: bool = False,
    progress: Progress | None = None,
) -> RunReport:
    """Turn slides into a feature store. What is done already is not done again.

    In a script, put the call under ``if __name__ == "__main__":``. The workers are fresh processes that
    import the script, so that encoders which it registers are known to them; what stands outside of the
    guard runs once more in each worker. Without the guard the call raises after a few seconds. Notebooks
    and the interpreter's prompt need no guard.

    Args:
        slides: Slide files and folders.
        out: The store, new or begun earlier with the same settings: a folder, or a place in a bucket
            (``"s3://bucket/cohort.zarr"``).
        encoder: Name, or name and how it is run; several to read the tiles once for all of them.
        spec: How slides are tiled.
        tissue: Tissue segmenter.
        tissue_options: Its options.
        manifest: CSV that adds slides, ids, resolutions, scenes (see ``extract.inputs.COLUMNS``).
        missing_mpp: Micrometres per pixel for slides whose file records none.
        allow_unequal_mpp: Accept pixels that are not square.
        max_unreadable: Share of a slide's tiles that may be unreadable before it counts as damaged.
        quality: Measure each tile's quality (focus, pen, folds) and keep it beside the features: about as much work as
            decoding the tile.
        annotations: Folder of annotation files named like the slides (QuPath's GeoJSON, ASAP's XML); the share of
            every class in every tile is kept as labels.
        annotation_classes: Keep only tiles of which at least ``spec.min_tissue`` is tissue inside of annotations of
            these classes. A slide without annotations is then refused.
        pseudonymise: Key file, created if absent, that gives each slide another name; see ``extract.pseudonyms``.
        workers: Worker processes on this machine; default one per core, or one per GPU.
        scheduler: Run on a Dask cluster that exists: its address, or its scheduler file.
        cluster: Run on jobs of a queue (SLURM, PBS, LSF, SGE): a YAML file, see ``extract.job_queue.JobQueue``.
        worker_timeout_s: How long a cluster may be without any worker; default 10 minutes with ``scheduler``, a day
            with ``cluster``.
        reader_threads: Threads that decode tiles, for each shard that a worker is at. Default: the cores that there
            are for each worker, by the number of shards it is at, 2; 1 with ``scheduler``.
        part: Only part i of n, (i, n) with i from 1, in a store of its own, ``<out>-part-<i>-of-<n>.zarr``, for jobs
            without a scheduler in common; ``merge_stores`` joins them. The slide's id decides its part.
        stage: Folder on a disk of each node's own, to which slides are copied before their tiles are read; variables
            such as ``$TMPDIR`` are those of the worker. Nothing of it is left at the end.
        stage_gb: What the copies on one node may take together, in 10^9 bytes; a slide that does not fit is read from
            where it is.
        mixed_devices: Accept features of one encoder by several kinds of device ("cpu", "cuda", "mps") in the store.
            The first time that one joins the rows of another, it encodes some of their tiles again; how well they
            agree is recorded, and less than a cosine of 0.999 is refused.
        wait: Wait for another run on the same store instead of raising.
        progress: Told what happens.

    Returns:
        What became of each slide; also written beside the store, as ``<out>.report``; of a store in a
        bucket, to the current folder.

    Raises:
        ConfigError: Nothing to do, or settings or a manifest that cannot be used; or workers of another kind of device
            than made what is in the store, without ``mixed_devices`` or in disagreement.
        ChangedError: The store was begun with other settings.
        StoreLockedError: Another run is alive on this store.
        StoreWriteError: The store cannot be written.
        WorkerStartError: The script lacks the guard, or fails when a worker imports it.
        NoWorkersError: A cluster had no worker for ``worker_timeout_s``.
        ClusterLostError: The scheduler does not answer, or ended during the run.

    Example:
        >>> report = wk.extract_features("slides/", out="cohort.zarr", encoder="colour")   # doctest: +SKIP
        >>> [o.reason for o in report.outcomes if not o.ok]                       # doctest: +SKIP
    """
    from wsikit.extract.clusters import crew_for, refuse_while_starting

    refuse_while_starting()  # before anything else: in a worker, an argument may be wrong that is right in the parent
    entries = collect_slides([slides] if isinstance(slides, (str, PathLike)) else slides, manifest=manifest)
    if annotations is not None:
        entries = with_annotations(entries, annotations)
    root = place_of(out)
    if part is not None:
        root, entries = part_store(root, part), in_part(entries, part, key=pseudonymise)
    if workers is not None and workers < 1:
        raise ConfigError(f"workers={workers}; at least 1")
    asked = _encoders([encoder] if isinstance(encoder, (str, EncoderSettings)) else encoder)
    progress = progress or Progress()
    # One worker for each GPU, unless none of the encoders would use it.
    device = asked[0].device if any(one.device_where("cuda") != "cpu" for one in asked) else "cpu"
    crew, threads = crew_for(
        workers=workers, device=device, scheduler=scheduler, cluster=cluster,
        worker_timeout_s=worker_timeout_s, progress=progress,
    )  # fmt: skip
    report, key = report_folder(root), None
    if pseudonymise is not None:
        entries, key = hide(entries, pseudonymise, outside=(root, report))
    settings = RunSettings(
        store=root.absolute(),
        report=report.absolute(),
        spec=spec or TilingSpec(),
        tissue=tissue,
        tissue_options={name: _absolute(value) for name, value in (tissue_options or {}).items()},
        encoders=asked,
        reader_threads=reader_threads or threads,
        missing_mpp=missing_mpp,
        allow_unequal_mpp=allow_unequal_mpp,
        quality=quality,
        annotation_classes=tuple(annotation_classes),
        pseudonyms=key,
        stage=stage_settings(stage, stage_gb),
        mixed_devices=mixed_devices,
    )
    configuration = settings.configuration()  # errors in names and options come before any work
    for one in asked:
        if ":" not in one.name:  # members of a family are looked up on a worker: that imports heavy packages
            encoder_card(one.name)
    accounts = Accounts(settings.store, [e.slide_id for e in entries], max_unreadable, progress)
    return _Run(settings, configuration, [e.absolute() for e in entries], accounts, progress).go(crew, wait)


def _absolute(value: Any) -> Any:
    """The name of a file from here as one from anywhere: workers may have another working directory."""
    return os.path.abspath(value) if isinstance(value, (str, PathLike)) and os.path.isfile(value) else value


def _encoders(given: Iterable[str | EncoderSettings]) -> tuple[EncoderSettings, ...]:
    found = tuple(one if isinstance(one, EncoderSettings) else EncoderSettings(one) for one in given)
    found = tuple(replace(one, weights=_absolute(one.weights)) for one in found)
    if not found:
        raise ConfigError("no encoder is named; 'wsikit models --kind encoder' lists them")
    for field_name in ("batch_size", "device"):  # tiles come in one batch for all, on one device
        values = {getattr(one, field_name) for one in found}
        if len(values) > 1:
            raise ConfigError(f"encoders of one run have {field_name} {values}; expected the same, or run one by one")
    if len(set(found)) < len(found):
        raise ConfigError(f"an encoder is named twice: {', '.join(one.name for one in found)}")
    return found


def part_store(out: StorePath, part: tuple[int, int]) -> StorePath:
    """Where one part goes: ``cohort.zarr`` -> ``cohort-part-3-of-8.zarr``."""
    return out.with_name(f"{out.name.removesuffix('.zarr')}-part-{part[0]}-of-{part[1]}.zarr")


def report_folder(store: StorePath) -> Path:
    """Where tables and pictures of a store's runs go: ``cohort.zarr`` -> ``cohort.report``.

    Of a store in a bucket they go to the current folder, where a browser opens them.
    """
    name = (store.stem if store.suffix == ".zarr" else store.name) + ".report"
    return Path(name) if isinstance(store, ObjectPath) else store.with_name(name)


@contextlib.contextmanager
def _plugged(crew: Crew, settings: RunSettings, entries: Sequence[SlideEntry]) -> Iterator[None]:
    """Workers that know what the run is about; those of a cluster that lives on forget it afterwards."""
    from wsikit.extract.worker import ExtractPlugin

    plugin = ExtractPlugin(settings, {e.slide_id: e for e in entries}, shared=crew.shared)
    crew.client.register_plugin(plugin)
    try:
        yield
    finally:
        if crew.shared and crew.client.status == "running":
            crew.client.unregister_worker_plugin(plugin.name)


def _error_of(failure: Failure) -> StoreWriteError | ConfigError:
    """The error that a worker has met, here."""
    return (StoreWriteError if failure.state == StoreWriteError.state else ConfigError)(failure.reason)


_Task = tuple[str, int | None, tuple[str, ...]]
"""A slide to plan (None), or one of its shards to encode by the encoders of these keys."""


@dataclass
class _Run:
    settings: RunSettings
    configuration: dict[str, Any]
    entries: Sequence[SlideEntry]
    accounts: Accounts
    progress: Progress
    keys: tuple[str, ...] = ()
    usage: Usage = field(default_factory=Usage)
    said: set[str] = field(default_factory=set)

    def go(self, crew_to_come: contextlib.AbstractContextManager[Crew], wait: bool) -> RunReport:
        root, report = self.settings.store, self.settings.report
        assert report is not None
        with contextlib.ExitStack() as stack:
            try:
                root.mkdir(parents=True, exist_ok=True)
                report.mkdir(parents=True, exist_ok=True)
                lease = stack.enter_context(Lease(root, wait=wait, say=self.progress.say))
                begin_store(root, self.configuration)
            except OSError as error:
                raise StoreWriteError(f"store {root}: cannot be created or written: {error}") from error
            self.progress.slides(len(self.entries))
            try:
                with crew_to_come as crew, _plugged(crew, self.settings, self.entries):
                    self._run_on(crew, lease)
            finally:
                self.accounts.write(report)
        outcomes = tuple(self.accounts.outcomes[e.slide_id] for e in self.entries)
        waited, pace = self.usage.waited(), self.usage.tiles_per_s()
        return RunReport(root, self.keys, outcomes, report, waited, pace, agreements(root))

    def _run_on(self, crew: Crew, lease: Lease) -> None:
        from distributed import as_completed

        from wsikit.extract import worker as tasks

        client, store = crew.client, str(self.settings.store)
        facts = crew.result(client.submit(tasks.describe_encoders, store, pure=False))
        if isinstance(facts, Failure):
            raise _error_of(facts)
        self.keys = tuple(one.key for one in facts)
        if len(self.keys) < len(self.settings.encoders):
            raise ConfigError(f"two of the encoders give the same features: {', '.join(self.keys)}")
        self._note_run()
        topic = tasks.plugin_name(store)
        client.subscribe_topic(topic, self._hear)
        plans, shards = deque(self.entries), deque[_Task]()
        suspects, alone = deque[_Task](), False
        # Enough tasks that no worker waits for the client, few enough that the scheduler stays small.
        flying = as_completed(loop=client.loop)
        names: dict[Any, _Task] = {}
        while plans or shards or suspects or names:
            alone = not (plans or shards or names)
            while ((shards or plans) and len(names) < 3 * crew.threads()) or (alone and not names):
                # The next slides are planned while there is still something to encode.
                if plans and len(shards) < crew.threads():
                    task: _Task = (plans.popleft().slide_id, None, ())
                else:
                    task = shards.popleft() if shards else suspects.popleft()
                slide_id, shard, keys = task
                future = (
                    client.submit(tasks.plan_slide, store, slide_id, pure=False)
                    if shard is None
                    else client.submit(
                        tasks.encode_shard, store, slide_id, shard, keys, key=task_key(store, slide_id, shard)
                    )
                )
                names[future] = task
                flying.add(future)
            while not flying.has_ready():
                crew.threads()  # raises when all have left
                time.sleep(0.02)
            future = next(flying)
            task = names.pop(future)
            lease.check()
            result = self._result(crew, future)
            if result is None and not alone:
                # A worker that dies takes tasks with it that had no part in it: each is tried again by itself.
                suspects.append(task)
            elif result is None:
                self._condemn(task)
            elif isinstance(result, tasks.Planned):
                self.accounts.planned(result)
                shards.extend((result.slide_id, shard, keys) for shard, keys in result.missing.items())
            else:
                self.usage.add(result.worker, result.tiles, result.began, result.seconds, result.encoding)
                self.accounts.encoded(result)
        client.unsubscribe_topic(topic)

    def _hear(self, event: tuple[float, Any]) -> None:
        """What a worker tells: how many tiles, or a kind of message, which is said once, and the message."""
        told = event[1]
        if isinstance(told, int):
            self.progress.tiles(told)
        elif told[0] not in self.said:
            self.said.add(told[0])
            self.progress.say(told[1])

    def _result(self, crew: Crew, future: Any) -> Any:
        """A task's result, or None where its worker died under it again and again."""
        from distributed import KilledWorker

        try:
            result = crew.result(future)
        except KilledWorker:
            return None
        if result.failure is not None and result.failure.fatal:
            raise _error_of(result.failure)
        return result

    def _condemn(self, task: _Task) -> None:
        """A task that kills its worker even when nothing else runs."""
        from wsikit.extract.worker import Encoded, Planned

        slide_id, shard, _ = task
        failure = Failure(
            "killed-worker",
            f"slide {slide_id}: its worker dies each time, with nothing else running: it needs too much memory, or a "
            "decoder crashes on this file; see the job's log and 'dmesg', and have a look at the file",
        )
        if shard is None:
            self.accounts.planned(Planned(slide_id, failure=failure))
        else:
            self.accounts.encoded(Encoded(slide_id, shard, failure=failure))

    def _note_run(self) -> None:
        """What this run was asked for, so that ``wsikit status`` knows what remains."""
        note = {"keys": self.keys, "slides": sorted(e.slide_id for e in self.entries)}
        write_atomic(Layout(self.settings.store).private / "run.json", json.dumps(note).encode())
