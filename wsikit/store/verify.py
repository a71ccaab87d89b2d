"""Check a store against its own records: every object's hash, shapes, and values against statuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsikit.errors import StoreError, UnknownNameError
from wsikit.provenance import sha256_file
from wsikit.store import format as fmt
from wsikit.store.objects import read_record
from wsikit.store.reader import FeatureStore
from wsikit.store.writer import missing_shards, read_plan


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        slide_id: The slide.
        kind: "damaged" (bytes differ from the record), "unfinished", "inconsistent" (values against
            status, coords outside the slide), "unknown" (files of no record) or "differs" (re-extraction).
        what: In words, with the object's name.
    """

    slide_id: str
    kind: str
    what: str


def verify_store(
    store: FeatureStore,
    slide_ids: Sequence[str] | None = None,
    *,
    progress: Callable[[str], None] = lambda slide_id: None,
) -> list[Finding]:
    """Everything that is wrong with a store, or with some of its slides.

    Args:
        store: The store.
        slide_ids: Default: all, and then slide groups without a record are found too.
        progress: Called with each slide's id when it is done.

    Returns:
        Findings, none if all is well.
    """
    known = store.slide_ids
    findings = []
    for slide_id in known if slide_ids is None else slide_ids:
        if slide_id not in known:
            raise UnknownNameError(f"store {store.path}: no slide {slide_id!r} (it has {len(known)} slides)")
        findings += list(_verify_slide(store, slide_id))
        progress(slide_id)
    if slide_ids is None:
        findings += verify_listing(store)
    return findings


def verify_listing(store: FeatureStore) -> list[Finding]:
    """Slide groups that no plan record names: a killed run left them."""
    known = set(store.slide_ids)
    groups = sorted(p.name for p in fmt.Layout(store.path).slides.iterdir() if p.is_dir())
    return [Finding(name, "unfinished", "its plan is not finished") for name in groups if name not in known]


def _verify_slide(store: FeatureStore, slide_id: str) -> Iterator[Finding]:
    layout = fmt.Layout(store.path)
    recorded: set[str] = set()
    damaged = False
    for path in sorted(p for p in layout.done(slide_id).rglob("*") if p.is_file()):
        record = read_record(path)
        if record is None:
            yield Finding(slide_id, "damaged", f"done record {path.relative_to(store.path)} cannot be read")
            damaged = True
            continue
        for name, facts in record["objects"].items():
            if name in recorded:
                continue
            recorded.add(name)
            wrong = _object_wrong(store.path / name, facts)
            if wrong:
                yield Finding(slide_id, "damaged", f"{name}: {wrong}")
                damaged = True
    for path in sorted(p for p in layout.slide(slide_id).rglob("*") if p.is_file()):
        name = path.relative_to(store.path).as_posix()
        if name not in recorded and path.name != "zarr.json":
            yield Finding(slide_id, "unknown", f"{name} is in no done record (left by a killed run?)")
    if damaged:
        return  # reading on would only repeat it
    yield from _verify_values(store, slide_id)


def _object_wrong(path: Path, facts: dict[str, object]) -> str:
    if not path.exists():
        return "missing"
    if path.stat().st_size != facts["bytes"]:
        return f"{path.stat().st_size} bytes, recorded {facts['bytes']}"
    found = sha256_file(path)
    return "" if found == facts["sha256"] else f"sha256 {found[:12]}..., recorded {str(facts['sha256'])[:12]}..."


def _verify_values(store: FeatureStore, slide_id: str) -> Iterator[Finding]:
    rows, _ = read_plan(store.path, slide_id)
    coords = store.coords(slide_id)
    if coords.shape != (rows, 2):
        yield Finding(slide_id, "inconsistent", f"coords of shape {coords.shape}, planned {rows} tiles")
        return
    facts = store.slide(slide_id)
    reach = np.asarray(facts["size_level0_px"]) - np.floor(np.asarray(facts["tile_level0_px"])) + 1
    if rows and ((coords < 0).any() or (coords > reach).any()):
        yield Finding(slide_id, "inconsistent", f"coords outside the slide of {facts['size_level0_px']} px")
    for key in store.keys(slide_id):
        missing = missing_shards(store.path, slide_id, key)
        if missing:
            yield Finding(
                slide_id, "unfinished", f"features {key}: {len(missing)} of {fmt.shards_of(rows)} shards to do"
            )
            continue
        try:
            status, values = store.status(slide_id, encoder=key), store.values(slide_id, encoder=key)
        except StoreError as error:
            yield Finding(slide_id, "damaged", str(error))
            continue
        finite = np.isfinite(values).all(axis=1)
        wrong = np.flatnonzero(finite != (status == fmt.OK))
        if len(wrong):
            yield Finding(
                slide_id, "inconsistent", f"features {key}: {len(wrong)} rows whose values contradict their status, "
                f"the first {wrong[0]}"
            )  # fmt: skip
        for name, column in store.quality(slide_id, encoder=key).items():
            wrong = np.flatnonzero(~np.isfinite(column) & (status != fmt.UNREADABLE))
            if len(wrong):
                yield Finding(
                    slide_id, "inconsistent", f"features {key}: {name!r} is missing for {len(wrong)} tiles that were "
                    f"read, the first {wrong[0]}"
                )  # fmt: skip
