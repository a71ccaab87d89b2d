"""How close a whole extraction comes to what its parts can do alone.

    python benchmarks/pipeline.py                          # a quarter of an hour on two cores; draws its slide first
    python benchmarks/pipeline.py --slide planted.svs --lazyslide lazy/bin/python    # see peers/lazyslide.py

Real runs of ``wk.extract_features``: worker processes, store, done records. An encoder that does nothing shows
what reading and writing cost, against decoding the same tiles from memory with two threads and, where a Python
that has LazySlide is named, against LazySlide from the same coordinates. A ViT-S with random weights shows whether the
encoder is kept busy, against its own rate on tiles in memory. A run's rate is that of its shards, without the start
of processes. Ratios are medians [range] of interleaved pairs, in wall-clock time: the machine must be idle.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import simplejpeg
from reading import CELL, in_threads, spread

import wsikit as wk
from wsikit.allocator import keep_freed_memory
from wsikit.encoders.card import EncoderCard
from wsikit.encoders.registry import register_encoder
from wsikit.extract.plan import read_coords
from wsikit.extract.run import RunReport
from wsikit.extract.settings import EncoderSettings
from wsikit.slides.tiff_levels import index_levels
from wsikit.testing import plant_slide

SLIDES, TURNS = 20, 16
VIT = "timm:vit_small_patch16_224"


class Nothing:
    """An encoder that looks at no pixel."""

    def __init__(self, number: int) -> None:
        self.card = _card(number)
        self.identity = {"algorithm": "nothing", "number": number}

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        return np.zeros((len(pixels), 8), np.float32)


def _card(number: int) -> EncoderCard:
    return EncoderCard(
        f"nothing-{number}", 8, None, None, None, None, licence="", source="", citation="", summary="benchmark"
    )


for _number in range(8 * TURNS):  # each run adds another encoder to a planned store, so that it only reads and writes
    register_encoder(_card(_number))(lambda number=_number: Nothing(number))


class Cohort:
    """One slide under several names, planned once."""

    def __init__(self, folder: Path, slide: Path, slides: int = SLIDES) -> None:
        self.slide, self._folder, self._next = slide, folder / "slides", iter(range(8 * TURNS))
        self._folder.mkdir()
        for i in range(slides):
            os.link(slide, self._folder / f"s{i:02d}.svs")  # a symbolic link would be the same slide
        self.store = folder / "store.zarr"
        self.run(workers=2)
        self.coords = read_coords(self.store, "s00")

    def run(self, **options: object) -> RunReport:
        """Read all tiles for an encoder that does nothing."""
        encoder = EncoderSettings(f"nothing-{next(self._next)}", device="cpu")
        report = wk.extract_features(self._folder, out=self.store, encoder=encoder, **options)  # type: ignore[arg-type]
        assert report.ok, report.outcomes
        assert len(report.outcomes) == len(list(self._folder.iterdir()))
        return report


def decoding(slide: Path, coords: np.ndarray, threads: int = 2) -> Callable[[], float]:
    """Tiles per second of decoding the slide's tiles from memory, into memory that is used again."""
    with wk.open_slide(slide) as opened:
        level = index_levels(slide, opened.level_sizes)[0]
    assert not (coords % CELL).any()
    data, streams = slide.read_bytes(), []
    for column, row in (coords // CELL).tolist():
        i = row * level.grid[0] + column
        begin = int(level.offsets[i])
        streams.append(level.head + data[begin + 2 : begin + int(level.counts[i])])
    ring = np.zeros((64, CELL, CELL, 3), np.uint8)

    def run() -> float:
        began = time.perf_counter()
        for _ in range(4):
            in_threads(lambda i: simplejpeg.decode_jpeg(streams[i], "RGB", buffer=ring[i % 64]), len(streams), threads)
        return 4 * len(streams) / (time.perf_counter() - began)

    return run


def against_decoding(cohort: Cohort, pairs: int) -> None:
    limit = decoding(cohort.slide, cohort.coords)
    cases = {
        "1 worker, 2 reader threads": {"workers": 1, "reader_threads": 2, "quality": False},
        "2 workers, 1 reader thread": {"workers": 2, "reader_threads": 1, "quality": False},
        "the same with quality": {"workers": 2, "reader_threads": 1},
    }
    print(
        f"\nencoder that does nothing, {SLIDES} slides of {len(cohort.coords):,} tiles; of decoding with two threads:"
    )
    for name, options in cases.items():
        rates, ratios = [], []
        for _ in range(pairs):
            bound, rate = limit(), cohort.run(**options).tiles_per_s
            rates.append(rate)
            ratios.append(rate / bound)
        print(f"  {name:28s} {statistics.median(rates):6.0f} tiles/s  {spread(ratios)}", flush=True)


def against_lazyslide(cohort: Cohort, python: str, pairs: int) -> None:
    """The same slide, the same coordinates, one process each; LazySlide does not write what it encodes."""
    peer = Path(__file__).parent / "peers" / "lazyslide.py"
    with tempfile.TemporaryDirectory() as folder:
        coords = Path(folder) / "coords.npy"
        np.save(coords, cohort.coords)
        single = Path(folder) / "single"
        single.mkdir()
        one = Cohort(single, cohort.slide, slides=1)
        found: dict[str, list[float]] = {"wsikit": [], "wsikit, no quality": [], "lazyslide": []}
        for _ in range(pairs):
            found["wsikit"].append(one.run(workers=1, reader_threads=1).tiles_per_s)
            found["wsikit, no quality"].append(one.run(workers=1, reader_threads=1, quality=False).tiles_per_s)
            command = [python, str(peer), str(cohort.slide), str(coords)]
            clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
            said = subprocess.run(command, check=True, capture_output=True, text=True, env=clean).stdout
            answer = json.loads(said.splitlines()[-1])
            assert answer["tiles"] == len(cohort.coords), answer
            found["lazyslide"].append(answer["tiles"] / answer["seconds"])
    count, version = len(cohort.coords), answer["version"]
    print(f"\nencoder that does nothing, one slide, {count:,} tiles, one process; LazySlide {version}:")
    for name, rates in found.items():
        ratios = [a / b for a, b in zip(rates, found["lazyslide"], strict=True)]
        print(f"  {name:20s} {statistics.median(rates):6.0f} tiles/s  x LazySlide {spread(ratios)}", flush=True)


def kept_busy(folder: Path, slide: Path, pairs: int) -> None:
    """A real network: its rate in a run over its rate on tiles in memory."""
    settings = EncoderSettings(VIT, weights="random", device="cpu", threads=2)
    spec = wk.TilingSpec(stride_px=640)  # a sixth of the tiles: half a minute
    slides = folder / "few"
    slides.mkdir()
    os.link(slide, slides / "few.svs")

    def run(number: int) -> RunReport:
        return wk.extract_features(
            slides, out=folder / f"vit-{number}.zarr", encoder=settings, spec=spec, workers=1, reader_threads=1
        )

    first = run(0)
    coords = read_coords(first.store, "few")
    with wk.open_slide(slide) as opened:
        pixels = np.stack([opened.read_region(tuple(xy), (256, 256)) for xy in coords[:64].tolist()])
    import torch

    torch.set_num_threads(2)
    keep_freed_memory()  # as workers do: both sides have the same allocator
    encoder = wk.create_encoder(VIT, weights="random", device="cpu")

    def alone() -> float:
        began = time.perf_counter()
        for _ in range(len(coords) // 64):
            encoder.encode(pixels)
        return len(coords) // 64 * 64 / (time.perf_counter() - began)

    alone()
    rates, ratios, waits = [], [], []
    for turn in range(pairs):
        bound, report = alone(), run(turn + 1)
        rates.append(report.tiles_per_s)
        ratios.append(report.tiles_per_s / bound)
        waits.append(100 * report.waited)
    print(f"\nViT-S/16, random weights, 1 worker with 2 threads, {len(coords)} tiles; of its rate on tiles in memory:")
    print(
        f"  {statistics.median(rates):6.1f} tiles/s  {spread(ratios)}; the encoder waited {spread(waits)} % of the time"
    )


class _Peak(threading.Thread):
    """Most memory that child processes, and this one, ever had at once, bytes of each."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.children, self.client, self._end = 0, 0, threading.Event()

    def run(self) -> None:
        me = psutil.Process()
        while not self._end.wait(0.05):
            self.client = max(self.client, me.memory_info().rss)
            for child in me.children(recursive=True):
                try:
                    self.children = max(self.children, child.memory_info().rss)
                except psutil.Error:
                    continue

    def stop(self) -> tuple[int, int]:
        self._end.set()
        self.join()
        return self.children, self.client


def memory(folder: Path, slide: Path) -> None:
    """Peak memory of a worker and of the client, by the number of tiles of one slide."""
    print("\npeak resident memory, MB, one slide, 1 worker with 2 reader threads:")
    slides = folder / "one"
    slides.mkdir()
    os.link(slide, slides / "one.svs")
    for stride in (180, 57):  # about 5,000 and 50,000 tiles
        out = folder / f"memory-{stride}.zarr"
        peak = _Peak()
        peak.start()
        report = wk.extract_features(
            slides, out=out, encoder=EncoderSettings("nothing-0", device="cpu"), spec=wk.TilingSpec(stride_px=stride),
            workers=1, reader_threads=2,
        )  # fmt: skip
        worker, client = peak.stop()
        tiles = sum(o.tiles for o in report.outcomes)
        print(f"  {tiles:6,} tiles: worker {worker / 1e6:5.0f}, client {client / 1e6:5.0f}", flush=True)
        shutil.rmtree(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--slide", type=Path, help="a slide of 20,000 px that plant_slide made; default: make one")
    parser.add_argument("--lazyslide", help="a Python that has LazySlide; default: leave it out")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--only", choices=("decoding", "lazyslide", "vit", "memory"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "planted.svs"
        if options.slide:
            shutil.copyfile(options.slide, path)  # here, so that it can be given more names
        else:
            plant_slide(path, seed=3, size_px=20_000, tissue_fraction=0.6, processes=2)
        print(f"{path.name}; load {os.getloadavg()[0]:.1f}")
        only = options.only
        if only in (None, "decoding", "lazyslide"):
            cohort = Cohort(folder, path)
            if only != "lazyslide":
                against_decoding(cohort, options.pairs)
            if options.lazyslide:
                against_lazyslide(cohort, options.lazyslide, options.pairs)
        if only in (None, "vit"):
            kept_busy(folder, path, options.pairs)
        if only in (None, "memory"):
            memory(folder, path)


if __name__ == "__main__":
    main()
