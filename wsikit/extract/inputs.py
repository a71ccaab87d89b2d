"""Which slides to extract: files, folders, and a manifest that says what the files do not."""

from __future__ import annotations

import csv
import hashlib
import hmac
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path

from wsikit.errors import ConfigError
from wsikit.provenance import fingerprint
from wsikit.registry import nearest
from wsikit.slides.annotations import SUFFIXES
from wsikit.slides.base import SLIDE_SUFFIXES, slide_id_of
from wsikit.store.format import check_slide_id, folder_name

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SlideEntry:
    """One slide to extract, and what is given about it.

    Attributes:
        slide_id: Its name in the store.
        path: The file.
        mpp: Micrometres per level-0 pixel (x, y), if given.
        scene: Scene or focal plane, if given.
        tissue: GeoJSON file with the slide's tissue, if given.
        annotations: File with what was drawn on the slide, if given.
        secret: Where ``slide_id`` is a pseudonym: the key that hides what else could give the file away.
    """

    slide_id: str
    path: Path
    mpp: tuple[float, float] | None = None
    scene: str | None = None
    tissue: Path | None = None
    annotations: Path | None = None
    secret: str | None = field(default=None, repr=False)

    def fingerprint(self) -> str:
        """Identity of the file by its content, keyed where the slide has a pseudonym."""
        return self.keyed(fingerprint(self.path))

    def absolute(self) -> SlideEntry:
        """The same slide by absolute paths, for workers in another working directory."""
        tissue, annotations = (path and path.absolute() for path in (self.tissue, self.annotations))
        return replace(self, path=self.path.absolute(), tissue=tissue, annotations=annotations)

    def keyed(self, digest: str) -> str:
        """A hash as it may be kept: as it is, or useless without the key to whoever has the file; 64 hex digits."""
        if self.secret is None:
            return digest
        return hmac.digest(bytes.fromhex(self.secret), digest.encode(), "sha256").hex()


COLUMNS = {
    "path": "file, absolute or relative to the manifest; or give 'slide'",
    "slide": "file name or slide id of one of the slides named on the command line",
    "slide_id": "name in the store (default: the file name without its ending)",
    "mpp": "micrometres per level-0 pixel",
    "mpp_x": "the same along x, where the two differ",
    "mpp_y": "the same along y",
    "scene": "scene or focal plane, for files with several",
    "tissue": "GeoJSON with the slide's tissue, as QuPath exports it; it takes the place of the segmenter",
    "annotations": "what was drawn on the slide: GeoJSON as QuPath exports it, or XML as ASAP writes it",
}
"""Columns of a manifest; one of ``path`` and ``slide`` is needed."""


def collect_slides(
    paths: Iterable[str | PathLike[str]], *, manifest: str | PathLike[str] | None = None
) -> list[SlideEntry]:
    """The slides to extract, sorted by id.

    Args:
        paths: Slide files, and folders to search through (all levels) for files with a slide's ending.
        manifest: CSV with the columns of ``COLUMNS``. Rows with ``path`` add slides; rows with
            ``slide`` say more about slides among ``paths``.

    Raises:
        ConfigError: Nothing found, a missing file, an unknown column, a row that names no slide or
            an odd value, two slides of one id.
    """
    seen: dict[str, SlideEntry] = {}
    for entry in list_slides(paths, manifest=manifest):
        check_slide_id(entry.slide_id)
        other = seen.setdefault(folder_name(entry.slide_id), entry)
        if other is not entry:
            raise ConfigError(
                f"two slides would both be {entry.slide_id!r} in the store: {other.path} and {entry.path}; "
                "give one another 'slide_id' in a manifest"
            )
    return list(seen.values())


def with_annotations(entries: Sequence[SlideEntry], folder: str | PathLike[str]) -> list[SlideEntry]:
    """Slides with the annotation file of a folder that bears their id or file name; a manifest's goes before.

    Raises:
        ConfigError: No such folder, no file of it belongs to any slide, or two belong to one.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ConfigError(f"no such folder of annotations: {folder}")
    files: dict[str, Path] = {}
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES):
        if path.stem in files:
            raise ConfigError(f"two files of annotations for {path.stem!r}: {files[path.stem]} and {path}")
        files[path.stem] = path
    found = [replace(e, annotations=e.annotations or files.get(e.slide_id) or files.get(e.path.stem)) for e in entries]
    if not any(entry.annotations for entry in found):
        raise ConfigError(
            f"folder {folder}: none of its {len(files)} files ({' '.join(SUFFIXES)}) is named like one of the "
            f"{len(entries)} slides; expected for instance {entries[0].slide_id}.geojson"
        )
    return found


def in_part(
    entries: Sequence[SlideEntry], part: tuple[int, int], *, key: str | PathLike[str] | None = None
) -> list[SlideEntry]:
    """The slides of part i of n, dealt out by a hash of their ids: a slide that is added moves no other.

    Args:
        entries: All slides.
        part: (i, n), i from 1 to n.
        key: Key file of pseudonyms, if there are any.

    Raises:
        ConfigError: No such part, or a key file that the parts, begun at once, would each create.
    """
    number, parts = part
    if not 1 <= number <= parts:
        raise ConfigError(f"part {number}/{parts}; expected 1/{max(parts, 1)} to {max(parts, 1)}/{max(parts, 1)}")
    if key is not None and not Path(key).exists():
        raise ConfigError(
            f"no key file {key}: parts that run at once would each make one; make it before with "
            "'wsikit extract SLIDES --part 1/1 ...' on one slide"
        )
    return [e for e in entries if int(hashlib.sha256(e.slide_id.encode()).hexdigest(), 16) % parts == number - 1]


def list_slides(
    paths: Iterable[str | PathLike[str]], *, manifest: str | PathLike[str] | None = None
) -> list[SlideEntry]:
    """The same list with ids that need not be unique, nor able to name a folder: for a look before a run.

    Raises:
        ConfigError: As :func:`collect_slides`, except for what is wrong with ids.
    """
    entries = [SlideEntry(slide_id_of(path), path) for path in _search(paths)]
    if manifest is not None:
        entries = _apply_manifest(entries, Path(manifest))
    if not entries:
        raise ConfigError("no slides: name slide files, folders that hold them, or a manifest with a column 'path'")
    return sorted(entries, key=lambda e: (e.slide_id, str(e.path)))


def _search(paths: Iterable[str | PathLike[str]]) -> list[Path]:
    found: list[Path] = []
    for given in paths:
        path = Path(given)
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
            slides = [p for p in inside if p.suffix.lower() in SLIDE_SUFFIXES]
            if not slides:
                kinds = sorted({p.suffix for p in inside})[:5]
                raise ConfigError(
                    f"folder {path} holds no slides: {len(inside)} files"
                    + (f" ending in {', '.join(k or '(nothing)' for k in kinds)}" if inside else "")
                    + f"; expected {' '.join(SLIDE_SUFFIXES)}; a file with another ending can be named outright"
                )
            if len(slides) < len(inside):
                log.info("folder %s: %d files are not slides and are left out", path, len(inside) - len(slides))
            found += slides
        elif path.exists():
            found.append(path)
        else:
            raise ConfigError(f"no such file or folder: {path}")
    unique = {path.resolve(): path for path in reversed(found)}  # the first spelling of each
    return list(reversed(unique.values()))


def _apply_manifest(entries: Sequence[SlideEntry], manifest: Path) -> list[SlideEntry]:
    try:
        with manifest.open(newline="", encoding="utf-8-sig") as handle:
            reader = csv.DictReader(handle)
            rows = list(reader)
            header = [name or "" for name in reader.fieldnames or []]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"manifest {manifest}: {error}") from error
    for name in header:
        if name not in COLUMNS:
            raise ConfigError(
                f"manifest {manifest}: unknown column {name!r}{nearest(name, COLUMNS)} (known: {', '.join(COLUMNS)})"
            )
    if ("path" in header) == ("slide" in header):
        raise ConfigError(
            f"manifest {manifest}: expected one of the columns 'path' and 'slide', found {', '.join(header)}"
        )
    chosen, index_of = list(entries), _Index(entries)
    told: dict[Path, int] = {}
    for number, row in enumerate(rows, start=2):
        where = f"manifest {manifest}, line {number}"
        if None in row:
            raise ConfigError(f"{where}: more fields than the header has")
        values = {name: (value or "").strip() for name, value in row.items()}
        if not any(values.values()):
            continue
        if "path" in values:
            index = index_of.path(chosen, _beside(manifest, values["path"], where))
        else:
            index = index_of.name(chosen, values["slide"], where)
        entry = chosen[index]
        if entry.path in told:
            raise ConfigError(f"{where}: {entry.path} has a row already, in line {told[entry.path]}")
        told[entry.path] = number
        chosen[index] = replace(
            entry,
            slide_id=values.get("slide_id") or entry.slide_id,
            mpp=_mpp(values, where),
            scene=values.get("scene") or None,
            tissue=_beside(manifest, values["tissue"], where) if values.get("tissue") else None,
            annotations=_beside(manifest, values["annotations"], where) if values.get("annotations") else None,
        )
    return chosen


class _Index:
    """Where a slide stands in the list, by its file and by each of its names: 10,000 rows look for 10,000 slides."""

    def __init__(self, entries: Sequence[SlideEntry]) -> None:
        self._paths = {entry.path.resolve(): i for i, entry in enumerate(entries)}
        self._names: dict[str, list[int]] = {}
        for i, entry in enumerate(entries):
            for name in {entry.path.name, slide_id_of(entry.path), str(entry.path)}:
                self._names.setdefault(name, []).append(i)

    def path(self, entries: list[SlideEntry], path: Path) -> int:
        """Of a file, which is added where it is not among the entries."""
        index = self._paths.setdefault(path.resolve(), len(entries))
        if index == len(entries):
            entries.append(SlideEntry(slide_id_of(path), path))
        return index

    def name(self, entries: list[SlideEntry], name: str, where: str) -> int:
        """Of a slide by its file's name or id."""
        found = self._names.get(name, [])
        if len(found) == 1:
            return found[0]
        if found:
            both = " and ".join(str(entries[i].path) for i in found[:2])
            raise ConfigError(f"{where}: {name!r} is the name of several slides: {both}; use the column 'path'")
        known = [known for e in entries for known in (e.path.name, slide_id_of(e.path))]
        raise ConfigError(f"{where}: no slide {name!r} among the {len(entries)} given{nearest(name, known)}")


def _beside(manifest: Path, name: str, where: str) -> Path:
    """A file that a manifest names, absolute or relative to the manifest."""
    path = Path(name) if Path(name).is_absolute() else manifest.parent / name
    if not name or not path.is_file():
        raise ConfigError(f"{where}: no such file: {name or '(empty)'}")
    return path


def _mpp(values: dict[str, str], where: str) -> tuple[float, float] | None:
    numbers: dict[str, float] = {}
    for name in ("mpp", "mpp_x", "mpp_y"):
        text = values.get(name, "")
        if text:
            try:
                numbers[name] = float(text)
            except ValueError:
                raise ConfigError(f"{where}: {name} is {text!r}; expected a number of micrometres per pixel") from None
            if not 0.02 <= numbers[name] <= 40:
                raise ConfigError(f"{where}: {name} is {text}; expected 0.02 to 40 micrometres per pixel")
    if "mpp" in numbers:
        if len(numbers) > 1:
            raise ConfigError(f"{where}: give either mpp, or mpp_x and mpp_y")
        return numbers["mpp"], numbers["mpp"]
    if len(numbers) == 1:
        raise ConfigError(f"{where}: mpp_x and mpp_y go together")
    return (numbers["mpp_x"], numbers["mpp_y"]) if numbers else None
