"""Vahadane: two non-negative stains, of which each pixel is to have as little as explains it.

Stains W (2, 3) and amounts C (P, 2) minimise ``1/2 |V - C W|^2 + lambda |C|_1`` with C, W >= 0 and rows of W of
length 1, V the densities. With two stains the amounts have a closed form, so that no solver is needed.

Reference:
    Vahadane A, Peng T, Sethi A et al. Structure-preserving color normalization and sparse stain separation for
    histological images. IEEE TMI 2016;35:1962-1971. Checked against SPAMS' ``trainDL`` (tests/golden/stain).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from wsikit.slides.base import Pixels
from wsikit.slides.stain.macenko import TARGET_STAINS, gains, strength
from wsikit.slides.stain_norm import LIGHT, Densities, density, register_stain

if TYPE_CHECKING:
    import torch

SPARSITY = 0.1
"""The paper's lambda, while stains are learnt."""

MOST_ROUNDS, CLOSE = 200, 1e-6
"""Rounds of the alternation, and the change of W at which it ends."""


@register_stain(
    "vahadane", summary="sparse non-negative stain separation", reference="Vahadane 2016, 10.1109/TMI.2016.2529665"
)
class Vahadane:
    """Stains by sparse non-negative factorisation, amounts by non-negative least squares."""

    def fit(self, rgb: Pixels) -> dict[str, Any]:
        """Stain vectors (2, 3), haematoxylin first, and the strength (2,) of each; {} where there is one stain only."""
        dyes = np.maximum(density(rgb), 0)
        stains = learn_stains(dyes)
        if np.linalg.norm(np.cross(*stains)) < 0.05:
            return {}
        return {"stains": stains, "strength": strength(amounts_of(dyes, stains))}

    def map(self, rgb: torch.Tensor, parameters: Mapping[str, Any]) -> torch.Tensor:
        """Amounts of both stains, none below 0, scaled and shown with the target's vectors."""
        import torch

        stains = np.array(parameters["stains"])
        red, green, blue = (-torch.log((rgb + 1) / LIGHT)).clamp_(min=0).unbind(-1)
        first, second = (red * float(s[0]) + green * float(s[1]) + blue * float(s[2]) for s in stains)  # V W^T
        g = stains @ stains.T
        both = float(g[0, 0] * g[1, 1] - g[0, 1] ** 2)
        h = (first * float(g[1, 1]) - second * float(g[0, 1])) / both
        e = (second * float(g[0, 0]) - first * float(g[0, 1])) / both
        alone_h, alone_e = (first / float(g[0, 0])).clamp_(min=0), (second / float(g[1, 1])).clamp_(min=0)
        h, e = torch.where(e < 0, alone_h, h.clamp(min=0)), torch.where(h < 0, alone_e, e.clamp(min=0))
        gain = gains(parameters["strength"])
        target = np.array(TARGET_STAINS) * gain[:, None]  # (2, 3)
        return LIGHT * torch.exp(-torch.stack([h * float(a) + e * float(b) for a, b in target.T], -1))


def learn_stains(dyes: Densities) -> npt.NDArray[np.float64]:
    """W (2, 3) of densities (P, 3), from the target's stains on; haematoxylin, which takes more of the red, first."""
    stains = np.array(TARGET_STAINS) / np.linalg.norm(TARGET_STAINS, axis=1, keepdims=True)
    for _ in range(MOST_ROUNDS):
        amounts = amounts_of(dyes, stains, SPARSITY)
        gram, cross = np.einsum("ps,pt->st", amounts, amounts), np.einsum("ps,pi->si", amounts, dyes)
        before = stains.copy()
        for s in range(2):
            if gram[s, s] > 0:
                row = np.maximum(stains[s] + (cross[s] - gram[s] @ stains) / gram[s, s], 0)
                stains[s] = row / max(float(np.linalg.norm(row)), 1e-12)
        if np.abs(stains - before).max() < CLOSE:
            break
    return np.asarray(stains[np.argsort(-stains[:, 0])])


def amounts_of(dyes: Densities, stains: npt.NDArray[np.float64], sparsity: float = 0.0) -> Densities:
    """C (P, 2) >= 0 that minimises ``1/2 |V - C W|^2 + sparsity |C|_1``: both stains, one of them, or none."""
    gram = stains @ stains.T
    reached = np.einsum("pi,si->ps", dyes, stains) - sparsity  # (P, 2)
    both = np.einsum("ps,st->pt", reached, np.linalg.inv(gram))
    alone = np.maximum(reached / np.diag(gram), 0)
    zero = np.zeros(len(dyes))
    h = np.where(both[:, 1] < 0, alone[:, 0], np.where(both[:, 0] < 0, zero, both[:, 0]))
    e = np.where(both[:, 0] < 0, alone[:, 1], np.where(both[:, 1] < 0, zero, both[:, 1]))
    return np.stack([h, e], axis=1)
