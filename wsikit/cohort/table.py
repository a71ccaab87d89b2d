"""The cohort: a table of slides and patients joined to one or several stores, and what was left out."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

import numpy as np

from wsikit.cohort.endpoints import Endpoint, Target
from wsikit.errors import ConfigError
from wsikit.registry import nearest
from wsikit.store import format as fmt
from wsikit.store.places import ObjectPath, StorePath
from wsikit.store.reader import FeatureStore, open_store

SLIDE, PATIENT = "slide_id", "patient_id"
_LIKE_PATIENT = ("patient", "patientid", "case", "caseid", "subject", "subjectid", "submitterid", "bcrpatientbarcode")


_Given = str | PathLike[str] | ObjectPath | FeatureStore
"""What stands for a store."""


@dataclass(frozen=True)
class CohortSlide:
    """One slide of a patient.

    Attributes:
        slide_id: Its name.
        store: The store that has it.
        path: The slide file, where the table says so (for pictures only).
    """

    slide_id: str
    store: FeatureStore
    path: Path | None


@dataclass(frozen=True)
class Exclusion:
    """A slide or patient that was left out.

    Attributes:
        kind: "slide" or "patient".
        name: Its id.
        reason: A short phrase, the same for all of one cause: it is counted.
    """

    kind: str
    name: str
    reason: str


@dataclass(frozen=True)
class Cohort:
    """Patients with slides and an outcome, in order of ``patient_id``.

    Attributes:
        patients: Ids, sorted.
        slides: Of each patient, sorted by id.
        endpoint: What is predicted.
        target: Of each patient.
        encoder: Key of the features, the same in every store.
        columns: Every other column of the table, as text, of each patient (of its first slide).
        exclusions: What was left out, and why.
        rows: Rows of the table.
        mixed: Of such a column, the patients whose slides do not all have the same value.
    """

    patients: tuple[str, ...]
    slides: tuple[tuple[CohortSlide, ...], ...]
    endpoint: Endpoint
    target: Target
    encoder: str
    columns: Mapping[str, tuple[str, ...]] = field(repr=False)
    exclusions: tuple[Exclusion, ...] = ()
    rows: int = 0
    mixed: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.patients)

    @property
    def n_slides(self) -> int:
        """Slides of all patients."""
        return sum(map(len, self.slides))

    @property
    def excluded(self) -> dict[str, int]:
        """How many were left out for each reason."""
        return dict(Counter(f"{e.kind}: {e.reason}" for e in self.exclusions))

    def index(self, patients: Sequence[str]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Positions of patients, (n,) int64."""
        at = {p: i for i, p in enumerate(self.patients)}
        return np.array([at[p] for p in patients], np.int64)


def load_cohort(
    table: str | PathLike[str],
    *,
    endpoint: Endpoint,
    stores: _Given | Sequence[_Given],
    encoder: str = "texture",
    missing_slides: str = "refuse",
) -> Cohort:
    """Join a table of patients to the stores that hold their slides.

    The table is a CSV with ``slide_id``, ``patient_id`` (default: the slide is its own patient), the
    endpoint's columns, and any others; ``path`` is the slide file, for pictures. A row is a slide; the
    outcome belongs to the patient and has to be the same in all of its rows.

    Args:
        table: The CSV.
        endpoint: What is predicted.
        stores: One or several.
        encoder: Name or key of the features.
        missing_slides: What to do with slides of the table that no store has finished features of:
            ``refuse`` (an error that lists them) or ``exclude`` (left out, counted and named).

    Raises:
        ConfigError: A missing column, a slide twice, a patient with two outcomes, unknown slides,
            values that the endpoint does not take, or nobody left.

    Example:
        >>> cohort = load_cohort("cohort.csv", endpoint=ClassLabel("label", ("0", "1")), stores="features.zarr")
        ... # doctest: +SKIP
    """
    path = Path(table)
    if missing_slides not in ("refuse", "exclude"):
        raise ConfigError(f"missing_slides: {missing_slides!r}, expected 'refuse' or 'exclude'")
    rows = read_rows(path, needed=(SLIDE, *endpoint.columns))
    opened = _open(stores)
    owner = _owners(opened)
    key = _one_key(opened, encoder)
    exclusions: list[Exclusion] = []
    rows_of: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        rows_of.setdefault(row[PATIENT], []).append(row)

    unusable = {row[SLIDE]: reason for row in rows if (reason := _unusable(row[SLIDE], owner, key)) is not None}
    if unusable and missing_slides == "refuse":
        shown = ", ".join(f"{name} ({reason})" for name, reason in list(unusable.items())[:5])
        raise ConfigError(
            f"{path}: {len(unusable)} of {len(rows)} slides cannot be used: {shown}"
            f"{' ...' if len(unusable) > 5 else ''}{_spelling(unusable, owner)}; "
            "extract them, or leave them out with 'missing_slides: exclude'"
        )
    exclusions += [Exclusion("slide", name, reason) for name, reason in sorted(unusable.items())]
    listed = {row[SLIDE] for row in rows}
    exclusions += [Exclusion("slide", name, "in the store but not in the table") for name in sorted({*owner} - listed)]

    patients, slides, cells = [], [], []
    for patient in sorted(rows_of):
        mine = rows_of[patient]
        cell = _outcome(mine, endpoint, patient)
        kept = sorted((r for r in mine if r[SLIDE] not in unusable), key=lambda r: r[SLIDE])
        empty = next((column for column in endpoint.columns if not cell[column]), None)
        if not kept:
            exclusions.append(Exclusion("patient", patient, "no slide that can be used"))
        elif empty is not None:
            exclusions.append(Exclusion("patient", patient, f"no value of {empty}"))
            exclusions += [Exclusion("slide", r[SLIDE], "of a patient left out") for r in kept]
        else:
            patients.append(patient)
            cells.append(kept[0])
            slides.append(tuple(CohortSlide(r[SLIDE], owner[r[SLIDE]], _path(r, path)) for r in kept))
    if not patients:
        counted = ", ".join(f"{n} x {reason}" for reason, n in Counter(e.reason for e in exclusions).items())
        raise ConfigError(f"{path}: no patient is left ({counted or 'the table is empty'})")
    target = endpoint.parse(cells, patients)
    other = [c for c in cells[0] if c not in (SLIDE, PATIENT, *endpoint.columns)]
    columns = {c: tuple(row[c] for row in cells) for c in other}
    mixed = {c: tuple(p for p in patients if len({row[c] for row in rows_of[p]}) > 1) for c in other}
    return Cohort(tuple(patients), tuple(slides), endpoint, target, key, columns, tuple(exclusions), len(rows), mixed)


def read_rows(path: Path, *, needed: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a table as stripped text; ``patient_id`` is filled with the slide's where the column is missing.

    Raises:
        ConfigError: No such file, not UTF-8, a missing column or one twice, a column that looks like the
            patient's under another name, an empty id, a slide in two rows.
    """
    if not path.is_file():
        raise ConfigError(f"no table {path}: expected a CSV file with columns {', '.join(needed)}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as e:
        raise ConfigError(f"{path}: not UTF-8 text ({e}); save it as 'CSV UTF-8'") from e
    reader = csv.DictReader(io.StringIO(text, newline=""))
    names = [name.strip() for name in reader.fieldnames or []]
    reader.fieldnames = names
    _check_columns(path, names, needed)
    rows = []
    for raw in reader:
        if None in raw or None in raw.values():
            raise ConfigError(f"{path}, line {reader.line_num}: {len(names)} columns expected, found fewer or more")
        row = {k: v.strip() for k, v in raw.items()}
        row.setdefault(PATIENT, row[SLIDE])
        for name in (SLIDE, PATIENT):
            if not row[name]:
                raise ConfigError(f"{path}, line {reader.line_num}: {name} is empty")
        rows.append(row)
    twice = [name for name, n in Counter(row[SLIDE] for row in rows).items() if n > 1]
    if twice:
        raise ConfigError(f"{path}: slide {twice[0]!r} has several rows; one row for each slide is expected")
    return rows


def _check_columns(path: Path, names: Sequence[str], needed: Sequence[str]) -> None:
    for name in needed:
        if name not in names:
            raise ConfigError(f"{path}: no column {name!r}{nearest(name, names)} (it has: {', '.join(names)})")
    twice = [name for name, n in Counter(names).items() if n > 1]
    if twice:
        raise ConfigError(f"{path}: column {twice[0]!r} is there {names.count(twice[0])} times; rename or remove one")
    # Taken for a table without patients, the slides of one patient would train and test the same model.
    like = [name for name in names if "".join(c for c in name.lower() if c.isalnum()) in _LIKE_PATIENT]
    if PATIENT not in names and like:
        raise ConfigError(
            f"{path}: no column {PATIENT!r}, but {like[0]!r} looks like it; rename it (or, where every slide really "
            f"is a patient of its own, add {PATIENT!r} with the slide's id)"
        )


def _open(
    stores: _Given | Sequence[_Given],
) -> list[FeatureStore]:
    given = [stores] if isinstance(stores, str | PathLike | ObjectPath | FeatureStore) else list(stores)
    if not given:
        raise ConfigError("no store: name one, as 'wsikit extract' wrote it")
    return [s if isinstance(s, FeatureStore) else open_store(s) for s in given]


def _owners(stores: Sequence[FeatureStore]) -> dict[str, FeatureStore]:
    owner: dict[str, FeatureStore] = {}
    for store in stores:
        for slide_id in store.slide_ids:
            other = owner.setdefault(slide_id, store)
            if other is not store:
                raise ConfigError(
                    f"slide {slide_id!r} is in two stores, {other.path} and {store.path}; name one of them"
                )
    return owner


def _one_key(stores: Sequence[FeatureStore], encoder: str) -> str:
    """The features' key, which has to be the same everywhere: other weights are other features."""
    example: dict[str, tuple[FeatureStore, str]] = {}  # of each key, one slide that has it: cards are read once
    hashes: dict[str, StorePath] = {}
    for store in stores:
        hashes[store.attributes["configuration-hash"]] = store.path
        for slide_id in store.slide_ids:
            for key in store.keys(slide_id):
                example.setdefault(key, (store, slide_id))
    keys = [k for k, (store, s) in example.items() if encoder in (k, store.encoder(s, k)["card"]["name"])]
    if not example:
        raise ConfigError(f"no features in {', '.join(str(s.path) for s in stores)}")
    if not keys:
        raise ConfigError(
            f"no store has features of encoder {encoder!r}{nearest(encoder, example)} (found: {sorted(example)})"
        )
    if len(keys) > 1 and encoder not in keys:
        listed = ", ".join(f"{key} in {example[key][0].path}" for key in keys)
        raise ConfigError(f"encoder {encoder!r}: there are different features of that name ({listed}); give one key")
    if len(hashes) > 1:
        raise ConfigError(
            f"stores {' and '.join(str(p) for p in hashes.values())} were tiled differently; "
            "'wsikit inspect' shows how; extract one of them again"
        )
    return encoder if encoder in keys else keys[0]


def _unusable(slide_id: str, owner: Mapping[str, FeatureStore], key: str) -> str | None:
    """Why a slide cannot be used, or None."""
    store = owner.get(slide_id)
    if store is None:
        return "in no store"
    if not store.has(slide_id, key):
        return "without features of this encoder"
    if not store.finished(slide_id, key):
        return "features not finished"
    if not (store.status(slide_id, encoder=key) == fmt.OK).any():
        return "without a usable tile"
    return None


def _spelling(unusable: Mapping[str, str], owner: Mapping[str, FeatureStore]) -> str:
    """A hint at ids that differ by their ending only: a common way to lose all slides."""
    for name in unusable:
        stem = Path(name).stem
        if name not in owner and stem in owner:
            return f" (the store has {stem!r}: ids have no file ending)"
        near = nearest(name, owner)
        if name not in owner and near:
            return near
    return ""


def _outcome(rows: Sequence[dict[str, str]], endpoint: Endpoint, patient: str) -> dict[str, str]:
    first = rows[0]
    for row in rows[1:]:
        for column in endpoint.columns:
            if row[column] != first[column]:
                raise ConfigError(
                    f"patient {patient!r}: column {column!r} has {first[column]!r} for slide {first[SLIDE]!r} and "
                    f"{row[column]!r} for {row[SLIDE]!r}; an outcome belongs to the patient"
                )
    return first


def _path(row: Mapping[str, str], table: Path) -> Path | None:
    return table.parent / row["path"] if row.get("path") else None
