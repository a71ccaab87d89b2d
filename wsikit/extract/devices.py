"""Which kinds of device made a store's features, and how well they agree where there are several.

For every key there is one small record per kind of device, ``.wsikit/devices/<key>/<device>.json``: a run reads these
and no slide. Of a store from before there were such records a few slides are looked at.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.extract.failure import MixedDevicesError, writing
from wsikit.extract.inputs import SlideEntry
from wsikit.extract.reextract import LEAST_COSINE, tiles_again
from wsikit.store import format as fmt
from wsikit.store.objects import attributes_of, files_below, is_whole, read_array, read_record, write_atomic
from wsikit.store.places import StorePath
from wsikit.store.shard import read_rows
from wsikit.store.writer import read_plan, slide_attributes

ROWS, SLIDES = 64, 8
"""Rows that two kinds of device are compared on, and slides that these are of; so many slides of an old store tell
what made it."""

Encode = Callable[[npt.NDArray[np.uint8], Mapping[str, Any]], npt.NDArray[np.float32]]
"""Tiles (n, px, px, 3) and the attributes of their slide's features -> features (n, D)."""


@dataclass(frozen=True)
class Agreement:
    """How well features of two kinds of device agree.

    Attributes:
        key: Of the features.
        device: The kind that came later, which encoded the tiles again.
        other: The kind that had made the rows.
        rows: How many were compared.
        least: The least cosine of a row as stored and as encoded again.
        median: The median of them.
        made_with: Versions and CPU capability of the former.
        other_made_with: The same of the latter.
    """

    key: str
    device: str
    other: str
    rows: int
    least: float
    median: float
    made_with: Mapping[str, Any]
    other_made_with: Mapping[str, Any]

    def __str__(self) -> str:
        return (
            f"features {self.key}: made by {self.other} and {self.device}, which agree: cosine of {self.rows} rows "
            f"at least {self.least:.6f}, median {self.median:.6f}"
        )


def agreements(root: StorePath) -> tuple[Agreement, ...]:
    """All that a store has on record."""
    found = [
        fields
        for path in _json_below(fmt.Layout(root).private / "devices")
        for fields in _read(path).get("agreements", {}).values()
    ]
    return tuple(Agreement(**fields) for fields in found)


@dataclass(frozen=True)
class Newcomer:
    """A worker that is about to write features of one key.

    Args:
        root: The store.
        key: Of the features.
        made_with: Its device, versions, CPU capability: what its rows will have on record.
        run: A name that all workers of the run have in common.
        entries: The run's slides, by id.
        encode: Encodes as the run will.
    """

    root: StorePath
    key: str
    made_with: Mapping[str, Any]
    run: str
    entries: Mapping[str, SlideEntry]
    encode: Encode

    def enter(self, *, mixed: bool) -> bool:
        """Put this kind of device on record.

        Args:
            mixed: Whether the store may hold features of several kinds.

        Returns:
            Whether it has been compared with all others. False where another kind of the same run has not written
            any row yet: ask again.

        Raises:
            MixedDevicesError: Others made features of this key and ``mixed`` is not set; or they disagree; or none
                of the run's slides has features to compare with.
        """
        mine, before = self._device, self._records()
        compared = dict(before.get(mine, {}).get("agreements", {}))
        if not mixed:
            self._write(compared)
            for other, record in self._records().items():  # again: another worker may have come meanwhile
                if other == mine:
                    continue
                if (here := record["run"] == self.run) or self._slide_of(other) is not None:
                    if mine not in before:
                        self._path(mine).unlink(missing_ok=True)
                    whose = "other workers of this run have" if here else "those in it were made by"
                    raise MixedDevicesError(
                        f"store {self.root}: features {self.key} would be made by {mine} on {platform.node()}, and "
                        f"{whose} {other}; go on with one kind (--device), or accept both with --mixed-devices: how "
                        "well they agree is then recorded"
                    )
                self._path(other).unlink(missing_ok=True)  # its rows were removed, or never written
            return True
        waiting = False
        for other in before:
            if other == mine or other in compared or mine in before[other].get("agreements", {}):
                continue
            agreement = self._compare(other)
            if agreement is None:
                waiting = True
                if (slide_id := self._slide_of(other)) is not None and slide_id not in self.entries:
                    raise MixedDevicesError(
                        f"store {self.root}: features {self.key} of slide {slide_id} and others were made by {other}, "
                        f"and this run has {mine} but none of those slides: to compare the two, name some of them, too"
                    )
                continue
            if agreement.least < LEAST_COSINE:
                raise MixedDevicesError(
                    f"store {self.root}: features {self.key} by {other}, and by {mine} now, do not agree: of "
                    f"{agreement.rows} rows the least cosine is {agreement.least:.4f}, expected {LEAST_COSINE} or more "
                    f"(median {agreement.median:.4f}); versions may differ, or the precision is too low on one; "
                    f"go on with {other}, or begin another store"
                )
            compared[other] = asdict(agreement)
        self._write(compared)
        return not waiting

    @property
    def _device(self) -> str:
        return str(self.made_with["device"])

    def _path(self, device: str) -> StorePath:
        return fmt.Layout(self.root).private / "devices" / self.key / f"{device}.json"

    def _write(self, compared: Mapping[str, Any]) -> None:
        content = {"run": self.run, "made_with": dict(self.made_with), "agreements": dict(compared)}
        with writing(self.root):
            write_atomic(self._path(self._device), json.dumps(content, sort_keys=True, indent=1).encode())

    def _records(self) -> dict[str, dict[str, Any]]:
        """What is on record by device; of an old store, what a few slides tell."""
        folder = self._path(self._device).parent
        found = {path.stem: _read(path) for path in _json_below(folder)}
        if not found:
            for device, made_with in _made(self.root, self.key, _sample(self.root, self.key)):
                found.setdefault(device, {"run": "", "made_with": made_with, "agreements": {}})
            for device, record in found.items():
                with writing(self.root):
                    write_atomic(folder / f"{device}.json", json.dumps(record, sort_keys=True, indent=1).encode())
        return found

    def _slide_of(self, device: str) -> str | None:
        """A slide with a shard that a kind of device made, or None. It may look at all slides, so ask last."""
        return next((s for s in _slides(self.root, self.key) if _shards(self.root, s, self.key, device)), None)

    def _compare(self, other: str) -> Agreement | None:
        """Encode rows of another kind of device again; None where the run's slides have none."""
        chosen: list[str] = []
        for slide_id in _by_hash(self.entries, self.key):
            if len(chosen) < SLIDES and _shards(self.root, slide_id, self.key, other):
                chosen.append(slide_id)
        cosines, made_with = [], None
        for slide_id in chosen:
            shards = _shards(self.root, slide_id, self.key, other)
            made_with = next(iter(shards.values()))
            cosines.append(self._cosines(slide_id, list(shards), -(-ROWS // len(chosen))))
        found = np.concatenate(cosines)[:ROWS] if cosines else np.empty(0)
        if made_with is None or not len(found):
            return None
        return Agreement(
            self.key, self._device, other, len(found), float(found.min()), float(np.median(found)),
            dict(self.made_with), made_with,
        )  # fmt: skip

    def _cosines(self, slide_id: str, shards: list[int], most: int) -> npt.NDArray[np.float64]:
        entry, attributes = self.entries[slide_id], slide_attributes(self.root, slide_id)
        if entry.fingerprint() != attributes["fingerprint"]:
            return np.empty(0)  # its own row of the table will say so
        layout = fmt.Layout(self.root)
        folder = layout.features(slide_id, self.key)
        status = np.asarray(read_array(folder / "status")[:])
        coords = np.asarray(read_array(layout.slide(slide_id) / "coords")[:], np.int32)
        spans = [fmt.rows_of(shard, len(status)) for shard in shards]
        rows = np.concatenate([np.arange(span.start, span.stop) for span in spans])
        rows = rows[status[rows] == fmt.OK]
        rng = np.random.default_rng(int(attributes["fingerprint"][:16], 16))
        rows = np.sort(rng.choice(rows, min(most, len(rows)), replace=False))
        pixels, again = tiles_again(entry, attributes, coords[rows])
        read = again == fmt.OK
        stored = read_rows(folder / "values", rows.tolist())[read]
        fresh = self.encode(pixels[read], attributes_of(folder)).astype(np.float16)
        return _cosines(stored.astype(np.float64), fresh.astype(np.float64))


def _cosines(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Of each row (n, D) with its counterpart; two rows of zeros agree."""
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    equal = (a == b).all(axis=1)
    cosines = (a * b).sum(axis=1) / np.where(norms > 0, norms, 1.0)
    return np.asarray(np.where(norms > 0, cosines, equal), np.float64)


def _json_below(folder: StorePath) -> list[StorePath]:
    return [path for path in files_below(folder) if path.suffix == ".json"]


def _read(path: StorePath) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_bytes()))
    except FileNotFoundError:  # another worker has withdrawn it a moment ago
        return {"run": "", "agreements": {}}


def _by_hash(slide_ids: Iterable[str], key: str) -> list[str]:
    return sorted(slide_ids, key=lambda s: hashlib.sha256(f"{key} {s}".encode()).digest())


def _slides(root: StorePath, key: str) -> Iterator[str]:
    """Slides with finished shards of a key, in an order that nobody chose."""
    done = fmt.Layout(root).private / "done"
    for slide_id in _by_hash((p.name for p in done.iterdir()) if done.is_dir() else (), key):
        if (done / slide_id / key).is_dir():
            yield slide_id


def _sample(root: StorePath, key: str) -> list[str]:
    return [slide_id for slide_id, _ in zip(_slides(root, key), range(SLIDES), strict=False)]


def _made(root: StorePath, key: str, slide_ids: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for slide_id in slide_ids:
        for path in files_below(fmt.Layout(root).done(slide_id) / key):
            made_with = (read_record(path) or {}).get("made_with")
            if made_with:
                yield made_with["device"], made_with


def _shards(root: StorePath, slide_id: str, key: str, device: str) -> dict[int, dict[str, Any]]:
    """Finished shards of a slide that a kind of device made, with what else is on record of it."""
    folder, found = fmt.Layout(root).done(slide_id) / key, {}
    for path in files_below(folder):
        record = read_record(path)
        if record is None or not path.name.isdecimal() or record.get("made_with", {}).get("device") != device:
            continue
        if record.get("plan") == read_plan(root, slide_id)[1] and is_whole(root, record):
            found[int(path.name)] = dict(record["made_with"])
    return found
