"""What it costs a ViT-S that glibc hands freed memory back to the system, and what keeping it costs.

    python benchmarks/allocator.py        # three minutes on two cores; needs the extra timm

Each round encodes the same tiles in a fresh process per way: with the threshold that Dask's nannies set for their
workers, with glibc's own, and with ``wsikit.allocator.keep_freed_memory``, as the workers of an extraction do. The
first batch is not counted. Minor page faults and seconds are the process's own, as the kernel counts them.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys

import numpy as np

WAYS = {"Dask's": {"MALLOC_TRIM_THRESHOLD_": "65536"}, "glibc's": {}, "kept": {"KEEP_FREED_MEMORY": "1"}}


def encode(tiles: int, threads: int, times: int) -> dict[str, float]:
    """Per tile, after a batch that is not counted: CPU seconds, those in the kernel, page faults; and the peak."""
    import torch

    import wsikit as wk
    from wsikit.allocator import keep_freed_memory

    if os.environ.get("KEEP_FREED_MEMORY"):
        assert keep_freed_memory()
    torch.set_num_threads(threads)
    encoder = wk.create_encoder("timm:vit_small_patch16_224", weights="random", device="cpu")
    pixels = np.random.default_rng(0).integers(0, 255, (tiles, 256, 256, 3), dtype=np.uint8)
    encoder.encode(pixels)
    before = resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(times):
        encoder.encode(pixels)
    after = resource.getrusage(resource.RUSAGE_SELF)
    system, user = after.ru_stime - before.ru_stime, after.ru_utime - before.ru_utime
    each = times * tiles
    return {
        "cpu": (system + user) / each,
        "system": system / each,
        "faults": (after.ru_minflt - before.ru_minflt) / each,
        "peak MB": after.ru_maxrss * 1024 / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=int, default=64, help="of one batch")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=5, help="rounds")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(encode(options.tiles, options.threads, 2)))
        return
    plain = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    command = [sys.executable, __file__, "--one", "--tiles", str(options.tiles), "--threads", str(options.threads)]
    for _ in range(options.pairs):
        for way, changed in WAYS.items():
            output = subprocess.run(command, env=plain | changed, check=True, capture_output=True, text=True).stdout
            found[way].append(json.loads(output.splitlines()[-1]))
    load = os.getloadavg()[0]
    print(f"ViT-S/16, batches of {options.tiles}, {options.threads} threads, {options.pairs} rounds; load {load:.1f}")
    for way, rounds in found.items():
        median = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
        ratios = [one["cpu"] / kept["cpu"] for one, kept in zip(rounds, found["kept"], strict=True)]
        print(
            f"{way:8} {median['faults']:7.0f} page faults a tile, {1e3 * median['cpu']:6.1f} ms of CPU of which "
            f"{1e3 * median['system']:5.1f} in the kernel, {statistics.median(ratios):.2f} [{min(ratios):.2f}, "
            f"{max(ratios):.2f}] times kept's; peak {median['peak MB']:.0f} MB"
        )


if __name__ == "__main__":
    main()
