"""Split files: our own, and those that were published with CLAM, Patho-Bench and the like."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path

from wsikit.cohort.splits import ROLES, Fold, Splits, hold_out
from wsikit.cohort.table import PATIENT, SLIDE, Cohort
from wsikit.errors import ConfigError
from wsikit.provenance import sha256_file
from wsikit.registry import nearest

_ROLE_OF = {"train": "train", "training": "train", "val": "validation", "valid": "validation",
            "validation": "validation", "dev": "validation", "test": "test", "testing": "test"}  # fmt: skip
_ID_COLUMNS = (PATIENT, "case_id", SLIDE, "slide", "patient")


def load_splits(path: str | PathLike[str], cohort: Cohort, *, validation: float = 0.2, seed: int = 0) -> Splits:
    """Read splits from a file or a folder.

    Understood are:

    - one table with a row for each patient (or slide, or case) and columns ``fold_0``, ``fold_1``, ...
      with train / val / test: what ``save_splits`` writes, and Patho-Bench's ``k=all.tsv``;
    - one table with a column ``fold`` that has the number of the fold that tests the patient;
    - a folder, or one file, of CLAM's ``splits_<k>.csv``: columns train, val, test that list slides
      (or patients);
    - STAMP's ``splits.json``: train_patients and test_patients of each fold.

    Where a fold names no validation patients, they are drawn from its training patients, stratified by
    the outcome. Slides and patients that the cohort left out are passed over; a slide that it does not
    know at all is an error, a patient that it does not know is kept (``within`` takes it out), so
    that splits of a larger cohort can be used.

    Args:
        path: File or folder.
        cohort: Whose slides and patients the ids are.
        validation: Share of the training patients to draw where the file has no validation role.
        seed: Of that drawing.

    Raises:
        ConfigError: No file, an unknown layout or role, an unknown slide, a patient with two roles in
            a fold, a file of ours that was edited since its hash was written.
    """
    path = Path(path)
    files = sorted(path.glob("splits_*.csv"), key=_number) if path.is_dir() else [path]
    files = [f for f in files if not re.search(r"_(bool|descriptor)\.csv$", f.name)]
    if not files or not files[0].is_file():
        raise ConfigError(f"no splits at {path}: expected a table, or a folder with splits_0.csv, splits_1.csv, ...")
    ids = _Ids(cohort)
    if path.suffix == ".json":
        folds = [_with_validation(f, cohort, validation, seed * 1000 + i) for i, f in enumerate(_stamp(path))]
        return Splits(tuple(folds), {"file": path.name, "sha256": [sha256_file(path)]})
    tables = [_read(f) for f in files]
    names = list(tables[0][0])
    if any(_ROLE_OF.get(n) for n in names) and not any(n in _ID_COLUMNS for n in names):
        folds = [_clam(f, rows, ids) for f, rows in zip(files, tables, strict=True)]
    elif len(tables) == 1:
        folds = _wide(files[0], tables[0], ids)
    else:
        raise ConfigError(f"{path}: columns {names} in several files, expected CLAM's train, val and test")
    made = {"file": path.name, "sha256": [sha256_file(f) for f in files]}
    _check_hash(path, Splits(tuple(folds), made))
    folds = [_with_validation(fold, cohort, validation, seed * 1000 + i) for i, fold in enumerate(folds)]
    return Splits(tuple(folds), made)


class _Ids:
    """Whose slide it is, for ids as split files have them."""

    def __init__(self, cohort: Cohort) -> None:
        self.patients = set(cohort.patients)
        self.slides = {s.slide_id: p for p, mine in zip(cohort.patients, cohort.slides, strict=True) for s in mine}
        self.excluded = {e.name for e in cohort.exclusions}

    def patient(self, name: str, path: Path) -> str | None:
        """The patient of a slide (or of its own id); None for one that the cohort left out."""
        for known in (name, Path(name).stem):  # with or without the file's ending
            if known in self.slides:
                return self.slides[known]
            if known in self.patients:
                return known
            if known in self.excluded:
                return None
        raise ConfigError(f"{path}: slide {name!r} is not in the cohort's table{nearest(name, self.slides)}")


def _number(path: Path) -> tuple[int, str]:
    found = re.search(r"(\d+)", path.stem)
    return (int(found.group(1)) if found else 0, path.name)


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",")
        rows = [{(k or "").strip(): (v or "").strip() for k, v in row.items() if k is not None} for row in reader]
    if not rows:
        raise ConfigError(f"{path}: no rows")
    return rows


def _clam(path: Path, rows: Sequence[Mapping[str, str]], ids: _Ids) -> Fold:
    role_of: dict[str, str] = {}
    for row in rows:
        for column, name in row.items():
            role = _ROLE_OF.get(column)
            if role is None or not name:
                continue
            patient = ids.patient(name, path)
            if patient is None:
                continue
            if role_of.setdefault(patient, role) != role:
                raise ConfigError(
                    f"{path}: patient {patient!r} has slides in {role_of[patient]} and in {role}; "
                    "patients have to be apart"
                )
    return _fold(role_of)


def _stamp(path: Path) -> list[Fold]:
    try:
        listed = [(s["train_patients"], s["test_patients"]) for s in json.loads(path.read_text("utf-8"))["splits"]]
    except (ValueError, KeyError, TypeError):
        raise ConfigError(
            f"{path}: expected STAMP's layout, {{'splits': [{{'train_patients': [...], 'test_patients': [...]}}]}}"
        ) from None
    folds = []
    for number, (train, test) in enumerate(listed):
        both = sorted(set(train) & set(test))
        if both:
            raise ConfigError(f"{path}, split {number}: patient {both[0]!r} is in train and in test")
        folds.append(Fold(tuple(sorted(train)), (), tuple(sorted(test))))
    return folds


def _wide(path: Path, rows: Sequence[Mapping[str, str]], ids: _Ids) -> list[Fold]:
    names = list(rows[0])
    column = next((c for c in _ID_COLUMNS if c in names), None)
    folds = sorted(
        (n for n in names if re.fullmatch(r"fold_?\d+", n)), key=lambda n: int(n.removeprefix("fold").strip("_"))
    )
    if column is None or not (folds or "fold" in names):
        raise ConfigError(
            f"{path}: columns {names}; expected {PATIENT} (or slide_id, case_id) with fold_0, fold_1, ... "
            "or with fold, or CLAM's train, val, test"
        )
    roles: list[dict[str, str]] = [{} for _ in folds]
    number: dict[str, str] = {}
    for row in rows:
        name = row[column]
        patient = ids.patient(name, path) if column in (SLIDE, "slide") else name
        if patient is None:
            continue
        if not folds:
            if not row["fold"]:
                continue
            if number.setdefault(patient, row["fold"]) != row["fold"]:
                raise ConfigError(f"{path}: patient {patient!r} is in folds {number[patient]} and {row['fold']}")
            continue
        for fold, of in zip(folds, roles, strict=True):
            if not row[fold]:
                continue
            role = _ROLE_OF.get(row[fold].lower())
            if role is None:
                raise ConfigError(f"{path}: {fold} of {name!r} is {row[fold]!r}, expected train, val or test")
            if of.setdefault(patient, role) != role:
                raise ConfigError(f"{path}, {fold}: patient {patient!r} is in {of[patient]} and in {role}")
    if folds:
        return [_fold(of) for of in roles]
    numbers = sorted(set(number.values()), key=lambda n: (len(n), n))
    return [_fold({p: "test" if n == tested else "train" for p, n in number.items()}) for tested in numbers]


def _fold(role_of: Mapping[str, str]) -> Fold:
    return Fold(*(tuple(sorted(p for p, r in role_of.items() if r == role)) for role in ROLES))


def _with_validation(fold: Fold, cohort: Cohort, share: float, seed: int) -> Fold:
    known = set(cohort.patients)
    rest = cohort.index([p for p in fold.train if p in known])
    if fold.validation or len(rest) < 2:
        return fold
    _, rows = hold_out(rest, cohort.target, None, share=share, seed=seed)
    stop = {cohort.patients[i] for i in rows}
    return Fold(tuple(p for p in fold.train if p not in stop), tuple(sorted(stop)), fold.test)


def _check_hash(path: Path, splits: Splits) -> None:
    beside = path.with_suffix(".json")
    if path.suffix != ".csv" or not beside.is_file():
        return
    try:
        written = json.loads(beside.read_text()).get("hash")
    except (ValueError, AttributeError):
        return  # some other JSON of that name
    if written and written != splits.hash:
        raise ConfigError(
            f"{path} was changed since it was written: its hash is {splits.hash[:12]}, {beside.name} says "
            f"{written[:12]}; restore it, or delete {beside.name} to accept the new one"
        )
