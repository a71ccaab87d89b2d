"""A look at a whole cohort before any of it is extracted: what would fail, and what it will cost."""

from __future__ import annotations

import csv
import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from os import PathLike
from pathlib import Path

import numpy as np

from wsikit.encoders.registry import create_encoder
from wsikit.errors import ConfigError, WsikitError
from wsikit.extract.checkup import CheckupSettings, SlideCheck, check_slide
from wsikit.extract.inputs import SlideEntry
from wsikit.extract.settings import EncoderSettings
from wsikit.processes import cores, outlive_workers
from wsikit.store.forecast import STORE_INODES, slide_bytes, slide_inodes
from wsikit.store.format import folder_name

DUPLICATE = "duplicate-id"
DIED = "killed-worker"


@dataclass(frozen=True)
class EncoderSpeed:
    """An encoder on the device at hand.

    Attributes:
        name: The encoder.
        device: "cpu" or "cuda".
        dim: Width of a feature.
        tile_s: Seconds per tile.
        workers: Worker processes that a run would have here: one per core, or per GPU.
        remark: Where its training resolution is not the one asked for.
    """

    name: str
    device: str
    dim: int
    tile_s: float
    workers: int
    remark: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """What a run would come to.

    Attributes:
        slides: One check per slide: those that would fail first, then those with remarks, then by id.
        encoder: How fast the encoder is here.
        tiles: Tiles of all slides that pass.
        store_bytes: Size of their store.
        store_inodes: Its files and folders.
        hours: Time that a run on this machine would take once its workers are up: a rough figure, from a few samples.
    """

    slides: tuple[SlideCheck, ...]
    encoder: EncoderSpeed
    tiles: int
    store_bytes: int
    store_inodes: int
    hours: float

    @property
    def ok(self) -> bool:
        """Whether no slide would fail."""
        return all(check.ok for check in self.slides)


def diagnose(
    entries: Sequence[SlideEntry],
    settings: CheckupSettings,
    *,
    workers: int | None = None,
    progress: Callable[[SlideCheck], None] = lambda check: None,
) -> Diagnosis:
    """Look at slides before a run: see :class:`~wsikit.extract.checkup.SlideCheck` for what is found.

    Nothing is written. The slides are opened in processes of their own, so that a decoder that crashes on one
    of them costs that slide only. Readers and tissue methods that a calling script registers are not known there.

    Args:
        entries: As :func:`wsikit.extract.inputs.list_slides` gives them.
        settings: The run to come, and how closely to look.
        workers: Processes that look; default one per core.
        progress: Told of each slide as it comes, in no order.

    Raises:
        ConfigError: The encoder cannot be built.

    Example:
        >>> settings = CheckupSettings(RunSettings(store=Path()))            # doctest: +SKIP
        >>> diagnose(list_slides(["slides/"]), settings).hours               # doctest: +SKIP
        0.4
    """
    settings.run.configuration()  # errors in names and options come before any work
    speed = _measure(settings.run.encoders[0], settings.run.spec.tile_px, settings.run.spec.target_mpp)
    checks = []
    for entry, found in outlive_workers(partial(check_slide, settings=settings), entries, workers or cores()):
        check = found or SlideCheck(
            entry.slide_id, str(entry.path), DIED,
            f"slide {entry.slide_id}: the process that opens it dies each time, with nothing else running: a decoder "
            "crashes on this file, or it needs too much memory; convert or leave it out",
        )  # fmt: skip
        progress(check)
        checks.append(check)
    checks = _same_files(_same_ids(checks))
    good = [check for check in checks if check.ok]
    return Diagnosis(
        tuple(sorted(checks, key=lambda c: (c.ok, not c.remarks, c.slide_id, c.path))),
        speed,
        tiles=sum(c.tiles for c in good),
        store_bytes=sum(slide_bytes(c.tiles, speed.dim) for c in good),
        store_inodes=STORE_INODES + sum(slide_inodes(c.tiles) for c in good),
        hours=_hours(good, speed),
    )


def _same_ids(checks: Sequence[SlideCheck]) -> list[SlideCheck]:
    """Slides that a run refuses because of their ids: all but the first of each."""
    first: dict[str, SlideCheck] = {}
    found = []
    for check in sorted(checks, key=lambda c: (c.slide_id, c.path)):
        other = first.setdefault(folder_name(check.slide_id), check)
        if other is not check:
            reason = f"{check.path} and {other.path} would both be {other.slide_id!r}; give one another in a manifest"
            check = replace(check, state=DUPLICATE, reason=reason)
        found.append(check)
    return found


def _same_files(checks: Sequence[SlideCheck]) -> list[SlideCheck]:
    """Remarks on slides of one content under several names."""
    alike: dict[str, list[str]] = defaultdict(list)
    for check in checks:
        alike[check.fingerprint].append(check.path)
    return [
        replace(check, remarks=(*check.remarks, f"the same file as {_few(others)}"))
        if check.fingerprint and (others := [p for p in alike[check.fingerprint] if p != check.path])
        else check
        for check in checks
    ]


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _hours(good: Sequence[SlideCheck], speed: EncoderSpeed) -> float:
    """Hours of a run: where reading and encoding share the cores their times add up, with a GPU the longer counts."""
    plan = sum(check.plan_s for check in good)
    read = sum(check.read_s * check.tiles for check in good)
    encode = speed.tile_s * sum(check.tiles for check in good)
    if speed.device == "cpu":
        return (plan + read + encode) / speed.workers / 3600
    return ((plan + read) / cores() if read > encode else plan / cores() + encode / speed.workers) / 3600


def _measure(asked: EncoderSettings, tile_px: int, target_mpp: float) -> EncoderSpeed:
    """Build the encoder in a process of its own and time it there.

    Raises:
        ConfigError: It cannot be built, or its process dies.
    """
    ((_, found),) = outlive_workers(partial(_time_encoder, tile_px=tile_px, target_mpp=target_mpp), [asked], 1)
    if found is None:
        raise ConfigError(f"encoder {asked.name!r}: its process dies while it is built or run: too little memory?")
    if isinstance(found, str):
        raise ConfigError(found)
    return found


def _time_encoder(asked: EncoderSettings, tile_px: int, target_mpp: float) -> EncoderSpeed | str:
    """In a fresh process: speed over noise, a second or more of it; or why there is none."""
    import torch

    from wsikit.extract.clusters import default_workers

    torch.set_num_threads(asked.threads)
    device = asked.device
    if device == "auto":
        device = asked.device_where("cuda" if torch.cuda.is_available() else "cpu")
    options = {} if asked.weights is None else {"weights": asked.weights}
    try:
        encoder = create_encoder(asked.name, precision=asked.precision, device=device, **options)
    except WsikitError as error:
        return str(error)
    card = encoder.card
    pixels = np.random.default_rng(0).integers(0, 256, (asked.batch_size, tile_px, tile_px, 3), np.uint8)
    encoder.encode(pixels[:1])  # loads what is loaded on first use
    began, batches = time.perf_counter(), 0
    while time.perf_counter() - began < 1:
        encoder.encode(pixels)
        batches += 1
    tile_s = (time.perf_counter() - began) / batches / asked.batch_size
    remark = ""
    if card.mpp is not None and abs(card.mpp / target_mpp - 1) > 0.05:
        remark = f"{card.name} was trained at {card.mpp:g} um per pixel, the tiles are to have {target_mpp:g}"
    return EncoderSpeed(card.name, device.split(":")[0], card.dim, tile_s, default_workers(device), remark)


def summary(diagnosis: Diagnosis) -> list[str]:
    """What it amounts to, in lines of text."""
    states = Counter(check.state for check in diagnosis.slides if not check.ok)
    stains = Counter(check.stain.rstrip("?") for check in diagnosis.slides if check.stain)
    speed, bad = diagnosis.encoder, sum(states.values())
    lines = [
        f"{len(diagnosis.slides) - bad} of {len(diagnosis.slides)} slides would be done"
        + (f"; {bad} not: " + ", ".join(f"{n} {state}" for state, n in states.most_common()) if bad else ""),
        "stains, a guess from hues: " + ", ".join(f"{n} {kind}" for kind, n in stains.most_common()),
        f"expected: {diagnosis.tiles:,} tiles; {size_words(diagnosis.store_bytes)} in {diagnosis.store_inodes:,} files "
        f"and folders; about {time_words(diagnosis.hours)} with {speed.workers} workers on the {speed.device} of this "
        f"machine ({1 / speed.tile_s:,.0f} tiles/s each for {speed.name} alone)",
    ]
    return [line for line in (*lines, speed.remark) if line]


def size_words(size: int) -> str:
    """``1.4 GB``: bytes in powers of 1000, as disks are sold."""
    value, units = float(size), ["B", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.3g} {units[0]}"


def time_words(hours: float) -> str:
    """``40 s``, ``12 min``, ``3.5 h``, ``4 days``."""
    if hours < 1 / 60:
        return f"{max(1, round(hours * 3600))} s"
    if hours < 2:
        return f"{hours * 60:.0f} min"
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.0f} days"


def as_json(diagnosis: Diagnosis) -> str:
    """Everything, for a program."""
    return json.dumps({"ok": diagnosis.ok, **asdict(diagnosis)}, indent=1)


def write_csv(path: str | PathLike[str], checks: Sequence[SlideCheck]) -> None:
    """One row per slide, the columns being the attributes of a check."""
    with Path(path).open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        names = [field.name for field in fields(SlideCheck)]
        writer.writerow(names)
        for check in checks:
            row = {**asdict(check), "remarks": "; ".join(check.remarks)}
            for pair in ("mpp", "size_level0_px"):
                row[pair] = " x ".join(f"{v:g}" for v in row[pair] or ())
            writer.writerow([row[name] for name in names])
