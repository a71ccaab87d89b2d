"""How good and how fast the embedded ``texture`` encoder is, with the ``colour`` baseline beside it.

    python benchmarks/texture_encoder.py            # about two minutes on one core
    python benchmarks/texture_encoder.py --speed    # the timing alone

The encoder was designed on the 'design' half of each set and never looked at the 'report' half; the
halves are split by hash (``half_of``), patches by their bytes and patients by their number. Numbers
for 'all' are there to be compared with what others print for the whole set: they are not clean.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy: CPU seconds of one thread are the unit

import argparse
import csv
import hashlib
import io
import statistics
import tarfile
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsikit.encoders import create_encoder

ENCODERS = ("colour", "texture")
HALVES = ("design", "report")
INVERSE_PENALTIES = (0.01, 0.1, 1.0)
"""Of the logistic regression; chosen inside each training part, so no encoder is favoured by one value."""


def half_of(key: bytes) -> str:
    """'design' or 'report': the lowest bit of the first byte of the SHA-256 of a patch's file or a patient's id."""
    return HALVES[hashlib.sha256(key).digest()[0] & 1]


@dataclass
class Patches:
    """Labelled patches: pixels (N, H, W, 3), label (N,), group (N,) that folds may not split, half (N,)."""

    pixels: np.ndarray
    label: np.ndarray
    group: np.ndarray
    half: np.ndarray


def colorectal(data: Path) -> Patches:
    """Five classes of 224 px; no patient is recorded, so every patch is its own group."""
    from PIL import Image

    rows = []
    with tarfile.open(data / "patches/colorectal5.tar") as archive:
        for member in sorted((m for m in archive.getmembers() if m.isfile()), key=lambda m: m.name):
            stream = archive.extractfile(member)
            assert stream is not None
            content = stream.read()
            image = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
            rows.append((image, member.name.split("/")[-2], len(rows), half_of(content)))
    return Patches(*(np.array(column) for column in zip(*rows, strict=True)))


def breast(data: Path) -> Patches:
    """IDC patches of 50 px with their patients; those cut off at a slide's border are left out."""
    from PIL import Image

    rows = []
    with zipfile.ZipFile(data / "patches/idc.zip") as archive:
        for row in csv.DictReader(io.TextIOWrapper(archive.open("idc/index.csv"))):
            image = np.asarray(Image.open(io.BytesIO(archive.read(row["file"]))).convert("RGB"))
            if image.shape == (50, 50, 3):
                rows.append((image, int(row["label"]), row["patient"], half_of(row["patient"].encode())))
    return Patches(*(np.array(column) for column in zip(*rows, strict=True)))


def folds(label: np.ndarray, group: np.ndarray, parts: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Stratified folds that keep groups whole."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    if len(np.unique(group)) == len(group):
        yield from StratifiedKFold(parts, shuffle=True, random_state=seed).split(label, label)
    else:
        yield from StratifiedGroupKFold(parts, shuffle=True, random_state=seed).split(label, label, group)


def classifier(inverse_penalty: float):  # type: ignore[no-untyped-def]
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=inverse_penalty, max_iter=300, tol=1e-3))


def fit_predict(x: np.ndarray, label: np.ndarray, group: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Class probabilities of ``test``, the penalty chosen by three folds inside the training data."""
    from sklearn.metrics import log_loss

    def loss(inverse_penalty: float) -> float:
        return sum(
            log_loss(
                label[b], classifier(inverse_penalty).fit(x[a], label[a]).predict_proba(x[b]), labels=np.unique(label)
            )
            for a, b in folds(label, group, 3, seed=0)
        )

    return np.asarray(classifier(min(INVERSE_PENALTIES, key=loss)).fit(x, label).predict_proba(test))


def cross_validated(x: np.ndarray, label: np.ndarray, group: np.ndarray, seed: int = 0) -> np.ndarray:
    probabilities = np.empty((len(x), len(np.unique(label))))
    for train, test in folds(label, group, 5, seed):
        probabilities[test] = fit_predict(x[train], label[train], group[train], x[test])
    return probabilities


def accuracy(probabilities: np.ndarray, label: np.ndarray) -> float:
    return float((np.unique(label)[probabilities.argmax(1)] == label).mean())


def auc(probabilities: np.ndarray, label: np.ndarray) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(label, probabilities[:, 1]))


def interval(
    measure: Callable[[np.ndarray, np.ndarray], float], probabilities: np.ndarray, label: np.ndarray, group: np.ndarray
) -> str:
    """The measure and its 95 % interval over 300 bootstrap draws of groups (patients, or patches)."""
    rng = np.random.default_rng(0)
    members = [np.flatnonzero(group == g) for g in np.unique(group)]
    draws = []
    for _ in range(300):
        rows = np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))])
        if len(np.unique(label[rows])) == len(np.unique(label)):
            draws.append(measure(probabilities[rows], label[rows]))
    low, high = np.percentile(draws, [2.5, 97.5])
    return f"{measure(probabilities, label):.3f} [{low:.3f}, {high:.3f}]"


def report(name: str, patches: Patches, measure: Callable[[np.ndarray, np.ndarray], float]) -> None:
    print(f"\n{name}: {measure.__name__}, 5-fold inside each half, [95 % interval]")
    print(f"{'encoder':10s} {'D':>4s}  " + "".join(f"{part:24s}" for part in (*HALVES, "design -> report", "all")))
    for encoder_name in ENCODERS:
        # As a store keeps them.
        x = create_encoder(encoder_name).encode(patches.pixels).astype(np.float16).astype(np.float64)
        cells = []
        rows = {half: np.flatnonzero(patches.half == half) for half in HALVES}
        for r in (rows["design"], rows["report"]):
            found = cross_validated(x[r], patches.label[r], patches.group[r])
            cells.append(interval(measure, found, patches.label[r], patches.group[r]))
        design, held = rows["design"], rows["report"]
        found = fit_predict(x[design], patches.label[design], patches.group[design], x[held])
        cells.append(interval(measure, found, patches.label[held], patches.group[held]))
        found = cross_validated(x, patches.label, patches.group)
        cells.append(interval(measure, found, patches.label, patches.group))
        print(f"{encoder_name:10s} {x.shape[1]:4d}  " + "".join(f"{cell:24s}" for cell in cells), flush=True)


def shifted(pixels: np.ndarray, gain: tuple[float, float, float]) -> np.ndarray:
    """Optical density of each channel times a gain: another staining batch, another scanner."""
    levels = np.arange(256)[:, None] / 255
    table = np.rint(255 * levels ** np.array(gain)).astype(np.uint8)  # (256, 3)
    return np.stack([table[pixels[..., channel], channel] for channel in range(3)], axis=-1)


def robustness(patches: Patches) -> None:
    print("\ncolorectal, design -> report, optical density of the report half scaled (accuracy)")
    shifts = {
        "as is": (1.0, 1.0, 1.0),
        "paler x0.85": (0.85,) * 3,
        "darker x1.15": (1.15,) * 3,
        "redder": (0.9, 1.05, 1.05),
        "bluer": (1.1, 0.97, 0.95),
    }
    print(f"{'encoder':10s} " + "".join(f"{shift:14s}" for shift in shifts))
    design, held = (np.flatnonzero(patches.half == half) for half in HALVES)
    for encoder_name in ENCODERS:
        encoder = create_encoder(encoder_name)
        x = encoder.encode(patches.pixels[design])
        cells = [encoder.encode(shifted(patches.pixels[held], gain)) for gain in shifts.values()]
        found = fit_predict(x, patches.label[design], patches.group[design], np.concatenate(cells))
        scores = [accuracy(part, patches.label[held]) for part in np.split(found, len(cells))]
        print(f"{encoder_name:10s} " + "".join(f"{score:<14.3f}" for score in scores), flush=True)


def speed(data: Path, pairs: int = 9) -> None:
    """Tiles per CPU second, the two encoders in turn; medians and ranges over pairs of runs."""
    import cv2

    pixels = colorectal(data).pixels[::8]
    print(f"\ntiles per CPU second, median [range] of {pairs} interleaved pairs")
    for px, n in ((50, 2000), (224, 125), (256, 125), (512, 40)):
        tiles = np.stack([cv2.resize(pixels[i % len(pixels)], (px, px)) for i in range(n)])
        rates: dict[str, list[float]] = {name: [] for name in ENCODERS}
        encoders = {name: create_encoder(name) for name in ENCODERS}
        for encoder in encoders.values():
            encoder.encode(tiles[:2])
        for _ in range(pairs):
            for name, encoder in encoders.items():
                begin = time.process_time()
                encoder.encode(tiles)
                rates[name].append(n / (time.process_time() - begin))
        ratios = [t / c for t, c in zip(rates["texture"], rates["colour"], strict=True)]
        cells = [f"{name} {spread(values, '.0f')}" for name, values in rates.items()]
        print(f"{px:4d} px  " + "   ".join(cells) + f"   texture / colour {spread(ratios, '.2f')}", flush=True)


def spread(values: list[float], form: str) -> str:
    return f"{statistics.median(values):{form}} [{min(values):{form}}, {max(values):{form}}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    default = os.environ.get("WSIKIT_TEST_DATA", Path(__file__).parents[2] / "shared/data")
    parser.add_argument("--data", type=Path, default=Path(default), help="folder with patches/")
    parser.add_argument("--speed", action="store_true", help="only measure speed")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message="lbfgs failed to converge")
    speed(options.data)
    if options.speed:
        return
    patches = colorectal(options.data)
    report("colorectal, 5 classes, 224 px", patches, accuracy)
    robustness(patches)
    report("IDC, tumour or not, 50 px, patients apart", breast(options.data), auc)


if __name__ == "__main__":
    main()
