"""Writing a feature store: the store itself, a slide's plan, an encoder's arrays, one shard.

Every function is idempotent: Dask may run a task twice, and a killed run is repeated. What a
function writes is synced and named with its hash in a done record before it returns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.config import config_hash, differences
from wsikit.errors import ChangedError, StoreError
from wsikit.store import format as fmt
from wsikit.store.objects import (
    attributes_of,
    files_below,
    is_whole,
    read_record,
    remove_tree,
    sweep_partials,
    sync,
    write_record,
    zarr_place,
)
from wsikit.store.places import StorePath, name_in


def begin_store(root: StorePath, configuration: Mapping[str, Any]) -> None:
    """Create a store, or check that an existing one has the same configuration.

    Args:
        root: The store's folder, whose parent must exist, or its prefix in a bucket. The caller holds the lease.
        configuration: Tiling, tissue method, resampling: what must be equal for all slides.

    Raises:
        StoreError: The folder holds something else.
        ChangedError: The store was begun with other settings; each is named with both values.
    """
    import zarr

    layout = fmt.Layout(root)
    if (root / "zarr.json").exists():
        stored = store_attributes(root)["configuration"]
        if config_hash(stored) != config_hash(configuration):
            lines = "\n  ".join(differences(stored, configuration))
            raise ChangedError(
                f"store {root} was begun with other settings:\n  {lines}\n"
                "use the stored settings, or write to a new store"
            )
    else:
        foreign = [p.name for p in root.iterdir() if p.name not in (fmt.PRIVATE, "slides") and p.suffix != ".partial"]
        if foreign:
            raise StoreError(
                f"{root} exists and is not a wsikit store (it holds {', '.join(sorted(foreign)[:3])}); "
                "name another --out"
            )
        attributes = {
            "encoding-type": fmt.STORE_TYPE,
            "encoding-version": fmt.VERSION,
            "configuration": dict(configuration),
            "configuration-hash": config_hash(configuration),
        }
        zarr.create_group(zarr_place(root), attributes=attributes, overwrite=False)
    if not (layout.slides / "zarr.json").exists():
        zarr.create_group(zarr_place(layout.slides))
    if not (layout.private / "zarr.json").exists():
        options = fmt.array_options((0,), "uint8", rows=1)
        note: dict[str, Any] = {"purpose": "run records of wsikit (docs/reference/store-format.md); no data"}
        zarr.create_array(zarr_place(layout.private), attributes=note, **options)
    sync([root / "zarr.json", layout.slides / "zarr.json", layout.private / "zarr.json"])


def store_attributes(root: StorePath) -> dict[str, Any]:
    """Attributes of a store's root.

    Raises:
        StoreError: Not a store, or one of a later version.
    """
    if not (root / "zarr.json").is_file():
        hint = "no such folder" if not root.is_dir() else "it has no zarr.json"
        raise StoreError(f"{root} is not a wsikit store: {hint}")
    attributes = attributes_of(root)
    if attributes.get("encoding-type") != fmt.STORE_TYPE:
        raise StoreError(
            f"{root} is a Zarr group but not a wsikit store: encoding-type {attributes.get('encoding-type')!r}"
        )
    if attributes.get("encoding-version") != fmt.VERSION:
        raise StoreError(
            f"{root}: store version {attributes.get('encoding-version')!r}, this wsikit reads {fmt.VERSION!r}; "
            "update wsikit"
        )
    return attributes


def write_plan(
    root: StorePath,
    slide_id: str,
    *,
    attributes: Mapping[str, Any],
    coords: npt.NDArray[np.int32],
    quality: npt.NDArray[np.float32],
) -> None:
    """Write what is known of a slide before any tile is encoded.

    Args:
        root: The store.
        slide_id: The slide.
        attributes: Its facts; plain JSON values, no path, no time, no host.
        coords: (N, 2), x then y, level-0 px, row-major.
        quality: (N, M), the measures named in ``format.QUALITY_NAMES``.
    """
    import zarr

    layout, rows = fmt.Layout(root), len(coords)
    folder = layout.slide(slide_id)
    sweep_partials(folder)
    # What an unfinished plan left is replaced; features are kept, and count as done only for equal coords.
    (folder / "zarr.json").unlink(missing_ok=True)
    for name in ("coords", "quality"):
        remove_tree(folder / name)
    group = zarr.create_group(
        zarr_place(folder), attributes={"encoding-type": fmt.SLIDE_TYPE, "encoding-version": fmt.VERSION, **attributes}
    )
    group.create_array("coords", **fmt.array_options((rows, 2), "int32", rows=max(rows, 1)))[:] = coords
    array = group.create_array(
        "quality",
        attributes={"names": list(fmt.QUALITY_NAMES)},
        **fmt.array_options((rows, len(fmt.QUALITY_NAMES)), "float32", rows=fmt.SHARD_ROWS),
    )
    array[:] = quality
    group.require_group("features")
    objects = [folder / "zarr.json", folder / "features" / "zarr.json"]
    objects += [p for name in ("coords", "quality") for p in files_below(folder / name)]
    write_record(layout.plan_record(slide_id), root, objects, {"tiles": rows})


def write_labels(
    root: StorePath, slide_id: str, labels: Mapping[str, npt.NDArray[np.float32]], *, source: Mapping[str, Any]
) -> None:
    """Write what was drawn on a slide as labels of its tiles, in place of earlier ones.

    Args:
        root: The store.
        slide_id: A planned slide.
        labels: Class -> (N,) share of each tile's area.
        source: What they were made from (hash of the file), as plain JSON values.
    """
    import zarr

    layout, (rows, plan) = fmt.Layout(root), read_plan(root, slide_id)
    folder, record = layout.slide(slide_id) / "labels", layout.labels_record(slide_id)
    record.unlink(missing_ok=True)  # first: without a record there are no labels
    remove_tree(folder)
    names = sorted(labels)
    array = zarr.open_group(
        zarr_place(layout.slide(slide_id)), mode="r+", zarr_format=3, use_consolidated=False
    ).create_array(
        "labels",
        attributes={"names": names, **source},
        **fmt.array_options((rows, max(len(names), 1)), "float32", rows=max(rows, 1)),
    )
    array[:] = np.stack([labels[name] for name in names], axis=1) if names else np.float32("nan")
    write_record(record, root, files_below(folder), {"plan": plan, **source})


def labels_source(root: StorePath, slide_id: str) -> dict[str, Any] | None:
    """The done record of a slide's labels, or None where it has none for its tiles."""
    record = read_record(fmt.Layout(root).labels_record(slide_id))
    if record is None or record.get("plan") != read_plan(root, slide_id)[1] or not is_whole(root, record):
        return None
    return record


def planned(root: StorePath, slide_id: str) -> bool:
    """Whether a slide's plan is complete on disk."""
    return is_whole(root, read_record(fmt.Layout(root).plan_record(slide_id)))


def slide_attributes(root: StorePath, slide_id: str) -> dict[str, Any]:
    """Attributes of a planned slide."""
    return attributes_of(fmt.Layout(root).slide(slide_id))


def add_features(
    root: StorePath,
    slide_id: str,
    key: str,
    *,
    dim: int,
    attributes: Mapping[str, Any],
    quality_names: Sequence[str] = (),
) -> None:
    """Create the arrays of one encoder's features of a slide, or check the ones that are there.

    Args:
        root: The store.
        slide_id: A planned slide.
        key: Key of the encoder.
        dim: Width D of a feature.
        attributes: The encoder's card, identity, settings of the run, versions.
        quality_names: Measures that are written with every shard; features that are there already keep theirs.

    Raises:
        ChangedError: They exist and were made with other settings (batch size, threads), or are not finished
            and were begun with other measures.
    """
    import zarr

    layout = fmt.Layout(root)
    folder, rows = layout.features(slide_id, key), read_plan(root, slide_id)[0]
    stored = features_attributes(root, slide_id, key)
    if stored:
        if stored.get("run") != attributes.get("run"):
            lines = "; ".join(differences(stored.get("run", {}), attributes.get("run", {})))
            raise ChangedError(f"store {root}, slide {slide_id!r}, features {key}: begun with other settings: {lines}")
        begun = stored_quality_names(folder)
        if quality_names and begun and list(quality_names) != begun and missing_shards(root, slide_id, key):
            raise ChangedError(
                f"store {root}, slide {slide_id!r}, features {key}: begun with the quality measures {begun}, "
                f"this wsikit takes {list(quality_names)}; finish with the wsikit that began it, or remove the slide"
            )
        return
    group = zarr.create_group(
        zarr_place(folder),
        attributes={"encoding-type": fmt.FEATURES_TYPE, "encoding-version": fmt.VERSION, "key": key, **attributes},
        overwrite=True,
    )
    group.create_array("values", **fmt.array_options((rows, dim), "float16", rows=fmt.SHARD_ROWS, sharded=True))
    if quality_names:
        group.create_array(
            "quality",
            attributes={"names": list(quality_names)},
            **fmt.array_options((rows, len(quality_names)), "float32", rows=fmt.SHARD_ROWS),
        )
    group.create_array(
        "status",
        attributes={"names": {str(code): name for code, name in fmt.STATUS_NAMES.items()}},
        **fmt.array_options((rows,), "uint8", rows=fmt.SHARD_ROWS),
    )


def features_attributes(root: StorePath, slide_id: str, key: str) -> dict[str, Any]:
    """Attributes of an encoder's features of a slide; empty where they are not begun."""
    folder = fmt.Layout(root).features(slide_id, key)
    if not (folder / "status" / "zarr.json").is_file():  # written last
        return {}
    return attributes_of(folder)


def stored_quality_names(features: StorePath) -> list[str]:
    """Names of the measures that lie beside an encoder's features, in the folder of these; none in older stores."""
    try:
        return [str(name) for name in attributes_of(features / "quality")["names"]]
    except FileNotFoundError:
        return []


def read_plan(root: StorePath, slide_id: str) -> tuple[int, str]:
    """Number of planned tiles of a slide, and the hash of their coords, which its features are bound to.

    Raises:
        StoreError: The slide is not planned.
    """
    layout = fmt.Layout(root)
    record = read_record(layout.plan_record(slide_id))
    if record is None:
        raise StoreError(f"store {root}: slide {slide_id!r} is not planned")
    coords = name_in(root, layout.slide(slide_id) / "coords") + "/"
    hashes = {name: facts["sha256"] for name, facts in record["objects"].items() if name.startswith(coords)}
    return int(record["tiles"]), config_hash(hashes)


def write_shard(
    root: StorePath,
    slide_id: str,
    key: str,
    shard: int,
    *,
    values: npt.NDArray[np.float16],
    status: npt.NDArray[np.uint8],
    facts: Mapping[str, Any],
    quality: npt.NDArray[np.float32] | None = None,
) -> None:
    """Write the rows of one shard and its done record.

    Args:
        root: The store.
        slide_id: The slide.
        key: Key of the encoder.
        shard: Which 4096 rows.
        values: (n, D); rows whose status is not 0 become NaN.
        status: (n,) codes of ``format.STATUS_NAMES``.
        facts: What the record says beside hashes (versions, device).
        quality: (n, M) measures, where ``add_features`` was given their names; rows of unreadable tiles become
            NaN. Passed over for features that were begun without.
    """
    import zarr

    layout = fmt.Layout(root)
    folder = layout.features(slide_id, key)
    group = zarr.open_group(zarr_place(folder), mode="r+", zarr_format=3, use_consolidated=False)
    values_array, status_array = group["values"], group["status"]
    assert isinstance(values_array, zarr.Array)
    assert isinstance(status_array, zarr.Array)
    rows = fmt.rows_of(shard, values_array.shape[0])
    if values.shape != (rows.stop - rows.start, values_array.shape[1]) or status.shape != values.shape[:1]:
        raise ValueError(
            f"slide {slide_id!r}, shard {shard}: values {values.shape} and status {status.shape}, "
            f"expected ({rows.stop - rows.start}, {values_array.shape[1]})"
        )
    values = np.where((status == fmt.OK)[:, None], values, np.float16("nan"))
    # The options of an array's creation are not kept in its metadata: an all-NaN chunk would not be written.
    values_array.with_config({"write_empty_chunks": True})[rows] = values
    status_array.with_config({"write_empty_chunks": True})[rows] = status
    objects = [
        folder / "values" / f"c.{shard}.0",
        folder / "status" / f"c.{shard}",
        *(folder / part / "zarr.json" for part in (".", "values", "status")),
    ]
    if "quality" in group:
        quality_array = group["quality"]
        assert isinstance(quality_array, zarr.Array)
        if quality is None or quality.shape != (len(status), quality_array.shape[1]):
            raise ValueError(
                f"slide {slide_id!r}, shard {shard}: quality of shape {None if quality is None else quality.shape}, "
                f"expected {(len(status), quality_array.shape[1])}: {quality_array.attrs['names']}"
            )
        quality = np.where((status == fmt.UNREADABLE)[:, None], np.float32("nan"), quality)
        quality_array.with_config({"write_empty_chunks": True})[rows] = quality
        objects += [folder / "quality" / f"c.{shard}.0", folder / "quality" / "zarr.json"]
    plan = read_plan(root, slide_id)[1]
    facts = {"rows": len(status), "not_ok": int((status != fmt.OK).sum()), "plan": plan, **facts}
    write_record(layout.shard_record(slide_id, key, shard), root, objects, facts)


def missing_shards(root: StorePath, slide_id: str, key: str) -> list[int]:
    """Shards of a planned slide without a done record for these coords, or with an object gone or cut short."""
    return open_shards(root, slide_id, key)[0]


def open_shards(root: StorePath, slide_id: str, key: str) -> tuple[list[int], int]:
    """The missing shards, and how many rows of the others have no feature."""
    layout = fmt.Layout(root)
    rows, plan = read_plan(root, slide_id)
    missing, not_ok = [], 0
    for shard in range(fmt.shards_of(rows)):
        record = read_record(layout.shard_record(slide_id, key, shard))
        if record is None or record.get("plan") != plan or not is_whole(root, record):
            missing.append(shard)
        else:
            not_ok += int(record["not_ok"])
    return missing, not_ok
