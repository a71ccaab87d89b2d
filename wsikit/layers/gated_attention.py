"""The scores of attention pooling: Ilse et al. 2018, plain (eq. 8) and gated (eq. 9)."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn


class AttentionScores(nn.Module):
    """What is inside the exponent of Ilse et al.'s attention, for H attention heads that share V and U.

    Plain, eq. 8:  ``s = w . tanh(V h)``.
    Gated, eq. 9:  ``s = w . (tanh(V h) * sigmoid(U h))``.

    V and U have a bias, as in the authors' code (the paper's equations have none). w has none: it would
    shift all scores of a bag alike, which the softmax takes back, so its gradient would be 0 for ever.

    Args:
        in_dim: Width of an instance h.
        attention_dim: L, the width of V h; the paper uses 64 to 128, CLAM 256.
        heads: H, the number of w.
        gated: Eq. 9 rather than eq. 8.
        dropout: Probability with which each of the two factors is dropped in training (CLAM; not in the paper).

    Example:
        >>> import torch
        >>> AttentionScores(16)(torch.zeros(5, 16)).shape
        torch.Size([5, 1])

    Reference:
        Ilse, Tomczak, Welling 2018, Attention-based Deep Multiple Instance Learning, arXiv:1802.04712;
        https://github.com/AMLab-Amsterdam/AttentionDeepMIL (MIT).
    """

    def __init__(
        self, in_dim: int, *, attention_dim: int = 128, heads: int = 1, gated: bool = True, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.value = nn.Linear(in_dim, attention_dim)  # V
        self.gate = nn.Linear(in_dim, attention_dim) if gated else None  # U
        self.score = nn.Linear(attention_dim, heads, bias=False)  # w
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor) -> Tensor:
        """Instances (sum N, D) -> scores (sum N, H), before the softmax over each bag."""
        # In place: at whole-slide length a fresh (sum N, L) costs as much as the tanh itself.
        hidden = self.dropout(self.value(h).tanh_())  # (sum N, L)
        if self.gate is not None:
            hidden = hidden * self.dropout(self.gate(h).sigmoid_())
        return cast(Tensor, self.score(hidden))
