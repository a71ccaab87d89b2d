"""What the quality measures cost beside decoding the same tiles, and how well they tell planted artefacts.

    python benchmarks/quality.py            # about a minute on one core

Speed is a ratio: CPU seconds of ``tile_quality`` over those of the JPEG decoder for the same 256 px tiles
(quality 80), in turn, median of pairs. Artefacts are planted by ``wsikit.testing``, so their place is known:
the AUC is of tiles with the artefact against clean tissue, over all slides and (mean) within each.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from sklearn.metrics import roc_auc_score

from wsikit.slides.open import open_slide
from wsikit.slides.quality import QUALITY_NAMES, tile_quality
from wsikit.testing import plant_slide

SIZE, TILE, STEP = 2048, 256, 128
TOLD_BY = {"blur": ("focus", 0.7), "pen": ("pen", 0.3), "fold": ("fold", 0.08)}
"""Artefact -> the measure that tells it, and the share of a tile from which it counts as there."""


def planted(folder: Path, seed: int, kind: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Tiles (N, 256, 256, 3) on tissue or ink of one slide, and the share of each mask in them."""
    path = folder / f"{kind}-{seed}.svs"
    truth = plant_slide(path, seed=seed, size_px=SIZE, site=seed % 5, artefacts=(kind,), tissue_fraction=0.5)
    grid = np.arange(0, SIZE - TILE + 1, STEP)
    coords = np.array([(x, y) for y in grid for x in grid])
    shares = {name: truth.share(name, coords, TILE) for name in ("tissue", *TOLD_BY)}
    keep = (shares["tissue"] > 0.5) | (shares["pen"] > 0.3)
    with open_slide(path) as slide:
        tiles = np.stack([slide.read_region((x, y), (TILE, TILE)) for x, y in coords[keep].tolist()])
    return tiles, {name: share[keep] for name, share in shares.items()}


def speed(tiles: np.ndarray, pairs: int = 9) -> None:
    jpegs = [simplejpeg.encode_jpeg(np.ascontiguousarray(tile), quality=80) for tile in tiles]
    slot = np.empty(tiles.shape[1:], np.uint8)
    seconds: dict[str, list[float]] = {"decode": [], "quality": []}
    for _ in range(pairs):
        begin = time.process_time()
        for jpeg in jpegs:
            simplejpeg.decode_jpeg(jpeg, buffer=slot)
        seconds["decode"].append(time.process_time() - begin)
        begin = time.process_time()
        tile_quality(tiles)
        seconds["quality"].append(time.process_time() - begin)
    ratio = [q / d for q, d in zip(seconds["quality"], seconds["decode"], strict=True)]
    rates = {name: len(tiles) / statistics.median(values) for name, values in seconds.items()}
    print(f"{len(tiles)} tiles of {TILE} px, {np.mean([len(j) for j in jpegs]) / 1000:.1f} kB: ", end="")
    print(f"decode {rates['decode']:.0f}, quality {rates['quality']:.0f} tiles per CPU second; ", end="")
    print(f"quality / decode {statistics.median(ratio):.2f} [{min(ratio):.2f}, {max(ratio):.2f}] in CPU time")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--slides", type=int, default=6, help="slides planted for each artefact")
    slides = parser.parse_args().slides
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        for kind, (measure, least) in TOLD_BY.items():
            parts = [planted(Path(folder), seed, kind) for seed in range(slides)]
            tiles = np.concatenate([part[0] for part in parts])
            share = {name: np.concatenate([part[1][name] for part in parts]) for name in parts[0][1]}
            group = np.repeat(np.arange(slides), [len(part[0]) for part in parts])
            there, clean = share[kind] >= least, (share[kind] == 0) & (share["tissue"] > 0.5)
            values = tile_quality(tiles)[:, QUALITY_NAMES.index(measure)]
            worse = -values if measure == "focus" else values
            used = there | clean
            both = [g for g in range(slides) if (there & (group == g)).any()]
            within = [roc_auc_score(there[used & (group == g)], worse[used & (group == g)]) for g in both]
            low, high = np.percentile(values[clean], [5, 95])
            print(
                f"{kind} by {measure}: AUC {roc_auc_score(there[used], worse[used]):.3f}, within a slide "
                f"{np.mean(within):.3f} ({there.sum()} tiles with, on {len(both)} slides; {clean.sum()} clean); "
                f"median with {np.median(values[there]):.3f}, clean 5 to 95 % {low:.3f} to {high:.3f}"
            )
        speed(tiles[share["tissue"] > 0.5][:400])


if __name__ == "__main__":
    main()
