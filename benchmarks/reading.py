"""How fast tiles are read, against decoding alone, OpenSlide and tiffslide.

    python benchmarks/reading.py                     # about five minutes on two cores; draws its slide first
    python benchmarks/reading.py --slide planted.svs

Everything goes through ``wsikit.slides.tiling.read_tiles`` in batches of 64, a slide freshly opened
for each run (opening is timed by itself). *Decoding* is simplejpeg on bytes that are in memory, into an
array that is used again: each of the file's tiles that the run touches, once. Ratios are medians [range]
of interleaved pairs; one thread is measured in CPU seconds, two in wall-clock time, which other
work on the machine spoils.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import cv2
import numpy as np
import openslide
import simplejpeg
import tiffslide

import wsikit as wk
from wsikit.geometry import Mpp
from wsikit.slides.cell_decoder import CellDecoder
from wsikit.slides.level import LevelChoice
from wsikit.slides.tiff_levels import index_levels
from wsikit.slides.tiling import read_tiles
from wsikit.testing import plant_slide

CELL, BATCH = 256, 64
AREA = (1280, 5120, 18944, 12800)
"""Left, top, right, bottom of what is read: 69 x 30 of the file's tiles across the section, level-0 px."""

Run = Callable[[], tuple[float, float]]
"""Reads something; returns CPU and wall-clock seconds."""


@dataclass(frozen=True)
class Case:
    """Tiles of one kind, and what is hoped for: of decoding, and times OpenSlide."""

    name: str
    stride: int
    offset: int
    read_px: int
    tile_px: int
    resampler: str
    goal: str

    def coords(self) -> np.ndarray:
        left, top, right, bottom = AREA
        xs = np.arange(left + self.offset, right - self.read_px + 1, self.stride)
        ys = np.arange(top + self.offset, bottom - self.read_px + 1, self.stride)
        return np.stack([a.ravel() for a in np.meshgrid(xs, ys)], axis=1).astype(np.int32)

    def choice(self) -> LevelChoice:
        mpp = 0.5 * self.read_px / self.tile_px
        return LevelChoice(0, 1.0, (self.read_px, self.read_px), Mpp(mpp, mpp), self.resampler)

    def cells(self) -> list[tuple[int, int]]:
        """(column, row) of each of the file's tiles that is touched."""
        found = set()
        for x, y in self.coords().tolist():
            for row in range(y // CELL, (y + self.read_px - 1) // CELL + 1):
                found.update((c, row) for c in range(x // CELL, (x + self.read_px - 1) // CELL + 1))
        return sorted(found, key=lambda c: (c[1], c[0]))


CASES = (
    Case("on the grid", 256, 0, 256, 256, "none", "0.90 of decoding, 4 x OpenSlide"),
    Case("off the grid by half", 256, 128, 256, 256, "none", "0.85 of decoding"),
    Case("stride 128", 128, 0, 256, 256, "none", "2.2 x a decode per tile"),
    Case("506 -> 256, area", 506, 0, 506, 256, "area", "0.42 of decoding, 3 x OpenSlide"),
    Case("1024 -> 512, area", 1024, 0, 1024, 512, "area", ""),
    Case("1024 -> 512, dct", 1024, 0, 1024, 512, "dct", "6 x OpenSlide + bilinear"),
)


def clocked(work: Callable[[], object]) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall


def in_threads(work: Callable[[int], object], count: int, threads: int) -> None:
    if threads == 1:
        for i in range(count):
            work(i)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, range(count), chunksize=8))


def decoding(path: Path, case: Case, threads: int) -> tuple[Run, float]:
    """Decode what the case touches, from memory; also returns its bytes per tile of the file."""
    with wk.open_slide(path) as slide:
        level = index_levels(path, slide.level_sizes)[0]
    data = path.read_bytes()
    streams = []
    for column, row in case.cells():
        i = row * level.grid[0] + column
        begin = int(level.offsets[i])
        streams.append(level.head + data[begin + 2 : begin + int(level.counts[i])])
    ring = np.zeros((BATCH, CELL, CELL, 3), np.uint8)

    def one(i: int) -> None:
        simplejpeg.decode_jpeg(streams[i], "RGB", buffer=ring[i % BATCH])

    return lambda: clocked(lambda: in_threads(one, len(streams), threads)), statistics.mean(map(len, streams))


def ours(path: Path, case: Case, threads: int, count: int | None = None) -> Run:
    coords, choice = case.coords()[:count], case.choice()
    out = np.zeros((BATCH, case.tile_px, case.tile_px, 3), np.uint8)

    def run() -> tuple[float, float]:
        with wk.open_slide(path) as slide:
            assert slide.reader == "direct_tiff", slide.refused

            def read() -> None:
                for i in range(0, len(coords), BATCH):
                    part = coords[i : i + BATCH]
                    assert not read_tiles(slide, choice, case.tile_px, part, out[: len(part)], threads=threads).any()

            return clocked(read)

    return run


def peer(path: Path, case: Case, threads: int, library: str, count: int) -> Run:
    """The same tiles from OpenSlide or tiffslide, into the same kind of array; resampled ones with cv2."""
    coords = case.coords()
    coords = (
        coords[:: max(1, len(coords) // count)][:count].tolist() if case.stride >= CELL else coords[:count].tolist()
    )
    out = np.zeros((BATCH, case.tile_px, case.tile_px, 3), np.uint8)
    how = cv2.INTER_LINEAR if case.resampler == "dct" else cv2.INTER_AREA
    size = (case.read_px, case.read_px)

    def run() -> tuple[float, float]:
        slide = openslide.OpenSlide(path) if library == "OpenSlide" else tiffslide.TiffSlide(path)

        def one(i: int) -> None:
            xy = tuple(coords[i])
            if library == "OpenSlide":
                pixels = np.asarray(slide.read_region(xy, 0, size))[..., :3]
            else:
                pixels = slide.read_region(xy, 0, size, as_array=True)
            if case.read_px != case.tile_px:
                pixels = cv2.resize(np.ascontiguousarray(pixels), (case.tile_px,) * 2, interpolation=how)
            out[i % BATCH] = pixels

        seconds = clocked(lambda: in_threads(one, len(coords), threads))
        slide.close()
        return seconds

    return run


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):6.2f} [{min(values):.2f}, {max(values):.2f}]"


def report(path: Path, pairs: int) -> None:
    for case in CASES:
        tiles, cells = len(case.coords()), len(case.cells())
        few = min(tiles, max(12, 200 * CELL**2 // case.read_px**2))  # peers are slow: some tiles will do
        print(f"\n{case.name}: {tiles} tiles on {cells} of the file's" + (f" (goal: {case.goal})" if case.goal else ""))
        for threads in (1, 2):
            decode, _ = decoding(path, case, threads)
            runs: dict[str, tuple[Run, int]] = {
                "ours": (ours(path, case, threads), tiles),
                "decoding": (decode, cells),
                "ours, 1 thread": (ours(path, case, 1), tiles),
            }
            for library in ("OpenSlide", "tiffslide"):
                runs[library] = (peer(path, case, threads, library, few), few)
            clock = 0 if threads == 1 else 1
            rates: dict[str, list[float]] = {name: [] for name in runs}
            for turn in range(pairs + 1):  # the first warms up
                for name, (run, count) in runs.items():
                    if threads == 1 and name == "ours, 1 thread":
                        continue
                    seconds = run()[clock]
                    if turn:
                        rates[name].append(count / seconds)

            def ratio(other: str, factor: float = 1.0, rates: dict[str, list[float]] = rates) -> str:
                return spread([factor * a / b for a, b in zip(rates["ours"], rates[other], strict=True)])

            unit = "CPU s" if threads == 1 else "s"
            print(f"  {threads} thread{'s' * (threads > 1)}: {statistics.median(rates['ours']):.0f} tiles per {unit}")
            print(f"    of decoding each of them once  {ratio('decoding', cells / tiles)}")
            if case.stride < CELL:
                print(f"    x a decode per tile            {ratio('decoding')}")
            print(f"    x OpenSlide                    {ratio('OpenSlide')}")
            print(f"    x tiffslide                    {ratio('tiffslide')}")
            if threads > 1:
                print(f"    x one thread                   {ratio('ours, 1 thread')}", flush=True)


def forget(path: Path) -> None:
    """Drop a file from the page cache, where the system lets us."""
    if hasattr(os, "posix_fadvise"):
        file = os.open(path, os.O_RDONLY)
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


def cold(path: Path, pairs: int, latency: float = 0.005) -> None:
    """Reading with nothing in the page cache, and with ``latency`` seconds added to every read."""
    case, count = CASES[0], 400
    rates: dict[str, list[float]] = {}
    plain = CellDecoder._read

    def slow(self: CellDecoder, offset: int, places: Sequence[memoryview]) -> None:
        time.sleep(latency)
        plain(self, offset, places)

    def note(name: str, run: Run, tiles: int) -> None:
        forget(path)
        rates.setdefault(name, []).append(tiles / run()[1])

    for _ in range(pairs):
        note("ours, 1 thread", ours(path, case, 1, count), count)
        note("ours, 2 threads", ours(path, case, 2, count), count)
        note("OpenSlide, 1 thread", peer(path, case, 1, "OpenSlide", 100), 100)
        with patch.object(CellDecoder, "_read", slow):
            for threads in (1, 2, 16):
                note(f"ours, {latency * 1e3:.0f} ms a read, {threads} threads", ours(path, case, threads, 160), 160)
    print("\non the grid, page cache dropped before each run: tiles per second")
    for name, found in rates.items():
        print(f"  {name:30s} {statistics.median(found):6.0f} [{min(found):.0f}, {max(found):.0f}]")


def opening(path: Path, pairs: int) -> None:
    times: dict[str, list[float]] = {"direct_tiff": [], "openslide": []}
    for _ in range(pairs):
        for reader, found in times.items():
            found.append(1e3 * clocked(lambda reader=reader: wk.open_slide(path, reader=reader).close())[1])
    print("opening, ms: " + ", ".join(f"{reader} {spread(found)}" for reader, found in times.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--slide", type=Path, help="a slide of 20,000 px that plant_slide made; default: make one")
    parser.add_argument("--pairs", type=int, default=7)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = options.slide or Path(folder) / "planted.svs"
        if options.slide is None:
            plant_slide(path, seed=3, size_px=20_000, tissue_fraction=0.6, processes=2)
        _, size = decoding(path, CASES[0], 1)
        print(f"{path.name}: {size / 1e3:.1f} kB per JPEG tile of {CELL} px; load {os.getloadavg()[0]:.1f}")
        opening(path, options.pairs)
        report(path, options.pairs)
        cold(path, options.pairs)


if __name__ == "__main__":
    main()
