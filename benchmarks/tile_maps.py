"""Which map finds the tiles that decide: attention, rollout, gradient x input or integrated gradients.

Bags with planted truth: of a positive patient a few neighbouring tiles are of another kind. A model learns the label
of the patient, and each map of the test patients that it calls rightly positive is compared with the planted tiles (AUC
inside a bag), and with the model (mean height of the deletion and the insertion curve).

    python benchmarks/tile_maps.py transmil set-transformer       # seven minutes on one thread
"""

from __future__ import annotations

import argparse
import time
import warnings

import numpy as np
import torch
from scipy.stats import rankdata

from wsikit.aggregators.registry import aggregator_card, create_aggregator
from wsikit.cohort.bags import BagBatch
from wsikit.cohort.endpoints import ClassLabel
from wsikit.evaluation.attribution import attention_map, gradient_times_input, integrated_gradients, rollout_map
from wsikit.evaluation.faithfulness import faithfulness, score_of
from wsikit.tasks.classification import ClassificationTask
from wsikit.training.bundle import Bundle
from wsikit.training.model import SlideModel

D, STEPS, TEST, SHIFT = 16, 1500, 60, 5.0
OPTIONS = {"embed_dim": 32}


def make(rng: np.random.Generator, positive: bool, direction: np.ndarray) -> tuple[BagBatch, np.ndarray]:
    """A bag of 100 to 256 tiles on a square grid, and which of them are planted: a patch of 2 to 4 % of the tiles."""
    side = int(rng.integers(10, 17))
    n = side * side
    grid = np.stack([np.arange(n) % side, np.arange(n) // side], axis=1)
    x = rng.normal(size=(n, D)) + rng.normal(size=D) * 0.5  # every patient is off by as much, so the mean tells little
    planted = np.zeros(n, bool)
    if positive:
        centre = rng.integers(1, side - 1, size=2)
        near = np.abs(grid - centre).sum(1) + rng.random(n) * 0.1
        planted[np.argsort(near)[: max(2, round(rng.uniform(0.02, 0.04) * n))]] = True
        x[planted] += SHIFT * direction / np.linalg.norm(direction)
    edges = np.concatenate([pairs(grid, step) for step in ((0, 1), (1, 0), (0, -1), (-1, 0))], axis=1)
    return BagBatch(x.astype(np.float16), np.array([0, n]), grid, edges), planted


def pairs(grid: np.ndarray, step: tuple[int, int]) -> np.ndarray:
    side = int(grid.max()) + 1
    to = grid + step
    inside = ((to >= 0) & (to < side)).all(1)
    return np.stack([np.flatnonzero(inside), (to[:, 1] * side + to[:, 0])[inside]])


def trained(name: str, direction: np.ndarray, seed: int) -> SlideModel:
    """Adam, a bag at a time that was never seen before, so that nothing can be learned by heart."""
    model = SlideModel(create_aggregator(name, in_dim=D, classes=2, seed=seed, **OPTIONS), 2)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4)
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    model.train()
    for step in range(STEPS):
        output = run(model, usable(name, make(rng, bool(step % 2), direction)[0]))
        loss = torch.nn.functional.cross_entropy(output.outputs, torch.tensor([step % 2]))
        if output.aggregated.penalty is not None:
            loss = loss + output.aggregated.penalty.mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


def usable(name: str, bag: BagBatch) -> BagBatch:
    return bag if aggregator_card(name).uses_edges else BagBatch(bag.x, bag.offsets, bag.grid)


def run(model: SlideModel, bag: BagBatch):
    edges = () if bag.edges is None else (torch.as_tensor(bag.edges),)
    return model(torch.as_tensor(bag.x), torch.as_tensor(bag.offsets), torch.as_tensor(bag.grid), *edges)


def auc(values: np.ndarray, positive: np.ndarray) -> float:
    ranks, n = rankdata(values), int(positive.sum())
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * (len(values) - n)))


def maps_of(model: SlideModel, bag: BagBatch) -> dict[str, np.ndarray]:
    found = {
        "attention": attention_map(model, bag),
        "rollout": rollout_map(model, bag),
        "gradient x input": gradient_times_input(model, bag, column=1),
        "integrated gradients": integrated_gradients(model, bag, column=1, max_steps=64).values,
        "random": np.random.default_rng(0).random(len(bag.x)),
    }
    return {kind: values for kind, values in found.items() if values is not None}


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["transmil", "set-transformer"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--explained", type=int, default=10, help="test patients of each seed whose maps are made")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print("| model | map | planted tiles, AUC | deletion | insertion |\n|---|---|---|---|---|")
    for name in arguments.models:
        began, rows, right = time.perf_counter(), {}, []
        for seed in arguments.seeds:
            rng = np.random.default_rng(1000 + seed)
            direction, labels = rng.normal(size=D), np.arange(TEST) % 2
            made = [make(rng, bool(label), direction) for label in labels]
            bags = [usable(name, bag) for bag, _ in made]
            model = trained(name, direction, seed)
            bundle = Bundle(model, ClassificationTask(("0", "1")), ClassLabel("label", ("0", "1")), {})
            score = score_of([bundle], 1)
            p = np.array([score(bag)[0] for bag in bags])
            right.append(auc(p, labels == 1))
            called = [i for i in range(TEST) if labels[i] and p[i] > 0.5][: arguments.explained]
            for i in called:
                bag, planted = bags[i], made[i][1]
                for kind, values in maps_of(model, bag).items():
                    f = faithfulness(score, bag, values, random_orders=1, steps=12)
                    rows.setdefault(kind, []).append((auc(values, planted), f.deletion_area, f.insertion_area))
        for kind, found in rows.items():
            a = np.array(found, float)
            print(f"| {name} | {kind} | " + " | ".join(f"{v:.3f}" for v in a.mean(0)) + " |")
        print(
            f"  {name}: label AUC of each seed {', '.join(f'{r:.3f}' for r in right)}; {len(found)} patients; "
            f"{time.perf_counter() - began:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
