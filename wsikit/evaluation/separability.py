"""How well groups of patients are told apart by their mean features, against the same groups dealt at random."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsikit.errors import ConfigError
from wsikit.evaluation.bootstrap import Interval, bootstrap_interval

Numbers = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]

COMPONENTS = 20
RIDGE = 0.1
"""Added to the within-group covariance of whitened components."""


@dataclass(frozen=True)
class Separability:
    """Balanced accuracy of a linear discriminant, out of fold.

    Attributes:
        value: Mean over groups of the share that is recognised.
        interval: Over patients.
        chance: 1 / number of groups.
        random: (M,) the same for groups dealt at random inside folds.
        p: (1 + random ones as high) / (1 + M).
    """

    value: float
    interval: Interval
    chance: float
    random: Numbers
    p: float


def separability(
    features: npt.NDArray[np.floating],
    group: Codes,
    *,
    folds: int = 5,
    permutations: int = 200,
    draws: int = 500,
    seed: int = 0,
) -> Separability:
    """Cross-validated linear discriminant analysis of groups, on whitened principal components.

    Groups weigh the same whatever their sizes. Components are fitted on the training patients of each fold. Under
    chance the labels are dealt anew inside each fold, so that each keeps its numbers.

    Args:
        features: (P, D) one row for each patient.
        group: (P,) numbers from 0 without gaps, at least 2 patients of each.
        folds: Each group is dealt over them in turn; at most the size of the smallest group.
        permutations: M.
        draws: Resamples for the interval.
        seed: Of the folds and permutations.

    Raises:
        ConfigError: Fewer than two groups, or one with a single patient.

    Reference:
        Howard et al. 2021, Nat Commun 12:4423, doi:10.1038/s41467-021-24698-1 (submitting sites are recognised from
        slides, and carry outcomes with them).
    """
    counts = np.bincount(group)
    if len(counts) < 2 or counts.min() < 2:
        raise ConfigError(f"groups of {counts.tolist()} patients; expected two groups or more, of at least 2 each")
    rng = np.random.default_rng(seed)
    fold = stratified_folds(group, min(folds, int(counts.min())), rng)
    tables = [_components(features[fold != f], features[fold == f]) for f in range(int(fold.max()) + 1)]
    guess = _guesses(tables, group, fold, len(counts))
    hit = guess == group

    def balanced(rows: Codes) -> float:
        return float(np.mean([hit[rows][group[rows] == g].mean() for g in range(len(counts))]))

    interval = bootstrap_interval(balanced, len(group), draws=draws, seed=seed, strata=group)
    random = np.empty(permutations)
    for i in range(permutations):
        dealt = group.copy()
        for f in range(len(tables)):
            dealt[fold == f] = rng.permutation(group[fold == f])
        right = _guesses(tables, dealt, fold, len(counts)) == dealt
        random[i] = np.mean([right[dealt == g].mean() for g in range(len(counts))])
    value = balanced(np.arange(len(group)))
    p = (1 + int((random >= value - 1e-9).sum())) / (1 + permutations)
    return Separability(value, interval, 1 / len(counts), random, p)


def stratified_folds(group: Codes, folds: int, rng: np.random.Generator) -> Codes:
    """A fold for each patient, (P,); each group is dealt over the folds in turn, going on where the last one ended."""
    order = np.lexsort((rng.random(len(group)), group))
    fold = np.empty(len(group), np.int64)
    fold[order] = np.arange(len(group)) % folds
    return fold


def _components(train: npt.NDArray[np.floating], test: npt.NDArray[np.floating]) -> tuple[Numbers, Numbers]:
    """Principal components of standardised columns, each of spread 1 among the training patients."""
    mean, spread = train.mean(0, dtype=np.float64), train.std(0, dtype=np.float64)
    real = spread > 1e-6 * max(float(spread.max()), 1e-12)
    if not real.any():
        return np.zeros((len(train), 1)), np.zeros((len(test), 1))
    a, b = (train[:, real] - mean[real]) / spread[real], (test[:, real] - mean[real]) / spread[real]
    _, size, axes = np.linalg.svd(a, full_matrices=False)
    few = int(min(COMPONENTS, max(1, len(a) // 4), (size > 1e-6 * size[0]).sum()))
    turn = axes[:few].T / size[:few] * np.sqrt(len(a))
    return np.asarray(a @ turn, np.float64), np.asarray(b @ turn, np.float64)


def _guesses(tables: list[tuple[Numbers, Numbers]], group: Codes, fold: Codes, groups: int) -> Codes:
    """Each patient's group as the discriminant of the other folds has it, (P,)."""
    guess = np.empty(len(group), np.int64)
    for f, (train, test) in enumerate(tables):
        mine = group[fold != f]
        means = np.stack([train[mine == g].mean(0) for g in range(groups)])  # (G, K)
        rest = train - means[mine]
        within = rest.T @ rest / len(rest) + RIDGE * np.eye(train.shape[1])
        weights = np.linalg.solve(within, means.T)  # (K, G)
        guess[fold == f] = (test @ weights - 0.5 * (means.T * weights).sum(0)).argmax(1)
    return guess
