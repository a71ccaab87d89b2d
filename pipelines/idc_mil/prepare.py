"""Labelled breast patches -> one lossless slide per patient, with a composed label and the truth of every tile.

The archive holds 50 px patches whose names say patient, place and class (1 = invasive ductal carcinoma). Each
patient's patches are put back at their places on a white canvas. A GeoJSON outline of the placed squares goes with
every slide, so that extraction takes these tiles and no others. Two cohorts are written: every patient with all
patches, for the regression on the carcinoma fraction, and a composed one for the classification (see ``compose``).

Reference: Cruz-Roa et al. 2014, doi:10.1117/12.2043872 (the cohort and its labels); Janowczyk and Madabhushi 2016,
doi:10.4103/2153-3539.186902 (the patches).
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

import wsikit as wk
from wsikit.errors import ConfigError
from wsikit.provenance import sha256_file
from wsikit.slides.geojson import read_geojson
from wsikit.slides.tiling import read_tile

TILE_PX = 50
MPP = 4.0
"""Nominal: the scans were reduced from 40x to 2.5x; the archive records no resolution."""

SPEC = wk.TilingSpec(tile_px=TILE_PX, target_mpp=MPP, min_tissue=1.0)
"""How the slides are to be extracted: tiles are the placed patches, exactly."""

MIN_BENIGN = 10
"""A patient of the composed cohort has at least so many class-0 patches."""

_NAME = re.compile(r"(?:.*/)?(?P<patient>\d+)_idx\d+_x(?P<x>\d+)_y(?P<y>\d+)_class(?P<label>[01])\.webp")


@dataclass(frozen=True)
class Patient:
    """A patient's patches in row-major order: the order of the tiles that the library lays over the slide.

    Attributes:
        patient_id: Also the slide's id.
        xy: (N, 2) int32, x then y of the top-left corner, px of the slide: multiples of ``TILE_PX``.
        carcinoma: (N,) bool, class 1.
        pixels: (N, 50, 50, 3) uint8 RGB.
        size: (width, height) of the slide, px: what all of the patient's patches span, whichever are put back.
    """

    patient_id: str
    xy: npt.NDArray[np.int32]
    carcinoma: npt.NDArray[np.bool_]
    pixels: npt.NDArray[np.uint8]
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.xy)


@dataclass(frozen=True)
class Left:
    """What of the archive is on no slide.

    Attributes:
        patches: Patches in the archive.
        incomplete: Cut by the edge of the scan: not 50 x 50 px. A tile sticking out of a slide is not read either.
        off_grid: By patient, how many are not a whole number of tiles away from most of the patient's patches.
    """

    patches: int
    incomplete: int
    off_grid: Mapping[str, int]


@dataclass(frozen=True)
class Composed:
    """One slide of the composed cohort.

    Attributes:
        patient_id: Patient and slide.
        label: 1 = carcinoma patches were left in.
        rows: (K,) which of the patient's patches are put back, ascending.
    """

    patient_id: str
    label: int
    rows: npt.NDArray[np.int64]


def read_patients(archive: Path) -> tuple[list[Patient], Left]:
    """Every patient's patches, sorted by patient.

    The names' coordinates begin at (1, 1). The grid of a patient is anchored on the patches: its origin is the
    smallest x and the smallest y on it, whichever of the 50 x 50 possible grids holds most of the patches.

    Args:
        archive: Zip with names ``.../<patient>_idx<i>_x<x>_y<y>_class<c>.webp``; an ``index.csv`` is passed over.

    Returns:
        The patients, and what was left out.

    Raises:
        ConfigError: A file with another name, no patch at all, or two patches in one place.
    """
    import imagecodecs

    found: dict[str, list[tuple[int, int, bool, npt.NDArray[np.uint8]]]] = {}
    patches = incomplete = 0
    with zipfile.ZipFile(archive) as files:
        for name in files.namelist():
            if name.endswith(("/", "index.csv")):
                continue
            match = _NAME.fullmatch(name)
            if match is None:
                raise ConfigError(
                    f"{archive}: {name!r} is not the name of a patch; expected "
                    "<patient>_idx<i>_x<x>_y<y>_class<0 or 1>.webp"
                )
            patches += 1
            rgb = imagecodecs.webp_decode(files.read(name), hasalpha=False)
            if rgb.shape != (TILE_PX, TILE_PX, 3):
                incomplete += 1
                continue
            place = (int(match["x"]), int(match["y"]), match["label"] == "1", rgb)
            found.setdefault(match["patient"], []).append(place)
    if not found:
        raise ConfigError(f"{archive}: no patch of {TILE_PX} x {TILE_PX} px among its {patches} patches")
    patients = [_patient(patient_id, found[patient_id]) for patient_id in sorted(found)]
    off_grid = {p.patient_id: len(found[p.patient_id]) - len(p) for p in patients}
    return patients, Left(patches, incomplete, {name: count for name, count in off_grid.items() if count})


def _patient(patient_id: str, places: Sequence[tuple[int, int, bool, npt.NDArray[np.uint8]]]) -> Patient:
    """Patches on the patient's grid, anchored and in row-major order."""
    grids = Counter((x % TILE_PX, y % TILE_PX) for x, y, _, _ in places)
    grid = max(sorted(grids), key=lambda g: grids[g])  # sorted: a tie is broken the same way on every machine
    kept = sorted((p for p in places if (p[0] % TILE_PX, p[1] % TILE_PX) == grid), key=lambda p: (p[1], p[0]))
    xy = np.array([p[:2] for p in kept], np.int32)
    if len(np.unique(xy, axis=0)) != len(xy):
        place, count = Counter(p[:2] for p in kept).most_common(1)[0]
        raise ConfigError(f"patient {patient_id}: {count} patches at x, y {place}; expected one patch in a place")
    xy -= xy.min(axis=0)
    width, height = (xy.max(axis=0) + TILE_PX).tolist()
    return Patient(
        patient_id, xy, np.array([p[2] for p in kept], np.bool_), np.stack([p[3] for p in kept]), (width, height)
    )


def compose(
    patients: Sequence[Patient],
    *,
    fraction: float,
    seed: int,
    of: Literal["carcinoma", "tiles"] = "carcinoma",
    match_counts: bool = False,
) -> list[Composed]:
    """Draw the composed cohort: a label that the patient's own tissue does not tell.

    Among patients with at least ``MIN_BENIGN`` class-0 patches, a drawn half (rounded down) get only their class-0
    patches back (label 0). The others keep theirs, and of their carcinoma patches a drawn part, at least one
    (label 1). Patients without carcinoma can only be in the first half, and count towards it.

    One seed draws the same patients for every fraction, and the carcinoma patches of a smaller fraction are among
    those of a larger one, so that dials can be compared.

    Args:
        patients: As read.
        fraction: How much carcinoma is left, 0 to 1 (exclusive, inclusive).
        seed: Of the draw.
        of: What ``fraction`` is a share of: the patient's carcinoma patches, or the slide's tiles (as far as the
            patient has carcinoma patches enough).
        match_counts: The carcinoma patches take the place of drawn class-0 patches, of half of them at most, so
            that both labels have as many tiles; otherwise they are added to them.

    Returns:
        One entry for each slide, in the order of ``patients``.

    Raises:
        ConfigError: A fraction out of range, or ``of`` of another kind.
    """
    if of not in ("carcinoma", "tiles"):
        raise ConfigError(f"of={of!r}; expected 'carcinoma' or 'tiles'")
    if not 0 < fraction <= 1 or (of == "tiles" and fraction == 1):
        raise ConfigError(f"fraction={fraction} of {of}; expected more than 0 and at most 1 (of tiles: less than 1)")
    eligible = [p for p in patients if (~p.carcinoma).sum() >= MIN_BENIGN]
    able = [p.patient_id for p in eligible if p.carcinoma.any()]
    positives = min(len(eligible) - len(eligible) // 2, len(able))
    chosen = {able[i] for i in np.random.default_rng(seed).permutation(len(able))[:positives]}
    composed = []
    for patient in eligible:
        # A generator for each patient: nobody's draw depends on who else is in the archive.
        rng = np.random.default_rng([seed, int(patient.patient_id)])
        benign, carcinoma = rng.permutation(np.flatnonzero(~patient.carcinoma)), np.flatnonzero(patient.carcinoma)
        if patient.patient_id not in chosen:
            composed.append(Composed(patient.patient_id, 0, np.sort(benign)))
            continue
        if of == "carcinoma":
            wanted = fraction * len(carcinoma)
        else:
            wanted = fraction * len(benign) if match_counts else fraction / (1 - fraction) * len(benign)
        most = min(len(carcinoma), len(benign) // 2) if match_counts else len(carcinoma)
        count = min(max(1, int(wanted + 0.5)), most)
        left = benign[: len(benign) - count] if match_counts else benign
        rows = np.concatenate([left, rng.permutation(carcinoma)[:count]])
        composed.append(Composed(patient.patient_id, 1, np.sort(rows)))
    return composed


def tile_count_auc(composed: Sequence[Composed]) -> float:
    """How well the number of tiles alone tells the label: the area under the ROC curve, 0.5 = not at all."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score([c.label for c in composed], [len(c.rows) for c in composed]))


def write_slide(patient: Patient, rows: npt.NDArray[np.int64], path: Path, outline: Path) -> None:
    """A white canvas with some of a patient's patches, and the outline of these; equal input gives equal bytes.

    Args:
        patient: Whose patches.
        rows: (K,) which of them.
        path: TIFF to write: 8-bit RGB in tiles of 256 px, deflate, ``MPP`` in its resolution tags.
        outline: GeoJSON to write: one square for each patch, level-0 px.
    """
    import tifffile

    width, height = patient.size
    canvas = np.full((height, width, 3), 255, np.uint8)
    squares = []
    for row in rows.tolist():
        x, y = patient.xy[row].tolist()
        right, bottom = x + TILE_PX, y + TILE_PX
        canvas[y:bottom, x:right] = patient.pixels[row]
        squares.append([[[x, y], [right, y], [right, bottom], [x, bottom], [x, y]]])  # GeoJSON closes its rings
    part = path.with_name(f".{path.name}.part")
    tifffile.imwrite(
        part, canvas, photometric="rgb", tile=(256, 256), compression="zlib", predictor=True,
        resolution=(1e4 / MPP, 1e4 / MPP), resolutionunit="CENTIMETER", software=False, metadata=None,
    )  # fmt: skip
    part.replace(path)
    outline.write_text(json.dumps({"type": "MultiPolygon", "coordinates": squares}), encoding="utf-8")


def check_slide(patient: Patient, rows: npt.NDArray[np.int64], path: Path, outline: Path) -> None:
    """Make sure that the library takes from a written slide the placed patches, all of them, bit for bit, and no more.

    Raises:
        ValueError: Other tiles, or other pixels.
    """
    with wk.open_slide(path) as slide:
        tiles = wk.tile_slide(slide, read_geojson(outline, slide), SPEC)
        if tiles.choice.resampler != "none" or not np.array_equal(tiles.coords, patient.xy[rows]):
            raise ValueError(
                f"slide {path}: {len(tiles)} tiles at mpp {tiles.achieved_mpp} ({tiles.choice.resampler}) are not the "
                f"{len(rows)} patches placed at mpp {MPP:g}; write it again, and report it if that does not help"
            )
        for row, (x, y) in zip(rows.tolist(), tiles.coords.tolist(), strict=True):
            if not np.array_equal(read_tile(slide, tiles.choice, TILE_PX, (x, y)), patient.pixels[row]):
                raise ValueError(
                    f"slide {path}: the pixels at x, y {(x, y)} are not those of the patch; write the slide again"
                )


def prepare(
    archive: Path,
    out: Path,
    *,
    fraction: float,
    seed: int,
    of: Literal["carcinoma", "tiles"] = "carcinoma",
    match_counts: bool = False,
) -> dict[str, Any]:
    """Write both cohorts, check every slide, and say what was done.

    Args:
        archive: The zip of patches.
        out: Folder to write to: ``slides``, ``outlines``, ``cohort.csv``, ``manifest.csv`` and ``tile_truth.csv`` of
            the composed cohort, and the same names with ``_all`` of the whole; ``summary.json``.
        fraction: As for :func:`compose`, like ``seed``, ``of`` and ``match_counts``.

    Returns:
        What ``summary.json`` holds: settings, counts, and the AUC of the tile count alone.

    Raises:
        ConfigError: An archive or a fraction that cannot be used.
        ValueError: A written slide does not give its patches back.
    """
    patients, left = read_patients(archive)
    composed = compose(patients, fraction=fraction, seed=seed, of=of, match_counts=match_counts)
    by_id = {p.patient_id: p for p in patients}
    whole = [Composed(p.patient_id, int(p.carcinoma.any()), np.arange(len(p))) for p in patients]
    _write_cohort(out, "", by_id, composed, labelled=True)
    _write_cohort(out, "_all", by_id, whole, labelled=False)
    shares = [float(by_id[c.patient_id].carcinoma[c.rows].mean()) for c in composed if c.label]
    summary = {
        "archive": archive.name,
        "sha256": sha256_file(archive),
        "fraction": fraction,
        "of": of,
        "seed": seed,
        "match_counts": match_counts,
        "left_out": asdict(left),
        "patients": len(patients),
        "patients_with_carcinoma": sum(c.label for c in whole),
        "tiles_all": sum(len(c.rows) for c in whole),
        "composed": len(composed),
        "composed_positive": len(shares),
        "composed_without_carcinoma": sum(not by_id[c.patient_id].carcinoma.any() for c in composed),
        "tiles_composed": sum(len(c.rows) for c in composed),
        "carcinoma_fraction_median": float(np.median(shares)) if shares else None,
        "tile_count_auc": tile_count_auc(composed) if 0 < len(shares) < len(composed) else None,
    }
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return summary


def _write_cohort(
    out: Path, suffix: str, by_id: dict[str, Patient], cohort: Sequence[Composed], *, labelled: bool
) -> None:
    """Slides and outlines, each checked, then the tables of one cohort."""
    slides, outlines = out / f"slides{suffix}", out / f"outlines{suffix}"
    slides.mkdir(parents=True, exist_ok=True)
    outlines.mkdir(exist_ok=True)
    table: list[list[Any]] = []
    manifest, truth = [], []
    for entry in cohort:
        name, patient = entry.patient_id, by_id[entry.patient_id]
        path, outline = slides / f"{name}.tif", outlines / f"{name}.geojson"
        write_slide(patient, entry.rows, path, outline)
        check_slide(patient, entry.rows, path, outline)
        label = [entry.label] if labelled else []
        share = float(patient.carcinoma[entry.rows].mean())
        table.append([name, name, *label, len(entry.rows), f"{share:.6f}"])
        manifest.append([path.relative_to(out).as_posix(), name, outline.relative_to(out).as_posix()])
        for (x, y), carcinoma in zip(patient.xy[entry.rows].tolist(), patient.carcinoma[entry.rows], strict=True):
            truth.append([name, x, y, int(carcinoma)])
    labels = ["label"] if labelled else []
    columns = ["slide_id", "patient_id", *labels, "n_tiles", "carcinoma_fraction"]
    _write_csv(out / f"cohort{suffix}.csv", columns, table)
    _write_csv(out / f"manifest{suffix}.csv", ["path", "slide_id", "tissue"], manifest)
    _write_csv(out / f"tile_truth{suffix}.csv", ["slide_id", "x", "y", "class"], truth)


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command: ``python prepare.py --zip idc.zip --out idc/ --fraction 0.2``."""
    parser = argparse.ArgumentParser(description="Labelled patches -> one lossless slide per patient.")
    parser.add_argument("--zip", type=Path, required=True, help="the archive of patches")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--fraction", type=float, required=True, help="carcinoma left in: 0.10, 0.20 or 0.40")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--of", choices=("carcinoma", "tiles"), default="carcinoma", help="what the fraction is a share of"
    )
    parser.add_argument("--match-counts", action="store_true", help="carcinoma takes the place of class-0 patches")
    given = parser.parse_args(arguments)
    try:
        summary = prepare(
            given.zip, given.out,
            fraction=given.fraction, seed=given.seed, of=given.of, match_counts=given.match_counts,
        )  # fmt: skip
    except ConfigError as error:
        parser.error(str(error))
    print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    main()
