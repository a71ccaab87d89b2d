"""UCI's table of musk molecules as a feature store and a cohort."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np

import wsikit as wk


def prepare(table: Path, out: Path) -> None:
    """Write ``features.zarr`` and ``cohort.csv``.

    Args:
        table: Label, bag and 166 numbers a row; no header.
        out: Folder to write to.
    """
    shapes: dict[str, list[list[float]]] = defaultdict(list)
    label = {}
    with table.open(newline="") as file:
        for row in csv.reader(file):
            bag = f"molecule-{int(row[1]):03d}"
            shapes[bag].append([float(value) for value in row[2:]])
            assert label.setdefault(bag, row[0]) == row[0], f"{bag} has two labels"
    out.mkdir(parents=True, exist_ok=True)
    bags = {name: np.array(rows) for name, rows in shapes.items()}
    wk.store_features(out / "features.zarr", bags, encoder="musk", source="UCI, Musk (Version 1)")
    lines = ["slide_id,patient_id,label", *(f"{name},{name},{label[name]}" for name in bags)]
    (out / "cohort.csv").write_text("\n".join(lines) + "\n")
