"""Planted tissue of which the truth is known: patients with equal tiles, arranged in one of two ways.

A patient is a square of tiles of four kinds. Two labels are planted, independent of each other: ``composition`` (few or
many tiles of the rare kind) and ``nested`` (the rare tiles stand in nests, or anywhere). Patients come in pairs with
equally many tiles of every kind, one nested and one not: who does not look at places cannot tell them apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

import wsikit as wk

SIDE, KINDS, DIM, TILE_PX = 12, 4, 8, 256
FEW, MANY = (12, 18), (24, 30)
"""Rare tiles of a patient, first to last."""

NESTS = 3
SPREAD = 1.0
"""Of the kinds' means, in units of the noise of a tile: the kinds overlap a little."""


@dataclass(frozen=True)
class Patient:
    """One of the cohort.

    Attributes:
        patient_id: Also the slide's.
        composition: 1 = many rare tiles.
        nested: 1 = in nests.
        kind: (SIDE, SIDE) int64, row then column; 0 is the rare kind.
        x: (SIDE * SIDE, DIM) float32, row by row.
    """

    patient_id: str
    composition: int
    nested: int
    kind: npt.NDArray[np.int64]
    x: npt.NDArray[np.float32]


def scattered(rare: int, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """(SIDE, SIDE), that many true, anywhere."""
    places = np.zeros(SIDE * SIDE, bool)
    places[rng.permutation(SIDE * SIDE)[:rare]] = True
    return places.reshape(SIDE, SIDE)


def nests(rare: int, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """(SIDE, SIDE), that many true: ``NESTS`` seeds anywhere, then each tile beside one that is there."""
    places = scattered(NESTS, rng)
    while places.sum() < rare:
        padded = np.pad(places, 1)
        beside = padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
        places.flat[rng.choice(np.flatnonzero(beside & ~places))] = True
    return places


def draw(patients: int, seed: int) -> list[Patient]:
    """The cohort.

    Args:
        patients: How many, a multiple of 4.
        seed: Of everything that is drawn.

    Raises:
        ValueError: Another number of patients.
    """
    if patients < 4 or patients % 4:
        raise ValueError(f"patients={patients}; expected a multiple of 4: both labels are balanced, in pairs")
    rng = np.random.default_rng(seed)
    means = SPREAD * rng.standard_normal((KINDS, DIM))
    cohort = []
    for pair in range(patients // 2):
        composition = pair % 2
        low, high = MANY if composition else FEW
        rare = int(rng.integers(low, high + 1))
        rest = 1 + np.arange(SIDE * SIDE - rare) % (KINDS - 1)  # the other kinds: equally many, anywhere
        for nested in (0, 1):
            places = nests(rare, rng) if nested else scattered(rare, rng)
            kind = np.zeros((SIDE, SIDE), np.int64)
            kind[~places] = rng.permutation(rest)
            x = means[kind.ravel()] + rng.standard_normal((SIDE * SIDE, DIM))
            cohort.append(Patient(f"p{len(cohort):03d}", composition, nested, kind, x.astype(np.float32)))
    return cohort


def write(cohort: list[Patient], out: Path) -> None:
    """``features.zarr`` with every tile at its place, and ``cohort.csv``; neither tells the kinds."""
    out.mkdir(parents=True, exist_ok=True)
    row, column = np.divmod(np.arange(SIDE * SIDE), SIDE)
    coords = {p.patient_id: TILE_PX * np.stack([column, row], 1) for p in cohort}
    features = {p.patient_id: p.x for p in cohort}
    wk.store_features(
        out / "features.zarr", features, encoder="planted", source="made up", coords=coords, tile_level0_px=TILE_PX
    )
    lines = ["slide_id,patient_id,composition,nested"]
    lines += [f"{p.patient_id},{p.patient_id},{p.composition},{p.nested}" for p in cohort]
    (out / "cohort.csv").write_text("\n".join(lines) + "\n")
