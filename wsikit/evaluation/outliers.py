"""How unlike the training patients a patient is: a distance, and how many of them were as far.

A model answers any slide. This says whether the slide lies where the model has seen patients; it
says nothing of whether the answer is right there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.errors import ConfigError

Numbers = npt.NDArray[np.float64]

COMPONENTS = 256
"""Directions whose own spread is kept; those with less share their mean. All of them up to 256 features or patients."""
FLAGGED = 0.01
"""Share of like patients that is flagged."""
_EQUAL = 1e-9  # one patient's distance, computed among others
_LEAST_SHRINKAGE = 1e-3  # with fewer patients than features nothing else keeps the covariance regular
_STILL = 1e-3  # least spread that is believed, in means: features are kept in 16 bits


@dataclass(frozen=True)
class Reference:
    """Where the mean features of patients lie, and how they scatter.

    Attributes:
        mean: (D,).
        scale: (D,) spread of each feature, by which it is divided.
        directions: (K, D) of largest spread, of unit length.
        variances: (K,) along them, after shrinkage.
        rest: Variance in every other direction.
    """

    mean: Numbers
    scale: Numbers
    directions: Numbers
    variances: Numbers
    rest: float

    def distances(self, means: npt.ArrayLike) -> Numbers:
        """Mahalanobis distances (P,) of mean features (P, D), 1 being that of an average patient."""
        x = (np.asarray(means, np.float64) - self.mean) / self.scale
        along = x @ self.directions.T  # (P, K)
        across = np.maximum((x**2).sum(1) - (along**2).sum(1), 0)
        square = (along**2 / self.variances).sum(1) + across / self.rest
        return np.asarray(np.sqrt(square / len(self.mean)), np.float64)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """What :func:`reference_from` takes, for a file; directions in 32 bits."""
        return {
            "mean": self.mean,
            "scale": self.scale,
            "directions": self.directions.astype(np.float32),
            "variances": self.variances,
            "rest": np.array([self.rest]),
        }


def reference_from(arrays: Mapping[str, npt.NDArray[Any]]) -> Reference:
    """A reference from its arrays."""
    mean, scale, directions, variances, rest = (
        np.asarray(arrays[name], np.float64) for name in ("mean", "scale", "directions", "variances", "rest")
    )
    return Reference(mean, scale, directions, variances, float(rest[0]))


def fit_reference(means: npt.ArrayLike) -> Reference:
    """Fit the reference to training patients.

    Each feature is brought to a spread of 1. The covariance of what results is shrunk towards a multiple of the
    identity by the Ledoit-Wolf estimate: with more features than patients it would otherwise be singular.

    Args:
        means: (n, D) mean feature of each patient's tiles.

    Raises:
        ConfigError: Fewer than three patients, or numbers that are not finite.

    Example:
        >>> known = np.random.default_rng(0).normal(size=(50, 3))
        >>> fit_reference(known).distances([[0, 0, 0], [9, 0, 0]]).round().tolist()
        [0.0, 5.0]

    Reference:
        Ledoit and Wolf, 2004, J Multivar Anal 88(2):365-411, doi:10.1016/S0047-259X(03)00096-4; Mahalanobis
        distances to find unlike inputs: Lee et al., 2018, NeurIPS, arXiv:1807.03888.
    """
    from sklearn.covariance import ledoit_wolf_shrinkage

    x = np.asarray(means, np.float64)
    if x.ndim != 2 or len(x) < 3 or not np.isfinite(x).all():
        raise ConfigError(f"mean features of shape {x.shape}, expected (n, D) finite numbers of three patients or more")
    mean = x.mean(0)
    scale = np.maximum(x.std(0), _STILL * np.maximum(np.abs(mean), _STILL))
    x = (x - mean) / scale
    shrinkage = max(float(ledoit_wolf_shrinkage(x, assume_centered=True)), _LEAST_SHRINKAGE)
    _, singular, directions = np.linalg.svd(x / np.sqrt(len(x)), full_matrices=False)
    spherical = max(float((singular**2).sum()) / x.shape[1], _STILL**2)
    variances = (1 - shrinkage) * singular**2 + shrinkage * spherical  # falling
    kept, others = variances[:COMPONENTS], variances[COMPONENTS:]
    beyond = x.shape[1] - len(kept)
    rest = shrinkage * spherical
    if beyond:
        rest += float((others - rest).sum()) / beyond
    return Reference(mean, scale, directions[:COMPONENTS], kept, rest)


def held_out_distances(means: npt.ArrayLike, *, parts: int = 10, seed: int = 0) -> Numbers:
    """Distances (n,) of patients to references fitted on the others, part by part.

    For a single model that has no folds. A new patient is compared with a reference fitted on all, to which it is
    a little nearer: such a patient is flagged rather less often than it should be.
    """
    x = np.asarray(means, np.float64)
    part = np.random.default_rng(seed).permutation(len(x)) % min(parts, len(x))
    found = np.empty(len(x))
    for number in np.unique(part):
        found[part == number] = fit_reference(x[part != number]).distances(x[part == number])
    return found


@dataclass(frozen=True)
class Unlikeness:
    """How unlike the training patients some patients are.

    Attributes:
        score: (P,) distance, in units of the training patients' median.
        share: (P,) of the training patients that are as far or farther.
        flagged: (P,) bool.
        rate: Share of like patients that is flagged.
        known: Training patients that were compared with.
    """

    score: Numbers
    share: Numbers
    flagged: npt.NDArray[np.bool_]
    rate: float
    known: int


def unlikeness(folds: Sequence[tuple[npt.ArrayLike, npt.ArrayLike]], *, rate: float = FLAGGED) -> Unlikeness:
    """Compare distances of new patients with those of training patients, fold by fold.

    Flagged is who has so few training patients farther away that no more than ``rate`` of like patients would. Of
    fewer than 99 training patients one per cent cannot be told: flagged is then who is farther than all
    of them, and ``rate`` of the result says how often that happens to like patients.

    Args:
        folds: Of each fold the distances (n,) of its held-out patients and those (P,) of the new ones, both to a
            reference that was fitted on neither.
        rate: Wanted.

    Raises:
        ConfigError: No fold, or a fold without held-out patients.

    Example:
        >>> unlikeness([([1.0, 2.0, 3.0], [2.5, 9.0])]).share.round(2).tolist()
        [0.33, 0.0]

    Reference:
        Bates, Candes, Lei, Romano and Sesia, 2023, Ann Stat 51(1):149-178, arXiv:2104.08279 (conformal p values).
    """
    pairs = [(np.sort(np.asarray(a, np.float64)), np.asarray(b, np.float64)) for a, b in folds]
    if not pairs or any(not len(held) for held, _ in pairs):
        raise ConfigError("no distances of held-out patients to compare with")
    known = sum(len(held) for held, _ in pairs)
    farther = np.sum(
        [len(held) - np.searchsorted(held, new * (1 - _EQUAL), side="left") for held, new in pairs], axis=0
    )
    scores = [new / max(float(np.median(held)), 1e-12) for held, new in pairs]
    fewest = max(int(np.floor(rate * (known + 1) + 1e-9)), 1)
    return Unlikeness(np.mean(scores, axis=0), farther / known, farther < fewest, fewest / (known + 1), known)
