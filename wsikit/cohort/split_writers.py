"""Splits in the layouts of other tools, so that a comparison runs on the same folds."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Literal

from wsikit.cohort.splits import ROLES, Splits, save_splits
from wsikit.cohort.table import Cohort
from wsikit.errors import ConfigError

Layout = Literal["wsikit", "clam", "patho-bench", "stamp"]
LAYOUTS: tuple[Layout, ...] = ("wsikit", "clam", "patho-bench", "stamp")


def write_splits(splits: Splits, path: str | PathLike[str], cohort: Cohort, *, layout: Layout) -> list[Path]:
    """Write splits for another tool; :func:`~wsikit.cohort.split_files.load_splits` reads all of them again.

    - ``wsikit``: one CSV and its hash, as :func:`~wsikit.cohort.splits.save_splits`.
    - ``clam``: a folder with ``splits_0.csv``, ``splits_1.csv``, ... whose columns train, val and test list slides.
    - ``patho-bench``: one TSV, a row for each slide: case_id, slide_id, fold_0, ... with train / test.
    - ``stamp``: one JSON, ``{"splits": [{"train_patients": [...], "test_patients": [...]}]}``.

    The last two know no validation role: those patients are written as train, and each tool draws its own.

    Args:
        splits: What to write.
        path: File, or folder for ``clam``.
        cohort: Whose slides the patients have.
        layout: One of ``LAYOUTS``.

    Returns:
        The files.

    Raises:
        ConfigError: An unknown layout.
    """
    path = Path(path)
    slides = {p: [s.slide_id for s in mine] for p, mine in zip(cohort.patients, cohort.slides, strict=True)}
    if layout == "wsikit":
        save_splits(splits, path)
        return [path, path.with_suffix(".json")]
    if layout == "clam":
        path.mkdir(parents=True, exist_ok=True)
        written = []
        for number, fold in enumerate(splits.folds):
            columns = [[s for p in getattr(fold, role) for s in slides.get(p, ())] for role in ROLES]
            length = max(map(len, columns))
            rows = [[i, *(c[i] if i < len(c) else "" for c in columns)] for i in range(length)]
            written.append(path / f"splits_{number}.csv")
            _table(written[-1], [["", "train", "val", "test"], *rows], ",")
        return written
    if layout == "patho-bench":
        told = {p: ["test" if p in f.test else "train" for f in splits.folds] for p in slides}
        head = ["case_id", "slide_id", *(f"fold_{i}" for i in range(len(splits.folds)))]
        _table(path, [head, *([p, s, *told[p]] for p, mine in slides.items() for s in mine)], "\t")
        return [path]
    if layout == "stamp":
        values = [
            {"train_patients": sorted({*f.train, *f.validation}), "test_patients": sorted(f.test)} for f in splits.folds
        ]
        path.write_text(json.dumps({"splits": values}, indent=4) + "\n", encoding="utf-8")
        return [path]
    raise ConfigError(f"layout {layout!r}, expected one of {list(LAYOUTS)}")


def _table(path: Path, rows: Sequence[Sequence[object]], delimiter: str) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter, lineterminator="\n").writerows(rows)
