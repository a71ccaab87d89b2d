"""Whether a map of tiles is true of the model: take the tiles away that it names, and see what the prediction does.

Works for every aggregator, because it only asks for predictions of bags with fewer tiles. Those tiles keep their places
on the grid and the edges among them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from wsikit.cohort.bags import BagBatch
from wsikit.cohort.graphs import induced
from wsikit.errors import ConfigError
from wsikit.training.bundle import Bundle

Numbers = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]
Map = npt.NDArray[np.floating[Any]]

Score = Callable[[BagBatch], Numbers]
"""Packed bags of parts of one patient -> the score of each, (B,); see :func:`score_of`."""

RANDOM_ORDERS = 19
"""Random orders that a map is compared with: to be better than all of them happens by chance in 1 of 20 maps."""

STEPS = 20
MAX_TILES = 100_000
SAME = 1e-6
"""Areas nearer than this are equal: packing other bags beside a bag moves its output by rounding."""


def score_of(bundles: Sequence[Bundle], column: int, *, sign: float = 1.0) -> Score:
    """The mean prediction of some models in one column, as a function of bags.

    Args:
        bundles: The models of one fold, or one model.
        column: Of the task's prediction: which class's probability, 0 for a log risk or a value.
        sign: -1 where a low value is what has to be explained.
    """

    def score(batch: BagBatch) -> Numbers:
        arrays = (batch.x, batch.offsets, batch.grid, *([] if batch.edges is None else [batch.edges]))
        total = np.zeros(len(batch.offsets) - 1)
        for bundle in bundles:
            bundle.model.eval()
            with torch.inference_mode():
                outputs = bundle.model(*(torch.as_tensor(array) for array in arrays)).outputs
            total += bundle.task.predict(outputs.float())[:, column]
        return sign * total / len(bundles)

    return score


def subset_scores(score: Score, bag: BagBatch, subsets: Sequence[Rows], *, max_tiles: int = MAX_TILES) -> Numbers:
    """Scores of parts of a bag, (S,), many to a batch.

    Args:
        score: Of packed bags.
        bag: One bag.
        subsets: Rows of each part, rising, at least one.
        max_tiles: Rows in a batch, unless one part has more.

    Raises:
        ConfigError: Other than one bag, or an empty part.
    """
    if len(bag.offsets) != 2:
        raise ConfigError(f"{len(bag.offsets) - 1} bags; expected one: parts are of one patient's bag")
    if any(len(rows) == 0 for rows in subsets):
        raise ConfigError("a part has no tile; a model needs at least one")
    return np.concatenate([score(_packed(bag, group)) for group in _groups(subsets, max_tiles)])


def _groups(subsets: Sequence[Rows], max_tiles: int) -> Iterator[list[Rows]]:
    group: list[Rows] = []
    for rows in subsets:
        if group and sum(map(len, group)) + len(rows) > max_tiles:
            yield group
            group = []
        group.append(rows)
    yield group


def _packed(bag: BagBatch, subsets: list[Rows]) -> BagBatch:
    """Parts of a bag one after the other, each with the edges among its tiles."""
    offsets = np.concatenate([[0], np.cumsum([len(rows) for rows in subsets])]).astype(np.int64)
    rows = np.concatenate(subsets)
    edges = None
    if bag.edges is not None:
        parts = [
            induced(bag.edges, mine, len(bag.x)) + start for mine, start in zip(subsets, offsets[:-1], strict=True)
        ]
        edges = np.concatenate(parts, axis=1)
    return BagBatch(bag.x[rows], offsets, bag.grid[rows], edges)


@dataclass(frozen=True)
class Faithfulness:
    """What became of a prediction while the tiles of a bag were taken away.

    Attributes:
        tiles: N.
        removed: (S,) how many tiles were taken away at each step, from 0 to N - 1.
        deletion: (S,) score without that many of the highest tiles: falls at once where the map is true.
        insertion: (S,) score without that many of the lowest tiles: the highest alone keep it up.
        random: (R, S) score without that many tiles in each of R random orders.
    """

    tiles: int
    removed: Rows
    deletion: Numbers
    insertion: Numbers
    random: Numbers

    @property
    def deletion_area(self) -> float:
        """Mean height of the deletion curve; lower = more faithful."""
        return float(self._area(self.deletion))

    @property
    def insertion_area(self) -> float:
        """Mean height of the insertion curve; higher = more faithful."""
        return float(self._area(self.insertion))

    @property
    def random_areas(self) -> Numbers:
        """(R,) mean height of each random order's curve."""
        return self._area(self.random)

    @property
    def verdict(self) -> str:
        """One of "faithful", "unfaithful" and "undecided".

        Faithful: taking away what the map names first hurts the prediction more than each random order does.
        Unfaithful: less than each of them does. In between, or where nothing hurts it, the map is not told from chance.
        """
        areas = self.random_areas
        if self.deletion_area < areas.min() - SAME:
            return "faithful"
        return "unfaithful" if self.deletion_area > areas.max() + SAME else "undecided"

    def __str__(self) -> str:
        areas = self.random_areas
        return (
            f"deletion AUC {self.deletion_area:.2f} against random {areas.mean():.2f} ({areas.min():.2f} to "
            f"{areas.max():.2f}), insertion AUC {self.insertion_area:.2f}"
        )

    def _area(self, curve: Numbers) -> Numbers:
        if self.tiles == 1:
            return np.asarray(curve[..., 0])
        return np.asarray(np.trapezoid(curve, self.removed, axis=-1) / self.removed[-1])


def faithfulness(
    score: Score,
    bag: BagBatch,
    tile_map: Map,
    *,
    random_orders: int = RANDOM_ORDERS,
    steps: int = STEPS,
    seed: int = 0,
    max_tiles: int = MAX_TILES,
) -> Faithfulness:
    """Deletion and insertion curves of a map, and those of random orders of the same tiles.

    The curves run over bags of the same sizes whatever the order, from all tiles down to one. An area is the
    curve's mean height over the tiles removed (trapezoids), so it is in units of the score.

    Args:
        score: What is explained; high is what the map's high tiles are claimed to bring about.
        bag: One bag of N tiles.
        tile_map: (N,) any real numbers. Only their order counts; equal ones are put in a random order.
        random_orders: R.
        steps: Sizes of the remaining bag, evenly spread; fewer where there are fewer tiles.
        seed: Of the random orders.
        max_tiles: Rows that are predicted at once.

    Raises:
        ConfigError: Not one finite number for each tile, or no random order.

    Reference:
        Petsiuk, Das, Saenko 2018, RISE, arXiv:1806.07421, section 4.2 (deletion and insertion). There pixels are
        greyed or blurred; a bag without a tile is a bag, so nothing has to be put in its place.
    """
    n = len(bag.x)
    if tile_map.shape != (n,) or not np.isfinite(tile_map).all():
        raise ConfigError(f"a map of shape {tile_map.shape} for {n} tiles; expected a finite number for each tile")
    if random_orders < 1:
        raise ConfigError(f"random_orders={random_orders}; expected at least 1 to compare with")
    rng = np.random.default_rng(seed)
    removed = np.unique(np.rint(np.linspace(0, n - 1, min(steps, n))).astype(np.int64))
    order = highest_first(tile_map, rng)
    orders = [order, order[::-1], *(rng.permutation(n) for _ in range(random_orders))]
    parts = [np.sort(one[gone:]) for one in orders for gone in removed]
    curves = subset_scores(score, bag, parts, max_tiles=max_tiles).reshape(len(orders), len(removed))
    return Faithfulness(n, removed, curves[0], curves[1], curves[2:])


def highest_first(tile_map: Map, rng: np.random.Generator) -> Rows:
    """Rows of a map from its highest to its lowest, equal ones in a random order: no credit for where they stand."""
    return np.asarray(np.lexsort((rng.random(len(tile_map)), -tile_map)), np.int64)


@dataclass(frozen=True)
class Removal:
    """A prediction without some tiles, and with these alone.

    Attributes:
        tiles: How many.
        without: Score of the bag without the highest tiles: near ``whole`` where they are not necessary.
        only: Score of the highest tiles alone: near ``whole`` where they are sufficient.
        random_without: (R,) without equally many random tiles.
        random_only: (R,) with equally many random tiles alone.
        whole: Score of the whole bag.
    """

    tiles: int
    without: float
    only: float
    random_without: Numbers
    random_only: Numbers
    whole: float


def removals(
    score: Score,
    bag: BagBatch,
    tile_map: Map,
    *,
    tiles: Sequence[int],
    random_orders: int = RANDOM_ORDERS,
    seed: int = 0,
    max_tiles: int = MAX_TILES,
) -> tuple[Removal, ...]:
    """Drop the k highest tiles of a bag, or keep only them: are they necessary, are they sufficient?

    Args:
        score: What is asked.
        bag: One bag of N tiles.
        tile_map: (N,), as of :func:`faithfulness`; or 1 for the tiles of an annotated region and 0 for the rest.
        tiles: Every k, from 1 to N - 1.
        random_orders: R draws of equally many tiles to compare with.
        seed: Of these.
        max_tiles: Rows that are predicted at once.

    Raises:
        ConfigError: A k out of range, or not one finite number for each tile.

    Reference:
        Kaczmarzyk et al. 2024, HIPPO, arXiv:2409.03080 (necessity and sufficiency by taking tiles from a bag;
        its search over single tiles is left out: it takes N predictions for each tile). Code compared with: none.
    """
    n = len(bag.x)
    if tile_map.shape != (n,) or not np.isfinite(tile_map).all():
        raise ConfigError(f"a map of shape {tile_map.shape} for {n} tiles; expected a finite number for each tile")
    bad = [k for k in tiles if not 1 <= k < n]
    if bad:
        raise ConfigError(f"tiles={bad[0]} of {n}; expected 1 to {n - 1}, so that some are dropped and some are left")
    rng = np.random.default_rng(seed)
    orders = [highest_first(tile_map, rng), *(rng.permutation(n) for _ in range(random_orders))]
    parts = [np.arange(n)]
    for k in tiles:
        for order in orders:
            parts += [np.sort(order[k:]), np.sort(order[:k])]
    scores = subset_scores(score, bag, parts, max_tiles=max_tiles)
    whole, found = float(scores[0]), scores[1:].reshape(len(tiles), len(orders), 2)
    return tuple(
        Removal(k, float(mine[0, 0]), float(mine[0, 1]), mine[1:, 0], mine[1:, 1], whole)
        for k, mine in zip(tiles, found, strict=True)
    )
