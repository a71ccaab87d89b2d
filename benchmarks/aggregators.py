"""ABMIL's forward and backward pass on one bag against its matrix products alone.

    python benchmarks/aggregators.py            # under a minute on two cores

The floor is the matrix products that no implementation goes without, forward and backward, with
ready-made operands: the projection (the features need no gradient) and the hidden layer of the
attention (V and U as one); those of the weighted sum are a thousandth of it and left out. The two run in
turn, so that a busy machine slows both, and the ratio is of neighbours. Still run it on an idle
machine: the model has more steps than the floor, and at the end of each one thread waits for the other.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from wsikit.aggregators.registry import create_aggregator

TARGET = 1.2


def seconds(step: Callable[[], None]) -> float:
    begin = time.perf_counter()
    step()
    return time.perf_counter() - begin


def spread(values: list[float], form: str) -> str:
    return f"{statistics.median(values):{form}} [{min(values):{form}}, {max(values):{form}}]"


def floor(instances: int, in_dim: int, embed_dim: int, attention_dim: int) -> Callable[[], None]:
    """The products of the projection and of the hidden layer, and those of their gradients."""
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--instances", type=int, default=10_000)
    parser.add_argument("--in-dim", type=int, default=1024)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = create_aggregator("abmil", in_dim=options.in_dim, embed_dim=256, attention_dim=128, seed=0)
    x = torch.randn(options.instances, options.in_dim)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        model(x).embedding.sum().backward()

    products = floor(options.instances, options.in_dim, 256, 128)
    for warm_up in (step, products, step, products):
        warm_up()
    pairs = [(seconds(step), seconds(products)) for _ in range(options.pairs)]
    print(f"ABMIL, forward + backward, one bag {options.instances} x {options.in_dim}, {options.threads} threads")
    print(f"median [range] of {options.pairs} interleaved pairs")
    print(f"model     {spread([1e3 * model_s for model_s, _ in pairs], '.0f')} ms")
    print(f"products  {spread([1e3 * floor_s for _, floor_s in pairs], '.0f')} ms")
    print(f"ratio     {spread([model_s / floor_s for model_s, floor_s in pairs], '.2f')}; target at most {TARGET}")


if __name__ == "__main__":
    main()
