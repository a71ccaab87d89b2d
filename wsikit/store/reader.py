"""Reading a feature store: bags, coordinates, statuses, and what made them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.errors import ConfigError, StoreError, UnknownNameError
from wsikit.registry import nearest
from wsikit.store import format as fmt
from wsikit.store.objects import attributes_of, files_below, read_array
from wsikit.store.places import ObjectPath, StorePath, place_of
from wsikit.store.shard import read_rows
from wsikit.store.writer import labels_source, missing_shards, slide_attributes, store_attributes, stored_quality_names

JOIN = "+"
"""Between the keys of encoders whose features are the columns of one bag."""
Bounds = Mapping[str, tuple[float | None, float | None]]
"""Quality measure -> (least, most), either None for no bound."""


@dataclass(frozen=True)
class Bag:
    """The features of one slide as they are stored, without the rows that have none.

    Attributes:
        x: (N, D) float16.
        coords: (N, 2) int32, x then y of the tile's top-left corner, level-0 px.
        slide_id: The slide.
        rows: (N,) int64, which of the slide's planned tiles these are.
        stride_level0_px: (x, y) distance of neighbouring origins, level-0 px; None where the store does not say.
        planned: How many tiles were planned: these, and those without features or outside the bounds.
    """

    x: npt.NDArray[np.float16]
    coords: npt.NDArray[np.int32]
    slide_id: str
    rows: npt.NDArray[np.int64]
    stride_level0_px: tuple[float, float] | None
    planned: int

    def __len__(self) -> int:
        return len(self.x)

    @property
    def grid(self) -> npt.NDArray[np.int64]:
        """(N, 2) place of each tile, x then y, in steps of the slide's grid; 0 is the slide's corner.

        Raises:
            StoreError: The store does not say how far apart tiles are.
        """
        if self.stride_level0_px is None:
            raise StoreError(
                f"slide {self.slide_id!r}: its attributes in the store have no stride_level0_px, so that neighbouring "
                "tiles are not known; extract it again"
            )
        return np.rint(self.coords / self.stride_level0_px).astype(np.int64)


class FeatureStore:
    """A feature store, opened for reading by :func:`wsikit.open_store`.

    Attributes:
        path: Its folder, or its prefix in a bucket.
        attributes: Attributes of its root: format version, configuration and its hash.
    """

    def __init__(self, path: StorePath) -> None:
        self.path = path
        self.attributes = store_attributes(path)
        self._layout = fmt.Layout(path)
        if not self._layout.private.is_dir():
            raise StoreError(
                f"store {path}: its folder {fmt.PRIVATE} is missing, which says what is finished; if the store was "
                "copied, copy it again with its hidden files"
            )

    @property
    def configuration(self) -> dict[str, Any]:
        """How the slides were tiled."""
        return dict(self.attributes["configuration"])

    @property
    def slide_ids(self) -> list[str]:
        """Slides with planned tiles, sorted."""
        done = self._layout.private / "done"
        if isinstance(done, ObjectPath):  # one listing, in place of a question for each slide
            return sorted(p.parent.name for p, _ in done.below() if p.name == "plan" and p.parent.parent == done)
        if not done.is_dir():
            return []
        return sorted(p.name for p in done.iterdir() if (p / "plan").exists())

    def slide(self, slide_id: str) -> dict[str, Any]:
        """What is known of a slide: fingerprint, mpp, level read, counts."""
        self.require(slide_id)
        return slide_attributes(self.path, slide_id)

    def keys(self, slide_id: str) -> list[str]:
        """Keys of the encoders that a slide has features of, finished or not."""
        self.require(slide_id)
        folder = self._layout.slide(slide_id) / "features"
        return sorted(p.name for p in folder.iterdir() if (p / "zarr.json").is_file())

    def encoder(self, slide_id: str, encoder: str) -> dict[str, Any]:
        """The card, identity and run settings of an encoder's features."""
        parts = [attributes_of(self._layout.features(slide_id, k)) for k in self._keys(slide_id, encoder)]
        if len(parts) == 1:
            return parts[0]
        names, dims = zip(*((part["card"]["name"], part["card"]["dim"]) for part in parts), strict=True)
        card = {"name": JOIN.join(names), "dim": sum(dims)}
        return {"key": self.resolve(slide_id, encoder), "card": card, "parts": parts}

    def _keys(self, slide_id: str, encoder: str) -> list[str]:
        """The keys whose columns make up these features: mostly one."""
        return self.resolve(slide_id, encoder).split(JOIN)

    def resolve(self, slide_id: str, encoder: str) -> str:
        """The key that an encoder's name (or the key itself) stands for.

        Names joined by ``+`` stand for the columns of all of them side by side; so do they wherever an encoder is
        asked for.

        Raises:
            UnknownNameError: No such features, or several of that name; all keys are listed.
        """
        if JOIN in encoder:
            return JOIN.join(self.resolve(slide_id, one) for one in encoder.split(JOIN))
        keys = self.keys(slide_id)
        if encoder in keys:
            return encoder
        names = {key: attributes_of(self._layout.features(slide_id, key))["card"] for key in keys}
        found = [key for key, card in names.items() if isinstance(card, dict) and card["name"] == encoder]
        if len(found) == 1:
            return found[0]
        if found:
            raise UnknownNameError(
                f"store {self.path}, slide {slide_id!r}: several features of encoder {encoder!r}; "
                f"give the key: {', '.join(found)}"
            )
        raise UnknownNameError(
            f"store {self.path}, slide {slide_id!r}: no features of encoder {encoder!r}{nearest(encoder, keys)} "
            f"(it has: {', '.join(keys) or 'none'})"
        )

    def has(self, slide_id: str, encoder: str) -> bool:
        """Whether a slide has features of an encoder (name or key), finished or not."""
        try:
            self.resolve(slide_id, encoder)
        except UnknownNameError:
            return False
        return True

    def finished(self, slide_id: str, encoder: str) -> bool:
        """Whether every shard of a slide's features is done."""
        return not any(missing_shards(self.path, slide_id, key) for key in self._keys(slide_id, encoder))

    def digest(self, slide_id: str, encoder: str) -> str:
        """Identity of a slide's tiles and features, by the records that hold every object's hash; 64 hex digits."""
        keys = self._finished_keys(slide_id, encoder)
        done = self._layout.done(slide_id)
        digest = hashlib.sha256()
        for record in (done / "plan", *(file for key in keys for file in files_below(done / key))):
            digest.update(record.name.encode() + b"\0" + record.read_bytes())
        return digest.hexdigest()

    def status(self, slide_id: str, *, encoder: str) -> npt.NDArray[np.uint8]:
        """Status of every planned tile, (N,) uint8: 0 ok, 1 unreadable, 2 no finite number.

        Raises:
            StoreError: The features are not finished; or some tiles have those of one encoder only, where several
                are asked for.
        """
        keys = self._finished_keys(slide_id, encoder)
        found = [np.asarray(read_array(self._layout.features(slide_id, k) / "status")[:], np.uint8) for k in keys]
        for key, other in zip(keys[1:], found[1:], strict=True):
            lone = int(((found[0] == fmt.OK) != (other == fmt.OK)).sum())
            if lone:
                raise StoreError(
                    f"store {self.path}, slide {slide_id!r}: {lone} tiles have features of only one of {keys[0]} and "
                    f"{key}; columns are joined tile by tile, so use one of the encoders, or leave the slide out"
                )
        return found[0]

    def coords(self, slide_id: str) -> npt.NDArray[np.int32]:
        """(N, 2) int32 of every planned tile: x then y of the top-left corner, level-0 px."""
        self.require(slide_id)
        return np.asarray(read_array(self._layout.slide(slide_id) / "coords")[:], np.int32)

    def quality(self, slide_id: str, *, encoder: str | None = None) -> dict[str, npt.NDArray[np.float32]]:
        """Every quality measure of every planned tile, by name, each (N,) float32.

        Args:
            slide_id: One of ``slide_ids``.
            encoder: Beside whose features the measures are read; default: any that has them. They are of the
                tiles as scanned, whatever the encoder.

        Returns:
            ``tissue_fraction``, and what was measured on the pixels (``slides.quality.QUALITY_NAMES``), NaN for
            tiles that could not be read. Features extracted before there were measures have ``tissue_fraction`` alone.

        Raises:
            UnknownNameError: No such slide or encoder.
            StoreError: The encoder's features are not finished.

        Example:
            >>> sharp = store.quality("a")["focus"] > 0.15            # doctest: +SKIP
        """
        self.require(slide_id)
        found = self._columns(self._layout.slide(slide_id) / "quality")
        if encoder is not None:
            keys = self._finished_keys(slide_id, encoder)
        else:
            keys = [key for key in self.keys(slide_id) if not missing_shards(self.path, slide_id, key)]
        folders = [self._layout.features(slide_id, key) for key in keys]
        measured = next((folder for folder in folders if stored_quality_names(folder)), None)
        return found if measured is None else {**found, **self._columns(measured / "quality")}

    def labels(self, slide_id: str) -> dict[str, npt.NDArray[np.float32]]:
        """What was drawn on a slide: for each class the share of every planned tile's area, (N,) float32.

        A class that is not named covers nothing: the slide was annotated without it.

        Raises:
            UnknownNameError: No such slide, or no annotations were given for it.
        """
        self.require(slide_id)
        if labels_source(self.path, slide_id) is None:
            raise UnknownNameError(
                f"store {self.path}, slide {slide_id!r}: no annotations; 'wsikit extract ... --annotations FOLDER' "
                "with the same settings adds them"
            )
        return self._columns(self._layout.slide(slide_id) / "labels")

    def values(
        self,
        slide_id: str,
        *,
        encoder: str,
        rows: Sequence[int] | None = None,
        out: npt.NDArray[np.float16] | None = None,
    ) -> npt.NDArray[np.float16]:
        """Features of every planned tile (or of some rows), NaN where the status is not 0; (N, D) float16.

        They are written into ``out`` where it is given; else into a fresh array.
        """
        keys = self._finished_keys(slide_id, encoder)
        arrays = [self._layout.features(slide_id, key) / "values" for key in keys]
        if len(arrays) == 1:
            return read_rows(arrays[0], rows, out)
        return np.concatenate([read_rows(array, rows) for array in arrays], axis=1, out=out)

    def bag(self, slide_id: str, *, encoder: str, where: Bounds | None = None) -> Bag:
        """The features of a slide, without the rows that have none.

        Args:
            slide_id: One of ``slide_ids``.
            encoder: Name of the encoder, or the key of its features.
            where: Quality measure -> (least, most), either None for no bound: keep only tiles within all bounds,
                ends included. A tile without the measure is not within them.

        Raises:
            UnknownNameError: No such slide, encoder or quality measure.
            ConfigError: A bound that is not a pair of numbers, or the least above the most.
            StoreError: The features are not finished.

        Example:
            >>> sharp = {"focus": (0.15, None), "pen": (None, 0.1)}
            >>> bag = store.bag("a", encoder="texture", where=sharp)    # doctest: +SKIP
        """
        tiles = self.tiles(slide_id, encoder=encoder, where=where)
        x = self.values(slide_id, encoder=encoder)
        return replace(tiles, x=x if len(tiles) == len(x) else x[tiles.rows])

    def tiles(self, slide_id: str, *, encoder: str, where: Bounds | None = None) -> Bag:
        """The bag of a slide without its features, quick to read: ``x`` is (N, 0).

        ``values`` gives the features of some of its ``rows``. Arguments and errors are those of ``bag``.
        """
        keep = self.status(slide_id, encoder=encoder) == fmt.OK
        if where:
            keep &= self._within(slide_id, encoder, where)
        rows = np.flatnonzero(keep)
        stride = self.slide(slide_id).get("stride_level0_px")
        step = stride and (float(stride[0]), float(stride[1]))
        none = np.empty((len(rows), 0), np.float16)
        return Bag(none, self.coords(slide_id)[rows], slide_id, rows, step, len(keep))

    def _within(self, slide_id: str, encoder: str, where: Bounds) -> npt.NDArray[np.bool_]:
        """Which tiles lie within bounds, (N,)."""
        columns = self.quality(slide_id, encoder=encoder)
        if not set(where) <= set(columns):
            columns = {**self.quality(slide_id), **columns}  # these features are older than another encoder's
        keep = np.ones(len(columns[fmt.QUALITY_NAMES[0]]), np.bool_)
        for name, bounds in where.items():
            if name not in columns:
                raise UnknownNameError(
                    f"store {self.path}, slide {slide_id!r}: no quality measure {name!r}{nearest(name, columns)} "
                    f"(it has: {', '.join(columns)}); features that were extracted before "
                    "there were measures of the pixels have none: extract into a new store"
                )
            try:
                least, most = (given if given is None else float(given) for given in bounds)
            except (TypeError, ValueError):
                raise ConfigError(f"where: {name}={bounds!r}; expected (least, most), either may be None") from None
            if least is not None and most is not None and least > most:
                raise ConfigError(f"where: {name}={bounds!r}; the least is above the most")
            keep &= columns[name] >= (-np.inf if least is None else least)
            keep &= columns[name] <= (np.inf if most is None else most)
        return keep

    def _finished_keys(self, slide_id: str, encoder: str) -> list[str]:
        keys = self._keys(slide_id, encoder)
        for key in keys:
            missing = missing_shards(self.path, slide_id, key)
            if not missing:
                continue
            raise StoreError(
                f"store {self.path}, slide {slide_id!r}, features {key}: {len(missing)} shards are not finished; "
                "run the same 'wsikit extract' again: it does only what is missing"
            )
        return keys

    def require(self, slide_id: str) -> None:
        """Raise UnknownNameError where the store has no planned slide of that name; those near it are named."""
        if not self._layout.plan_record(slide_id).is_file():
            known = self.slide_ids
            raise UnknownNameError(
                f"store {self.path}: no slide {slide_id!r}{nearest(slide_id, known)} (it has {len(known)} slides)"
            )

    def _columns(self, path: StorePath) -> dict[str, npt.NDArray[np.float32]]:
        """The columns of an (N, M) array that has their names in its attributes."""
        array = read_array(path)
        values = np.asarray(array[:], np.float32)
        return {str(name): values[:, i] for i, name in enumerate(array.attrs["names"])}


def open_store(path: str | PathLike[str] | ObjectPath) -> FeatureStore:
    """Open a feature store for reading.

    Args:
        path: Its folder, or where it lies in a bucket: ``"s3://bucket/cohort.zarr"``.

    Raises:
        StoreError: Not a wsikit store, or one of a later version.
        StoreAccessError: The bucket is not there or cannot be read.
        ConfigError: A URL that names no store, or the extra ``cloud`` is not installed.

    Example:
        >>> store = wk.open_store("cohort.zarr")          # doctest: +SKIP
        >>> bag = store.bag("a", encoder="colour")        # doctest: +SKIP
    """
    return FeatureStore(place_of(path))
