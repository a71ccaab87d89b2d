"""Bags on their way into training: read from a store, and pooled in one batch though their sizes differ.

    python benchmarks/bags.py loading       # against arrays that are mapped into memory
    python benchmarks/bags.py ragged        # against the same bags padded to the largest, in torchmil too

*loading*: every row of some bags copied into one packed float16 tensor, from a store by ``wsikit.cohort.bags.Bags``
without its cache, and from one ``.npy`` file per slide with ``mmap_mode="r"``. The files are in the page cache.

*ragged*: forward and backward pass of gated ABMIL over eight bags of 2,500 to 12,900 instances. Padding waste is the
rows of the padded batch over those of the bags: how many times as long padding would take if rows were all that counts.

Medians [range] of interleaved rounds, wall-clock time.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import wsikit as wk
from wsikit.aggregators.registry import create_aggregator
from wsikit.allocator import keep_freed_memory
from wsikit.cohort.bags import Bags
from wsikit.cohort.table import CohortSlide
from wsikit.layers.packed import offsets_of
from wsikit.store.from_arrays import store_features

Step = Callable[[], object]
SIZES = (2500, 2700, 2900, 3100, 3300, 3500, 4100, 12900)


def rounds(steps: dict[str, Step], pairs: int) -> dict[str, list[float]]:
    """Seconds of each step, taken in turn; the first round warms up."""
    found: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(pairs + 1):
        for name, step in steps.items():
            begin = time.perf_counter()
            step()
            if turn:
                found[name].append(time.perf_counter() - begin)
    return found


def spread(values: list[float], form: str = ".2f") -> str:
    return f"{statistics.median(values):{form}} [{min(values):{form}}, {max(values):{form}}]"


def ratio(times: dict[str, list[float]], name: str, other: str) -> str:
    return spread([a / b for a, b in zip(times[name], times[other], strict=True)])


def loading(options: argparse.Namespace) -> None:
    slides, tiles, dim = 16, 10_000, 1024
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        features = {f"s{i}": rng.standard_normal((tiles, dim), np.float32).astype(np.float16) for i in range(slides)}
        store_features(Path(folder) / "store.zarr", features, encoder="toy", source="drawn")
        paths = [Path(folder) / f"{name}.npy" for name in features]
        for path, x in zip(paths, features.values(), strict=True):
            np.save(path, x)
        del features
        store = wk.open_store(Path(folder) / "store.zarr")
        bags = Bags([(CohortSlide(name, store, None),) for name in store.slide_ids], encoder="toy", cache_bytes=0)
        for size in (1, 4):
            batches = [list(range(i, i + size)) for i in range(0, slides, size)]

            def ours(batches: list[list[int]] = batches) -> None:
                for batch in batches:
                    torch.from_numpy(bags.batch(batch).x)

            def mapped(batches: list[list[int]] = batches) -> None:
                for batch in batches:
                    arrays = [np.load(paths[i], mmap_mode="r") for i in batch]
                    out = torch.empty((sum(map(len, arrays)), dim), dtype=torch.float16)
                    np.concatenate(arrays, out=out.numpy())

            times = rounds({"store": ours, "npy": mapped}, options.pairs)
            each = {name: spread([1e3 * s / slides for s in seconds], ".1f") for name, seconds in times.items()}
            print(f"batches of {size}, {tiles} x {dim} float16: ms a bag: store {each['store']}, npy {each['npy']}")
            print(f"    store / npy {ratio(times, 'store', 'npy')}; target at most 1.5", flush=True)


def ragged(options: argparse.Namespace) -> None:
    dim, waste = 1024, len(SIZES) * max(SIZES) / sum(SIZES)
    model = create_aggregator("abmil", in_dim=dim, seed=0, embed_dim=256, attention_dim=128)
    bags = [torch.randn(n, dim) for n in SIZES]
    packed, offsets = torch.cat(bags), offsets_of(list(SIZES))
    padded = torch.nn.utils.rnn.pad_sequence(bags, batch_first=True)
    mask = torch.arange(max(SIZES))[None, :] < torch.tensor(SIZES)[:, None]

    def step(forward: Callable[[], torch.Tensor], module: torch.nn.Module) -> Step:
        def run() -> None:
            module.zero_grad(set_to_none=True)
            forward().sum().backward()

        return run

    steps = {
        "packed": step(lambda: model(packed, offsets=offsets).embedding, model),
        "one by one": step(lambda: torch.cat([model(x).embedding for x in bags]), model),
    }
    try:
        from torchmil.models import ABMIL
    except ImportError:
        print("torchmil is not installed: pip install torchmil")
    else:
        project = torch.nn.Sequential(torch.nn.Linear(dim, 256), torch.nn.ReLU())
        peer = ABMIL((dim,), att_dim=128, gated=True, feat_ext=project)
        steps["padded (torchmil)"] = step(lambda: peer(padded, mask.float()), peer)
    times = rounds(steps, options.pairs)
    print(f"bags of {', '.join(map(str, SIZES))} x {dim}; padding waste {waste:.2f}")
    for name, seconds in times.items():
        print(f"  {name:18} {spread([1e3 * s for s in seconds], '.0f')} ms")
    for name in list(times)[1:]:
        goal = f"; target at least {0.9 * waste:.2f}" if name.startswith("padded") else ""
        print(f"  {name} / packed {ratio(times, name, 'packed')}{goal}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("what", nargs="?", choices=["loading", "ragged"], help="default: both")
    parser.add_argument("--pairs", type=int, default=7)
    options = parser.parse_args()
    keep_freed_memory()  # as the processes of wsikit do
    torch.set_num_threads(2)
    for name, work in (("loading", loading), ("ragged", ragged)):
        if options.what in (None, name):
            print(f"== {name}")
            work(options)


if __name__ == "__main__":
    main()
