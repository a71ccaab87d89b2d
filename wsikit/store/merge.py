"""Join stores of equal configuration, and take slides out of one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import PurePosixPath

from wsikit.config import differences
from wsikit.errors import ChangedError, StoreError, UnknownNameError
from wsikit.registry import nearest
from wsikit.store import format as fmt
from wsikit.store.lease import Lease
from wsikit.store.objects import files_below, read_record, remove_tree, sync_folder, write_atomic
from wsikit.store.places import ObjectPath, StorePath, name_in, place_of
from wsikit.store.reader import FeatureStore, open_store
from wsikit.store.writer import begin_store, read_plan


def merge_stores(
    out: str | PathLike[str] | ObjectPath,
    sources: Sequence[str | PathLike[str] | ObjectPath],
    *,
    progress: Callable[[str], None] = lambda slide_id: None,
    say: Callable[[str], None] = lambda line: None,
) -> list[str]:
    """Copy the finished parts of stores into one.

    SLURM arrays write one store each; this joins them. Objects are copied as they are and their
    hashes compared on the way; a killed merge is repeated with the same command.

    Args:
        out: The store to copy into, new or of equal configuration.
        sources: The stores to copy from; they are not changed.
        progress: Called with each slide's id when it is copied.
        say: Called with a line of text while another run holds ``out``.

    Returns:
        Slides of ``sources``, sorted.

    Raises:
        ChangedError: Configurations differ, or one slide id stands for two slides.
        StoreError: A source is damaged, or the same store as ``out``.
    """
    out, stores = place_of(out), [open_store(path) for path in sources]
    for store in stores:
        if _same(store.path, out):
            raise StoreError(f"merge: {store.path} is both a source and the target")
        lines = differences(stores[0].configuration, store.configuration)
        if lines:
            raise ChangedError(
                f"merge: {store.path} was made with other settings than {stores[0].path}: {'; '.join(lines)}"
            )
    _refuse_conflicts(stores)
    out.mkdir(parents=True, exist_ok=True)
    with Lease(out, say=say) as lease:
        begin_store(out, stores[0].configuration)
        _refuse_conflicts([*stores, open_store(out)])
        for store in stores:
            for slide_id in store.slide_ids:
                lease.check()
                _copy_slide(store.path, out, slide_id)
                progress(slide_id)
    return sorted({slide_id for store in stores for slide_id in store.slide_ids})


def _same(a: StorePath, b: StorePath) -> bool:
    if isinstance(a, ObjectPath) or isinstance(b, ObjectPath):
        return a == b
    return b.exists() and a.resolve() == b.resolve()


def _refuse_conflicts(stores: Sequence[FeatureStore]) -> None:
    first: dict[str, tuple[FeatureStore, str, str]] = {}
    for store in stores:
        for slide_id in store.slide_ids:
            content, plan = str(store.slide(slide_id)["fingerprint"]), read_plan(store.path, slide_id)[1]
            other, other_content, other_plan = first.setdefault(slide_id, (store, content, plan))
            if other_content != content:
                raise ChangedError(
                    f"merge: slide {slide_id!r} is one file in {other.path} (fingerprint {other_content[:12]}) and "
                    f"another in {store.path} ({content[:12]}); give one of them another slide_id"
                )
            if other_plan != plan:
                raise ChangedError(
                    f"merge: slide {slide_id!r} has other coordinates in {other.path} than in {store.path}"
                )


def _copy_slide(source: StorePath, out: StorePath, slide_id: str) -> None:
    here, there = fmt.Layout(source), fmt.Layout(out)
    # The plan goes first: shards count as done only beside the coords that they belong to.
    plan = here.plan_record(slide_id)
    for path in [plan, *(p for p in files_below(here.done(slide_id)) if p != plan and p.suffix != ".partial")]:
        record = read_record(path)
        target = there.private / name_in(here.private, path)
        if record is None or target.is_file():
            continue
        for name, facts in record["objects"].items():
            if _leaves(name, out):
                raise StoreError(f"merge: {source}: a record names {name!r}, outside of the store; do not trust it")
            content = (source / name).read_bytes()
            if hashlib.sha256(content).hexdigest() != facts["sha256"]:
                raise StoreError(f"merge: {source / name} is not what its record says; run 'wsikit verify {source}'")
            write_atomic(out / name, content)
        write_atomic(target, path.read_bytes())


def _leaves(name: str, root: StorePath) -> bool:
    """Whether a path in a record leads out of the store."""
    if isinstance(root, ObjectPath):
        return ".." in PurePosixPath(name).parts or name.startswith("/")
    return not (root / name).resolve().is_relative_to(root.resolve())


def remove_slides(
    root: str | PathLike[str] | ObjectPath, slide_ids: Sequence[str], *, say: Callable[[str], None] = lambda line: None
) -> None:
    """Withdraw slides from a store: their features, coordinates and records.

    Args:
        root: The store.
        slide_ids: All of them must be there, or none is removed.
        say: Called with a line of text while another run holds the store.

    Raises:
        UnknownNameError: No such slide.
    """
    root = place_of(root)
    known = open_store(root).slide_ids
    for slide_id in slide_ids:
        if slide_id not in known:
            raise UnknownNameError(f"store {root}: no slide {slide_id!r}{nearest(slide_id, known)}; none was removed")
    layout = fmt.Layout(root)
    with Lease(root, say=say):
        for slide_id in slide_ids:
            remove_tree(layout.done(slide_id))  # first: without records a half-removed slide is an unplanned one
            sync_folder(layout.private / "done")
            remove_tree(layout.slide(slide_id))
            layout.outcome(slide_id).unlink(missing_ok=True)
