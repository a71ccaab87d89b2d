"""Bring features to one scale before they are learnt from, fitted on training patients only.

The columns of a hand-made encoder differ in spread by orders of magnitude, and the directions that
tell a lesion from its surroundings may be those that vary least: gradient descent finds them last.
Whitening turns the columns until they are uncorrelated and gives every direction the same spread.
What tells one patient from another is the spread of the patients' means, not that of the tiles;
columns on that scale learn fastest with few patients. And what differs most between patients is not
their disease but stain and scanner: where the patients' means are whitened, a direction in which they
scatter for whatever reason has to show the more for it.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from wsikit.cohort.bags import Bags

Scaling: TypeAlias = Literal["patients", "whiten-patients", "standardise", "whiten", "none"]
BETWEEN = 0.4
"""Spread of the patients' means after scaling by them: single tiles then vary by about 1."""
FLOOR = 0.1
"""Least spread of the patients' means that is believed, in spreads of the tiles: a few patients may agree by chance."""
SHRINKAGE = {"whiten": 0.01, "whiten-patients": 0.1}
"""Added to every variance of the tiles (mean 1) before it is divided by: directions with less than this hold noise."""
PATIENTS_SHRINKAGE = 1.0
"""The same for the variances of patients' means, in units of their mean: 80 patients tell little of 350 directions."""
TILES = 512
"""Tiles of a patient that are looked at, evenly spaced: enough for a covariance, and quick for large slides."""


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
            the tiles a spread of 1 (a diagonal matrix, returned as (D,)).
            ``whiten`` also takes away the tiles' correlations: with S the diagonal matrix of standard
            deviations and R = V diag(w) V' the correlations, the matrix is S^-1 V diag(w + SHRINKAGE)^-1/2 V'
            (ZCA, which stays closest to the columns as they were). ``whiten-patients`` goes on with the
            patients' means in that space: with B = U diag(b) U' their covariance, U diag(b + s)^-1/2 U' follows,
            s being PATIENTS_SHRINKAGE mean(b), and one factor for all that gives the tiles a mean variance of 1.
            ``none``: zeros and ones.

    Reference:
        Kessy, Lewin and Strimmer, 2018, Am Stat 72(4), doi:10.1080/00031305.2016.1277159 (ZCA-cor). Whitening the
        scatter of what should not matter: Hatch and Stolcke 2006, Interspeech (within-class covariance normalisation).
    """
    dim = bags.dim
    if how == "none":
        return np.zeros(dim, np.float32), np.ones(dim, np.float32)
    means, second = np.zeros((len(rows), dim)), np.zeros((dim, dim))
    for mine, row in zip(means, rows, strict=True):
        n = bags.count(int(row))
        x = bags.take(int(row), np.linspace(0, n - 1, min(n, TILES)).astype(np.int64)).x.astype(np.float64)
        mine[:] = x.mean(0)
        second += x.T @ x / len(x)
    mean = means.mean(0)
    covariance = second / len(rows) - np.outer(mean, mean)
    variance = np.diag(covariance)
    still = variance < 1e-10
    inverse = np.where(still, 0, 1 / np.sqrt(np.where(still, 1, variance)))
    if how == "patients":
        spread = np.maximum(means.std(0), FLOOR * np.sqrt(np.maximum(variance, 0)))
        return mean.astype(np.float32), np.where(still, 0, BETWEEN / np.where(still, 1, spread)).astype(np.float32)
    if how == "standardise":
        return mean.astype(np.float32), inverse.astype(np.float32)
    matrix = inverse[:, None] * _whitening(covariance * np.outer(inverse, inverse), SHRINKAGE[how])
    if how == "whiten-patients":
        scatter = np.cov((means - mean) @ matrix, rowvar=False, bias=True).reshape(dim, dim)
        matrix = matrix @ _whitening(scatter, PATIENTS_SHRINKAGE * np.trace(scatter) / dim)
        power = float(np.sum(matrix * (covariance @ matrix))) / max(1, int((~still).sum()))
        matrix /= np.sqrt(power) if power > 0 else 1.0
    return mean.astype(np.float32), matrix.astype(np.float32)


def _whitening(covariance: npt.NDArray[np.float64], shrinkage: float) -> npt.NDArray[np.float64]:
    """The symmetric inverse square root of ``covariance + shrinkage``; zeros where there is nothing at all."""
    w, v = np.linalg.eigh(covariance)
    w = np.maximum(w, 0) + shrinkage
    return np.asarray((v * np.where(w > 0, 1 / np.sqrt(np.where(w > 0, w, 1)), 0)) @ v.T)
