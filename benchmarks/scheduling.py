"""What 10,000 slides cost beside their pixels: planning, scheduling, writing, status, resume.

A cohort of simulated slides goes through ``extract_features`` with real worker processes and a real store. Only
what costs time per pixel or tile is left out: a reader gives blank tiles of 8 px, the encoder 8 zeros, and the
measures of quality and the pictures are blank too. The number of tiles per slide is log-normal, median 8,000, at
most 60,000.

The run is killed (client and workers, SIGKILL) when half of the slides are done, resumed, and then repeated on
the finished store. A file's fingerprint is of a small file on a local disk: on a network disk add its 18 reads.

    python benchmarks/scheduling.py                                     # 1,000 slides, minutes
    python benchmarks/scheduling.py --slides 10000 --json numbers.json  # half an hour, and 7 GB in --folder
"""

from __future__ import annotations

import argparse
import json
import math
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import wsikit as wk
from wsikit.encoders.card import EncoderCard
from wsikit.encoders.registry import register_encoder
from wsikit.extract import features, plan
from wsikit.extract.pictures import picture_path
from wsikit.extract.run import Progress
from wsikit.extract.settings import EncoderSettings
from wsikit.geometry import Mpp
from wsikit.slides.base import register_reader
from wsikit.slides.quality import QUALITY_NAMES
from wsikit.slides.tiling import TilingSpec
from wsikit.store.format import SHARD_ROWS, shards_of
from wsikit.store.objects import write_atomic

TILE_PX, MOST_TILES, MEDIAN_TILES = 8, 60_000, 8_000
MAGIC = b"simulated "
CARD = EncoderCard(
    name="simulated", dim=8, tile_px=None, mpp=None, mean=None, std=None, licence="none", source="this script",
    citation="none",
)  # fmt: skip


@register_reader("simulated", priority=0, formats="columns and rows of tiles", source="this script", licence="none")
class Simulated:
    """A slide of so many tiles and no pixels."""

    vendor, recorded_mpp, mpp_source = "simulated", Mpp(0.5, 0.5), "simulated"
    scenes: tuple[str, ...] = ()
    thread_safe, can_shrink = True, False

    def __init__(self, path: Path, *, scene: str | None = None) -> None:
        words = path.read_bytes()
        if not words.startswith(MAGIC):
            raise ValueError("not a simulated slide")
        columns, rows = map(int, words.split()[1:3])
        self.level_sizes = ((columns * TILE_PX, rows * TILE_PX), (columns, rows))
        self.level_downsamples = (1.0, float(TILE_PX))

    def read(self, xy_level0: tuple[int, int], size_px: tuple[int, int], level: int) -> np.ndarray:
        return np.full((size_px[1], size_px[0], 3), 200, np.uint8)

    def read_tiles(self, xy_level0: Any, choice: Any, out: np.ndarray, *, threads: int = 1) -> np.ndarray:
        return np.zeros(len(out), np.uint8)

    def close(self) -> None:
        pass


@register_encoder(CARD)
class Zeros:
    """The features of nothing."""

    card, identity = CARD, {"algorithm": "zeros"}

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        return np.zeros((len(pixels), CARD.dim), np.float32)


def no_quality(tiles: np.ndarray) -> np.ndarray:
    return np.zeros((len(tiles), len(QUALITY_NAMES)), np.float32)


def no_picture(report: Path, slide_id: str, *_: Any) -> None:
    picture_path(report, slide_id).parent.mkdir(exist_ok=True)
    write_atomic(picture_path(report, slide_id), b"no picture")


features.tile_quality, plan.picture_plan = no_quality, no_picture  # workers import this script: theirs too


def plant(folder: Path, slides: int) -> list[int]:
    """Slides without pixels; returns their numbers of tiles."""
    rng, counts = np.random.default_rng(0), []
    for number in range(slides):
        tiles = min(MOST_TILES, max(1, round(MEDIAN_TILES * math.exp(rng.normal(0, 0.8)))))
        columns = math.ceil(math.sqrt(tiles))
        rows = -(-tiles // columns)
        counts.append(columns * rows)
        # The fingerprint reads a file's edges and 16 probes between: content of a plausible size, different in each.
        (folder / f"TCGA-{number:05d}-01Z-00-DX1.svs").write_bytes(MAGIC + f"{columns} {rows} ".encode())
    return counts


class Watch(Progress):
    """Writes down, every so often, how far the run is and how large this process."""

    def __init__(self, path: Path, slides: int) -> None:
        self.path, self.every, self.done, self.began = path, max(1, slides // 20), 0, time.perf_counter()
        self.process, self.points, self.bytes = psutil.Process(), [], {"arguments": [], "result": []}

    def finished(self, outcome: Any) -> None:
        self.done += 1
        if self.done % self.every == 0:
            self.points.append((self.done, time.perf_counter() - self.began, self.process.memory_info().rss))
            self.path.with_suffix(".part").write_text(json.dumps(self.facts()))
            os.replace(self.path.with_suffix(".part"), self.path)

    def facts(self) -> dict[str, Any]:
        return {"points": self.points, "sent": {name: _spread(found) for name, found in self.bytes.items()}}


def _spread(values: list[float]) -> dict[str, float]:
    return {"count": len(values), "mean": float(np.mean(values)), "most": max(values)} if values else {"count": 0}


def client(folder: Path, slides: int, workers: int) -> None:
    """One run, in a process of its own; its numbers go to run.json."""
    from distributed import Client

    from wsikit.extract import run

    watch, seconds = Watch(folder / "run.json", slides), {"plan": [], "shard": []}
    submit, result = Client.submit, run._Run._result

    def weighed_submit(self: Any, function: Any, *arguments: Any, **options: Any) -> Any:
        watch.bytes["arguments"].append(len(pickle.dumps(arguments)))
        return submit(self, function, *arguments, **options)

    def weighed_result(self: Any, future: Any, task: Any) -> Any:
        found = result(self, future, task)
        watch.bytes["result"].append(len(pickle.dumps(found)))
        seconds["plan" if task[1] is None else "shard"].append(found.seconds)
        return found

    Client.submit, run._Run._result = weighed_submit, weighed_result
    report = wk.extract_features(
        folder / "slides", out=folder / "a.zarr", encoder=EncoderSettings("simulated", batch_size=SHARD_ROWS),
        spec=TilingSpec(TILE_PX, 0.5), tissue="whole", workers=workers, progress=watch,
    )  # fmt: skip
    assert report.ok, [o for o in report.outcomes if not o.ok][:3]
    total = time.perf_counter() - watch.began
    times = {name: _spread(found) for name, found in seconds.items()}
    rss = psutil.Process().memory_info().rss
    (folder / "run.json").write_text(json.dumps({**watch.facts(), "seconds": total, "worker_s": times, "rss": rss}))


def run_client(folder: Path, slides: int, workers: int, *, kill_at: int | None = None) -> dict[str, Any]:
    """Run the client; its numbers. Killed with its workers once so many slides are done."""
    facts = folder / "run.json"
    facts.unlink(missing_ok=True)
    command = [sys.executable, __file__, "--client", str(folder), "--slides", str(slides), "--workers", str(workers)]
    process = subprocess.Popen(command, start_new_session=True)
    while process.poll() is None:
        time.sleep(0.1)
        if kill_at and facts.exists() and json.loads(facts.read_text())["points"][-1][0] >= kill_at:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            break
    else:
        assert process.returncode == 0, f"the client ended with {process.returncode}"
    return dict(json.loads(facts.read_text()))


def timed(*words: str, codes: tuple[int, ...] = (0,)) -> float:
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "wsikit", *words], capture_output=True, text=True)
    assert done.returncode in codes, done.stdout[-2000:] + done.stderr
    return time.perf_counter() - began


def disk(store: Path) -> tuple[int, int]:
    """Bytes and inodes."""
    found = [(p.stat().st_blocks * 512) for p in store.rglob("*")]
    return sum(found), len(found)


def measure(folder: Path, slides: int, workers: int) -> dict[str, Any]:
    (folder / "slides").mkdir(parents=True)
    counts = plant(folder / "slides", slides)
    shards, store = sum(map(shards_of, counts)), str(folder / "a.zarr")
    found: dict[str, Any] = {"slides": slides, "tiles": sum(counts), "shards": shards, "workers": workers}
    print(f"{slides:,} slides, {sum(counts):,} tiles, {shards:,} shards, {workers} workers", flush=True)

    def tell(name: str, value: float, text: str) -> None:
        found[name] = value
        print(f"  {text}", flush=True)

    first = run_client(folder, slides, workers, kill_at=slides // 2)
    done, wall, _ = first["points"][-1]
    tell("first_half_s", wall, f"killed after {done:,} slides, {wall:.0f} s: {1e3 * wall / done:.1f} ms per slide")
    half_s = timed("status", store, codes=(1,))
    tell("status_half_s", half_s, f"status of the half-done store: {half_s:.1f} s")
    second = run_client(folder, slides, workers)
    tell("resume_half_s", second["seconds"], f"resumed to the end: {second['seconds']:.0f} s")
    mean = {name: 1e3 * spread["mean"] for name, spread in second["worker_s"].items()}
    tell("plan_ms", mean["plan"], f"  {mean['plan']:.1f} ms of a worker per slide to plan or to compare")
    tell("shard_ms", mean["shard"], f"  {mean['shard']:.1f} ms of a worker per shard to encode and write")
    both = wall + second["seconds"]
    tell("wall_ms_per_shard", 1e3 * both / shards, f"  plan and encode, wall: {1e3 * both / shards:.1f} ms per shard")
    third = run_client(folder, slides, workers)
    again = 1e3 * third["worker_s"]["plan"]["mean"]
    tell("resume_done_s", third["seconds"], f"the same command on the finished store: {third['seconds']:.0f} s")
    tell("compare_ms", again, f"  {again:.1f} ms of a worker per slide")
    full_s = timed("status", store)
    tell("status_s", full_s, f"status of the finished store: {full_s:.1f} s")
    for name in ("arguments", "result"):
        most = max(one["sent"][name]["most"] for one in (second, third))
        tell(f"{name}_bytes", most, f"{name} of a task: at most {most:,.0f} bytes")
    points = [point for point in second["points"] if point[0] >= slides // 4]
    peak = max(point[2] for one in (first, second, third) for point in one["points"]) / 2**20
    growth = (points[-1][2] - points[0][2]) / 2**20 / (points[-1][0] - points[0][0]) * 1e3
    tell("client_peak_mb", peak, f"client and scheduler (one process): {peak:.0f} MiB at most, ")
    tell("client_growth_mb", growth, f"  {growth:+.1f} MiB per 1,000 slides")
    size, inodes = disk(folder / "a.zarr")
    tell("bytes_per_slide", size / slides, f"store: {size / slides / 2**20:.2f} MiB and ")
    tell("inodes_per_slide", inodes / slides, f"  {inodes / slides:.1f} inodes per slide (features of {CARD.dim})")
    page = (folder / "a.report" / "index.html").stat().st_size
    tell("page_bytes", page, f"index.html: {page / 2**20:.2f} MiB")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slides", type=int, default=1_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where the store goes; default: a temporary folder, deleted after")
    parser.add_argument("--json", type=Path, help="write the numbers there, too")
    parser.add_argument("--client", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.client is not None:
        return client(asked.client, asked.slides, asked.workers)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        found = measure(Path(folder) / "run", asked.slides, asked.workers)
    print(f"in all {time.perf_counter() - began:.0f} s")
    if asked.json is not None:
        asked.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
