"""PANTHER: Song et al. 2024, a Gaussian mixture fitted to each bag, starting from shared prototypes."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsikit.aggregators.base import Aggregator, AggregatorCard, AggregatorOutput
from wsikit.aggregators.options import above_zero, at_least_one
from wsikit.aggregators.registry import register_aggregator
from wsikit.errors import ConfigError
from wsikit.layers.packed import bag_sizes

CARD = AggregatorCard(
    name="panther",
    summary="Gaussian mixture of each bag around shared prototypes: weights, means, variances",
    paper="Song et al. 2024, Morphological Prototyping for Unsupervised Slide Representation Learning in Computational "
    "Pathology, arXiv:2405.11643",
    repository="https://github.com/mahmoodlab/PANTHER",
    licence="CC-BY-NC-ND-4.0",
)


def log_densities(x: Tensor, pi: Tensor, mu: Tensor, variance: Tensor) -> Tensor:
    """``log pi_k + log N(x_n; mu_k, diag variance_k)``: (N, D), (p,), (p, D), (p, D) -> (N, p)."""
    distance = x.square() @ (1 / variance).t() - 2 * x @ (mu / variance).t() + (mu.square() / variance).sum(1)
    return pi.log() - 0.5 * (x.shape[1] * math.log(2 * math.pi) + variance.log().sum(1) + distance)


@register_aggregator(CARD)
class Panther(Aggregator):
    """Weights, means and variances of a mixture of p Gaussians, after a few steps of EM from the prototypes.

    It begins at ``pi = 1 / p``, ``mu = m``, ``S = V`` (diagonal), the prior, and repeats

    - ``q_nk = pi_k N(x_n; mu_k, S_k)``, scaled to sum to 1 over k;
    - ``w_k = sum_n q_nk + tau``, ``pi_k = w_k / sum of w``, ``mu_k = (sum_n q_nk x_n + tau m_k) / w_k``,
      ``S_k = (sum_n q_nk x_n^2 + tau (V_k + m_k^2)) / w_k - mu_k^2``.

    The embedding is ``[pi; mu_1 .. mu_p; S_1 .. S_p]``, p (1 + 2 width) numbers. Attention is a map for each prototype,
    its share ``q_nk`` of each instance, scaled to sum to 1 over the bag.

    From the paper: the mixture, and what is concatenated (section 3). From the authors' scripts: 16 prototypes, one
    step, tau, V = 1 at the start. There the prototypes are k-means centres of the training patches, and fixed; here
    they are parameters that begin at random and are learned with the task, as that code does without such centres;
    :meth:`set_prototypes` puts centres in.

    Args:
        in_dim: D.
        embed_dim: Width of a linear projection before all this; None: none, as in the paper.
        prototypes: p.
        steps: Of EM.
        tau: Weight of the prior, in instances.
        variance: V at the start.

    Example:
        >>> Panther(16, prototypes=3)(torch.zeros(5, 16)).embedding.shape
        torch.Size([1, 99])
    """

    card = CARD

    def __init__(
        self,
        in_dim: int,
        *,
        embed_dim: int | None = None,
        prototypes: int = 16,
        steps: int = 1,
        tau: float = 1.0,
        variance: float = 1.0,
    ) -> None:
        width = in_dim if embed_dim is None else embed_dim
        at_least_one("panther", embed_dim=width, prototypes=prototypes, steps=steps)
        above_zero("panther", tau=tau, variance=variance)
        super().__init__(in_dim, prototypes * (1 + 2 * width))
        self.steps, self.tau, self.start_variance = steps, tau, variance
        self.project = None if embed_dim is None else nn.Linear(in_dim, embed_dim)
        self.means = nn.Parameter(0.1 * torch.randn(prototypes, width))  # m
        self.raw_variances = nn.Parameter(torch.full((prototypes, width), math.log(math.e - 1)))  # softplus of it is 1

    def set_prototypes(self, means: Tensor, *, learn: bool = False) -> None:
        """Use these prototypes, such as k-means centres of (projected, standardised) training instances.

        Args:
            means: (p, width).
            learn: Whether training may move them, and V.

        Raises:
            ConfigError: Another shape.
        """
        if means.shape != self.means.shape:
            raise ConfigError(
                f"aggregator 'panther': prototypes of shape {tuple(means.shape)}; expected {tuple(self.means.shape)}"
            )
        with torch.no_grad():
            self.means.copy_(means)
        self.means.requires_grad_(learn)
        self.raw_variances.requires_grad_(learn)

    def pool(self, x: Tensor, offsets: Tensor, grid: Tensor | None, edges: Tensor | None) -> AggregatorOutput:
        """Bag by bag; see :class:`Aggregator`. Attention is (sum N, p)."""
        if self.project is not None:
            x = self.project(x)
        x = x.to(torch.promote_types(x.dtype, torch.float32))  # (sum N, width)
        with torch.autocast(x.device.type, enabled=False):
            fitted = [self._fit(bag) for bag in torch.split(x, bag_sizes(offsets))]
        embeddings, maps = zip(*fitted, strict=True)
        return AggregatorOutput(torch.stack(embeddings), torch.cat(maps))

    def _fit(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """One bag (N, width) -> its embedding (E,) and maps (N, p)."""
        # Seen from the middle of the bag: variances are differences of squares, and a common shift of the features
        # would eat up their digits.
        centre = x.detach().mean(0)
        x, prior_mean = x - centre, self.means - centre
        prior_variance = self.start_variance * F.softplus(self.raw_variances)
        pi = x.new_full((len(prior_mean),), 1 / len(prior_mean))
        mu, variance = prior_mean, prior_variance
        for _ in range(self.steps):
            log_share = log_densities(x, pi, mu, variance).log_softmax(dim=1)  # (N, p)
            share = log_share.exp()
            weight = share.sum(0) + self.tau  # (p,)
            pi = weight / weight.sum()
            mu = (share.t() @ x + self.tau * prior_mean) / weight[:, None]
            second = (share.t() @ x.square() + self.tau * (prior_variance + prior_mean.square())) / weight[:, None]
            # In exact numbers it is never below the second term; with rounding it could be.
            variance = torch.maximum(second - mu.square(), self.tau * prior_variance / weight[:, None])
        return torch.cat([pi, (mu + centre).flatten(), variance.flatten()]), log_share.softmax(dim=0)
