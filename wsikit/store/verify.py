"""Check a store against its own records: every object's hash, shapes, and values against statuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from wsikit.errors import StoreError
from wsikit.store import format as fmt
from wsikit.store.objects import files_below, read_record, sha256_of
from wsikit.store.places import ObjectPath, StorePath, name_in
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
    findings = []
    for slide_id in store.slide_ids if slide_ids is None else slide_ids:
        store.require(slide_id)
        findings += list(_verify_slide(store, slide_id))
        progress(slide_id)
    if slide_ids is None:
        findings += verify_listing(store)
    return findings


def verify_listing(store: FeatureStore) -> list[Finding]:
    """Slide groups that no plan record names: a killed run left them."""
    known = set(store.slide_ids)
    slides = fmt.Layout(store.path).slides.iterdir()  # beside them lies one file
    groups = sorted(p.name for p in slides if p.name != "zarr.json" and (isinstance(p, ObjectPath) or p.is_dir()))
    return [Finding(name, "unfinished", "its plan is not finished") for name in groups if name not in known]


def _verify_slide(store: FeatureStore, slide_id: str) -> Iterator[Finding]:
    layout = fmt.Layout(store.path)
    recorded: set[str] = set()
    damaged = False
    for path in files_below(layout.done(slide_id)):
        record = read_record(path)
        if record is None:
            yield Finding(slide_id, "damaged", f"done record {name_in(store.path, path)} cannot be read")
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
    for path in files_below(layout.slide(slide_id)):
        name = name_in(store.path, path)
        if name not in recorded and path.name != "zarr.json":
            yield Finding(slide_id, "unknown", f"{name} is in no done record (left by a killed run?)")
    if damaged:
        return  # reading on would only repeat it
    yield from _verify_values(store, slide_id)


def _object_wrong(path: StorePath, facts: dict[str, object]) -> str:
    if not path.is_file():
        return "missing"
    if path.stat().st_size != facts["bytes"]:
        return f"{path.stat().st_size} bytes, recorded {facts['bytes']}"
    found = sha256_of(path)
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
