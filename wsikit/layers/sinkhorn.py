"""Entropic optimal transport between the instances of a bag and a few references."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def log_transport(similarity: Tensor, *, epsilon: float, iterations: int) -> Tensor:
    """Logarithm of the plan P that maximises ``<P, similarity> + epsilon entropy(P)``, by Sinkhorn's iterations.

    Rows of P sum to 1 / N and columns to 1 / p. The columns are scaled last, so theirs hold exactly; those of the
    rows as far as it has converged. In the logarithmic domain, so that a small epsilon does not underflow.

    Args:
        similarity: (N, p), finite; computed in float32 at least.
        epsilon: Above 0; smaller is sharper, and needs more iterations.
        iterations: At least 1.

    Returns:
        (N, p).

    Example:
        >>> log_transport(torch.eye(2), epsilon=0.05, iterations=10).exp().round(decimals=3)
        tensor([[0.5000, 0.0000],
                [0.0000, 0.5000]])

    Reference:
        Cuturi 2013, Sinkhorn Distances: Lightspeed Computation of Optimal Transport, arXiv:1306.0895.
    """
    rows, columns = similarity.shape
    scores = similarity.to(torch.promote_types(similarity.dtype, torch.float32)) / epsilon
    v = scores.new_zeros(columns)
    for _ in range(iterations):
        u = -math.log(rows) - (scores + v).logsumexp(dim=1)  # (N,)
        v = -math.log(columns) - (scores + u[:, None]).logsumexp(dim=0)  # (p,)
    return scores + u[:, None] + v
