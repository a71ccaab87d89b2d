"""Bring features to one scale before they are learnt from, fitted on training patients only.

The columns of a hand-made encoder differ in spread by orders of magnitude, and the directions that
tell a lesion from its surroundings may be those that vary least: gradient descent finds them last.
What tells one patient from another is the spread of the patients' means, not that of the tiles;
columns on that scale learn fastest with few patients. Whitening turns the columns until they are
uncorrelated and gives every direction the same spread.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from wsikit.cohort.bags import Bags

Scaling: TypeAlias = Literal["patients", "standardise", "whiten", "none"]
BETWEEN = 0.4
"""Spread of the patients' means after scaling by them: single tiles then vary by about 1."""
FLOOR = 0.1
"""Least spread of the patients' means that is believed, in spreads of the tiles: a few patients may agree by chance."""
SHRINKAGE = 0.01
"""Added to every variance before it is divided by: directions with less than this hold noise."""


def fit_scaling(
    bags: Bags, rows: npt.NDArray[np.int64], how: Scaling
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Mean (D,) and matrix (D, D), float32: scaled features are ``(x - mean) @ matrix``.

    Every patient weighs the same, however many tiles there are. A feature that never changes is left
    at zero.

    Args:
        bags: Of all patients.
        rows: Positions of the training patients.
        how: ``patients`` gives the patients' means a spread of ``BETWEEN`` in each column, and ``standardise``
            the tiles a spread of 1 (a diagonal matrix, returned as (D,)); ``whiten`` also
            takes away the tiles' correlations: with S the diagonal matrix of standard deviations and
            R = V diag(w) V' the correlations, the matrix is S^-1 V diag(w + SHRINKAGE)^-1/2 V' (ZCA,
            which stays closest to the columns as they were). ``none``: zeros and ones.

    Reference:
        Kessy, Lewin and Strimmer, 2018, Am Stat 72(4), doi:10.1080/00031305.2016.1277159 (ZCA-cor).
    """
    dim = bags[int(rows[0])].x.shape[1]
    if how == "none":
        return np.zeros(dim, np.float32), np.ones(dim, np.float32)
    means = np.zeros((len(rows), dim))
    second = np.zeros((dim, dim) if how == "whiten" else dim)
    for mine, row in zip(means, rows, strict=True):
        x = bags[int(row)].x.astype(np.float64)
        mine[:] = x.mean(0)
        second += x.T @ x / len(x) if how == "whiten" else np.square(x).mean(0)
    mean = means.mean(0)
    second = second / len(rows)
    variance = (np.diag(second) if how == "whiten" else second) - mean**2
    still = variance < 1e-10
    inverse = np.where(still, 0, 1 / np.sqrt(np.where(still, 1, variance)))
    if how == "patients":
        spread = np.maximum(means.std(0), FLOOR * np.sqrt(np.maximum(variance, 0)))
        return mean.astype(np.float32), np.where(still, 0, BETWEEN / np.where(still, 1, spread)).astype(np.float32)
    if how == "standardise":
        return mean.astype(np.float32), inverse.astype(np.float32)
    correlation = (second - np.outer(mean, mean)) * np.outer(inverse, inverse)
    w, v = np.linalg.eigh(correlation)
    matrix = inverse[:, None] * (v / np.sqrt(np.maximum(w, 0) + SHRINKAGE)) @ v.T
    return mean.astype(np.float32), matrix.astype(np.float32)
