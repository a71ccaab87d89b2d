"""Forward and backward pass of ABMIL and TransMIL on one bag against their matrix products alone, and against torchmil.

    python benchmarks/aggregators.py                          # two minutes on two cores
    python benchmarks/aggregators.py --models transmil --malloc default
    python benchmarks/aggregators.py --models abmil --bf16    # under autocast, the products with bfloat16 operands

The floor is the matrix products that no implementation goes without, forward and backward, with ready-made
operands; the features need no gradient. ABMIL: the projection and the hidden layer of the attention (V and U as one);
those of the weighted sum are a thousandth of it and left out. TransMIL: the projection, the maps of both
layers (of the last one, only what the class token needs), the products of both long softmaxes, the iterations of the
pseudo-inverse; not the convolutions.

Model, floor and peer run in turn, so that a busy machine slows all, and the ratios are of neighbours. Still run it on
an idle machine: the model has more steps than the floor, and at the end of each one thread waits for the other.

glibc hands large blocks back to the system, and each step then faults in fresh pages. ``--malloc keep`` starts
Python with thresholds that keep them; ``both`` runs both ways, and says what that alone gives.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch

from wsikit.aggregators.registry import create_aggregator

Step = Callable[[], None]
TARGETS = {"abmil": 1.2, "transmil": 1.3}
TARGETS_BF16 = {"abmil": 1.4, "transmil": 1.3}
PEER_TARGETS = {"abmil": 1.0, "transmil": 0.9}
KEEP = {"MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TRIM_THRESHOLD_": str(2**33)}


def seconds(step: Step, clock: Callable[[], float]) -> float:
    begin = clock()
    step()
    return clock() - begin


def spread(values: list[float], form: str) -> str:
    return f"{statistics.median(values):{form}} [{min(values):{form}}, {max(values):{form}}]"


def floor_of_abmil(instances: int, in_dim: int) -> Step:
    """The products of the projection and of the hidden layer, and those of their gradients."""
    embed_dim, attention_dim = 256, 128
    x = torch.randn(instances, in_dim)
    project, hidden = torch.randn(in_dim, embed_dim), torch.randn(embed_dim, 2 * attention_dim)
    h, grad_h = torch.randn(instances, embed_dim), torch.randn(instances, embed_dim)
    grad_hidden = torch.randn(instances, 2 * attention_dim)

    def step() -> None:
        x @ project
        h @ hidden
        h.T @ grad_hidden
        grad_hidden @ hidden.T
        x.T @ grad_h

    return step


def floor_of_transmil(instances: int, in_dim: int) -> Step:
    """E = 512, 8 heads of d = 64, m = 256 landmarks, 6 iterations."""
    width, heads, landmarks, iterations = 512, 8, 256, 6
    x, h = torch.randn(instances, in_dim), torch.randn(instances, width)
    project, one, two = torch.randn(in_dim, width), torch.randn(width, width), torch.randn(width, 2 * width)
    h2 = torch.randn(instances, 2 * width)
    long, short = torch.randn(heads, instances, 64), torch.randn(heads, landmarks, 64)
    weights, square = torch.randn(heads, landmarks, instances), torch.randn(heads, landmarks, landmarks)

    def linear(matrix: torch.Tensor, out: torch.Tensor) -> None:
        h @ matrix
        out @ matrix.T
        h.T @ out

    def long_attention() -> None:
        for _ in range(3):  # scores and values, and the gradients of the two factors of each
            short @ long.mT
            weights @ long

    def inverse() -> None:
        for _ in range(3 * 4 * iterations):
            square @ square

    def step() -> None:
        x @ project
        x.T @ h
        for matrix, out in ((one, h), (two, h2), (one, h), (two, h2)):  # query, key and value, out; key and value
            linear(matrix, out)
        for _ in range(3):  # to and from the landmarks; from them
            long_attention()
        for _ in range(2):
            inverse()

    return step


def ours(name: str, instances: int, in_dim: int) -> Step:
    options = {"embed_dim": 256, "attention_dim": 128} if name == "abmil" else {}
    model = create_aggregator(name, in_dim=in_dim, seed=0, **options)
    x, index = torch.randn(instances, in_dim), torch.arange(instances)
    grid = torch.stack([index % 100, index // 100], dim=1)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        model(x, grid=grid).embedding.sum().backward()

    return step


def torchmils(name: str, instances: int, in_dim: int) -> Step | None:
    """The same model of the same widths (its TransMIL has no convolution); None where it is not installed."""
    try:
        from torchmil.models import ABMIL, TransMIL
    except ImportError:
        return None
    if name == "transmil":
        model = TransMIL((in_dim,), att_dim=512, n_heads=8, n_landmarks=256, dropout=0.1)
    else:
        project = torch.nn.Sequential(torch.nn.Linear(in_dim, 256), torch.nn.ReLU())
        model = ABMIL((in_dim,), att_dim=128, gated=True, feat_ext=project)
    x = torch.randn(1, instances, in_dim)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        model(x).sum().backward()

    return step


def autocast(step: Step) -> Step:
    def mixed() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            step()

    return mixed


def measure(name: str, options: argparse.Namespace) -> dict[str, list[float]]:
    shape = (options.instances, options.in_dim)
    floors = {"abmil": floor_of_abmil, "transmil": floor_of_transmil}
    torch.set_default_dtype(torch.bfloat16 if options.bf16 else torch.float32)
    floor = floors[name](*shape)
    torch.set_default_dtype(torch.float32)
    steps = {"model": ours(name, *shape), "products": floor, "torchmil": torchmils(name, *shape)}
    present = {key: step for key, step in steps.items() if step is not None}
    if options.bf16:
        present |= {key: autocast(step) for key, step in present.items() if key != "products"}
    for step in present.values():
        step()  # the first has everything to set up
    times: dict[str, list[float]] = {key: [] for key in present}
    clock = time.process_time if options.cpu else time.perf_counter
    for _ in range(options.pairs):
        for key, step in present.items():
            times[key].append(seconds(step, clock))
    return times


def report(name: str, times: dict[str, list[float]], options: argparse.Namespace, malloc: str) -> None:
    clock, width = "CPU" if options.cpu else "wall", "bf16" if options.bf16 else "fp32"
    print(
        f"\n{name}, forward + backward, one bag {options.instances} x {options.in_dim}, {options.threads} threads, "
        f"{width}, malloc {malloc}, {clock} time; median [range] of {options.pairs} rounds"
    )
    for key, values in times.items():
        print(f"{key:9} {spread([1e3 * value for value in values], '.0f')} ms")
    targets = TARGETS_BF16 if options.bf16 else TARGETS
    for key, target in {"products": targets[name], "torchmil": PEER_TARGETS[name]}.items():
        if key in times:
            ratios = [model / other for model, other in zip(times["model"], times[key], strict=True)]
            print(f"model / {key:9} {spread(ratios, '.2f')}; target at most {target}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--models", nargs="+", choices=list(TARGETS), default=list(TARGETS))
    parser.add_argument("--instances", type=int, default=10_000)
    parser.add_argument("--in-dim", type=int, default=1024)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--cpu", action="store_true", help="CPU time, not wall time: with --threads 1, on a busy machine"
    )
    parser.add_argument("--bf16", action="store_true", help="matrix products in bfloat16")
    parser.add_argument("--malloc", choices=["default", "keep", "both"], default="both")
    parser.add_argument("--json", action="store_true", help="measure in this very process, and print the seconds")
    options = parser.parse_args()
    if options.json:
        torch.set_num_threads(options.threads)
        torch.manual_seed(0)
        print(json.dumps({name: measure(name, options) for name in options.models}))
        return
    found = {}
    for malloc in ["default", "keep"] if options.malloc == "both" else [options.malloc]:
        environment = {key: value for key, value in os.environ.items() if key not in KEEP}
        environment |= KEEP if malloc == "keep" else {}  # glibc reads it before Python begins
        command = [sys.executable, __file__, *sys.argv[1:], "--json"]
        output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout
        found[malloc] = json.loads(output)
        for name, times in found[malloc].items():
            report(name, times, options, malloc)
    if len(found) == 2:
        print("\nkeeping freed blocks alone, time with / without (one after the other, not in turn):")
        for name in options.models:
            for key in found["keep"][name]:
                medians = [statistics.median(found[malloc][name][key]) for malloc in ("keep", "default")]
                print(f"{name:9} {key:9} {medians[0] / medians[1]:.2f}")


if __name__ == "__main__":
    main()
