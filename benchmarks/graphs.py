"""Graphs of tiles: how long they take to build, and what they hold; sums over neighbours against PyTorch Geometric's.

    python benchmarks/graphs.py builders             # 10,000 and 100,000 tiles, by kind
    python benchmarks/graphs.py sums                 # one layer, forward and backward, ours and PyTorch Geometric's
    python benchmarks/graphs.py wikg                 # 100,000 tiles through WiKG: peak memory, a minute or more

Times are medians of a few runs in turn; memory is the most that the process has had resident beyond what it
had before, each case in a process of its own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from wsikit.aggregators.registry import create_aggregator
from wsikit.cohort.graphs import GraphSettings, build_graph
from wsikit.layers.message_passing import neighbour_softmax_sum, neighbour_sum, neighbours

KINDS = {
    "grid, 8 neighbours": {"kind": "grid"},
    "knn by place, k=8": {"kind": "knn"},
    "radius, 1.5 steps": {"kind": "radius", "radius_um": 150.0},
    "knn by feature, k=8": {"kind": "features"},
}
WIKG_LIMIT_GIB = 6.0


def lattice(tiles: int, *, dim: int = 0) -> dict[str, Any]:
    """Tiles of a roundish piece of tissue, a tenth of them missing, and their features."""
    rng = np.random.default_rng(0)
    side = int(1.3 * tiles**0.5) + 2
    grid = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2)
    order = np.argsort(np.square(grid - side / 2).sum(1) * rng.uniform(0.9, 1.1, len(grid)), kind="stable")
    grid = grid[np.sort(order[:tiles])]
    x = rng.standard_normal((tiles, dim), np.float32).astype(np.float16) if dim else None
    return {"grid": grid, "x": x, "step_um": np.full((tiles, 2), 100.0)}


def resident_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def alone(work: Callable[..., Any], *arguments: Any) -> Any:
    """Run in a fresh process, so that its peak of memory is its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def build(kind: dict[str, Any], tiles: int, dim: int, threads: int) -> tuple[float, float, int]:
    torch.set_num_threads(threads)
    settings = GraphSettings(**kind)
    build_graph(settings, **lattice(100, dim=8))  # imports
    given, before, begin = lattice(tiles, dim=dim if settings.kind == "features" else 0), resident_gib(), time.time()
    edges = build_graph(settings, **given)
    return time.time() - begin, resident_gib() - before, edges.shape[1]


def builders(options: argparse.Namespace) -> None:
    print(f"{'kind':22} {'tiles':>8} {'edges':>10} {'seconds':>8} {'MiB':>6}")
    for tiles in (10_000, 100_000):
        for name, kind in KINDS.items():
            seconds, gib, edges = alone(build, kind, tiles, options.dim, options.threads)
            print(f"{name:22} {tiles:8,} {edges:10,} {seconds:8.2f} {1024 * gib:6.0f}", flush=True)


def sums(options: argparse.Namespace) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch_geometric.nn import GATv2Conv, GENConv, SimpleConv

    torch.set_num_threads(options.threads)
    edges = torch.as_tensor(build_graph(GraphSettings(), lattice(options.tiles)["grid"]))
    graph = neighbours(edges, options.tiles)
    x = torch.randn(options.tiles, options.width, requires_grad=True)
    t = torch.ones((), requires_grad=True)
    plain, soft = SimpleConv(), GENConv(options.width, options.width, learn_t=True)
    soft.mlp = torch.nn.Identity()
    attend = GATv2Conv(options.width, options.width // 4, heads=4)
    ours = create_aggregator("gat", in_dim=8, embed_dim=options.width, layers=1).convolutions[0]
    here = torch.arange(options.tiles)
    looped = neighbours(torch.cat([edges, torch.stack([here, here])], dim=1), options.tiles)
    pairs: dict[str, tuple[Callable[[], torch.Tensor], Callable[[], torch.Tensor]]] = {
        "sum": (lambda: neighbour_sum(x, graph), lambda: plain(x, edges)),
        "softmax sum": (lambda: neighbour_softmax_sum(x.relu() + 1e-7, t, graph), lambda: soft(x, edges)),
        "GATv2": (lambda: ours(x, looped), lambda: attend(x, edges)),
    }
    print(f"{options.tiles:,} tiles, {edges.shape[1]:,} edges, width {options.width}, {options.threads} threads")
    for name, steps in pairs.items():
        times: tuple[list[float], list[float]] = ([], [])
        for run in range(options.runs + 1):
            for step, mine in zip(steps, times, strict=True):
                begin = time.perf_counter()
                step().sum().backward()
                if run:
                    mine.append(time.perf_counter() - begin)
        middle = [statistics.median(mine) for mine in times]
        ratio = statistics.median([a / b for a, b in zip(*times, strict=True)])
        print(
            f"{name:12} ours {1e3 * middle[0]:7.0f} ms  PyTorch Geometric {1e3 * middle[1]:7.0f} ms  ratio {ratio:.2f}"
        )


def run_wikg(tiles: int, dim: int, threads: int, train: bool) -> tuple[float, float]:
    torch.set_num_threads(threads)
    model = create_aggregator("wikg", in_dim=dim, seed=0).train(train)
    model(torch.randn(10, dim)).embedding.sum().backward()
    x, before, begin = torch.randn(tiles, dim), resident_gib(), time.time()
    with torch.set_grad_enabled(train):
        embedding = model(x).embedding
    if train:
        embedding.sum().backward()
    return time.time() - begin, resident_gib() - before


def wikg(options: argparse.Namespace) -> None:
    full = 4 * options.tiles**2 / 2**30
    print(f"{options.tiles:,} tiles of {options.dim}; one dense matrix of them would be {full:.0f} GiB")
    for train in (False, True):
        seconds, gib = alone(run_wikg, options.tiles, options.dim, options.threads, train)
        what = "forward and backward" if train else "forward"
        print(f"{what:21} {seconds:6.0f} s  {gib:5.2f} GiB beside its input; limit {WIKG_LIMIT_GIB:g}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("what", choices=["builders", "sums", "wikg"])
    parser.add_argument("--tiles", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=512, help="width of the features")
    parser.add_argument("--width", type=int, default=128, help="width of what is summed")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    {"builders": builders, "sums": sums, "wikg": wikg}[options.what](options)


if __name__ == "__main__":
    main()
