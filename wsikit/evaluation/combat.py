"""ComBat: mean and spread of every site brought to those of all, fitted on some patients, applied to others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsikit.errors import ConfigError

Numbers = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]

LEAST_PATIENTS = 2
TOLERANCE, MOST_ROUNDS = 1e-6, 200
"""The posterior means are a fixed point; it is reached when no number moves by more than this share."""


@dataclass(frozen=True)
class Combat:
    """A fitted correction.

    Attributes:
        mean: (D,) of all sites, each patient counting once.
        spread: (D,) within sites; 0 for a feature that never changes.
        shift: (S, D) of each site, in units of the spread.
        scale: (S, D) variance of each site, in units of the spread's square.
    """

    mean: Numbers
    spread: Numbers
    shift: Numbers
    scale: Numbers

    def apply(self, features: npt.NDArray[np.floating], site: Codes) -> Numbers:
        """Features of patients of the fitted sites, corrected, (P, D).

        Args:
            features: (P, D).
            site: (P,) number of each patient's site, as when it was fitted.

        Raises:
            ConfigError: A site that it was not fitted on: its shift is not known.
        """
        if len(site) and not 0 <= site.min() <= site.max() < len(self.shift):
            raise ConfigError(f"site number {int(site.max())}; the correction was fitted on {len(self.shift)} sites")
        inverse = np.where(self.spread > 0, 1 / np.where(self.spread > 0, self.spread, 1), 0)
        z = (np.asarray(features, np.float64) - self.mean) * inverse
        return np.asarray((z - self.shift[site]) / np.sqrt(self.scale[site]) * self.spread + self.mean)


def fit_combat(features: npt.NDArray[np.floating], site: Codes, *, shrink: bool = True) -> Combat:
    """Fit the location and scale of every site.

    Standardised features of site i and feature g are taken to be ``z ~ N(gamma_ig, delta_ig^2)``. With ``shrink``
    the estimates are pulled together over features by empirical Bayes: ``gamma_ig ~ N(m_i, t_i^2)`` and
    ``delta_ig^2 ~ inverse gamma(lambda_i, theta_i)``, whose parameters are matched to the moments of the estimates,
    and the posterior means are iterated. No outcome goes in: those of new patients are not known. What sites differ in
    because their patients do is therefore taken away too.

    Args:
        features: (P, D) of training patients.
        site: (P,) numbers from 0 without gaps.
        shrink: False: each site's own mean and variance.

    Raises:
        ConfigError: A site with fewer than 2 patients, or numbers with gaps.

    Reference:
        Johnson, Li, Rabinovic 2007, Biostatistics 8(1):118-127, doi:10.1093/biostatistics/kxj037, sections 3.1 and 3.2.
    """
    x = np.asarray(features, np.float64)
    counts = np.bincount(site)
    if counts.min() < LEAST_PATIENTS:
        raise ConfigError(
            f"site number {int(counts.argmin())} has {int(counts.min())} patients; at least {LEAST_PATIENTS} are "
            "needed for a spread"
        )
    mean = x.mean(0)
    own = np.stack([x[site == i].mean(0) for i in range(len(counts))])  # (S, D)
    spread = np.sqrt(np.mean((x - own[site]) ** 2, axis=0))
    real = spread > 1e-9 * max(float(spread.max()), 1e-30)
    spread = np.where(real, spread, 0.0)
    z = np.where(real, (x - mean) / np.where(real, spread, 1), 0)
    gamma = np.stack([z[site == i].mean(0) for i in range(len(counts))])
    delta = np.stack([z[site == i].var(0, ddof=1) for i in range(len(counts))])
    if shrink and real.sum() > 1:
        for i, n in enumerate(counts.tolist()):
            gamma[i, real], delta[i, real] = _posterior(z[site == i][:, real], gamma[i, real], delta[i, real], n)
    positive = delta > 1e-12  # patients of a site that all agree in a feature cannot be rescaled in it
    return Combat(mean, spread, gamma, np.where(positive, delta, 1.0))


def _posterior(z: Numbers, gamma: Numbers, delta: Numbers, n: int) -> tuple[Numbers, Numbers]:
    """Posterior means of shifts and variances of one site, (D,) each; z (n, D)."""
    middle, width = gamma.mean(), gamma.var(ddof=1)
    v, s2 = delta.mean(), delta.var(ddof=1)
    if s2 <= 0 or v <= 0 or width <= 0:
        return gamma, delta
    # an inverse gamma of mean theta / (lambda - 1) and variance theta^2 / ((lambda - 1)^2 (lambda - 2))
    rate, size = v * (v**2 + s2) / s2, 2 + v**2 / s2
    found, variance = gamma.copy(), delta.copy()
    for _ in range(MOST_ROUNDS):
        moved = (n * width * gamma + variance * middle) / (n * width + variance)
        again = (rate + 0.5 * ((z - moved) ** 2).sum(0)) / (n / 2 + size - 1)
        change = max(float(np.abs(moved - found).max()), float(np.abs(1 - variance / again).max()))  # again > 0
        found, variance = moved, again
        if change < TOLERANCE:
            break
    return found, variance
