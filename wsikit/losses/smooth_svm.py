"""The multi-class hinge loss with a smooth maximum: Berrada et al. 2018, for k = 1."""

from __future__ import annotations

import torch
from torch import Tensor

from wsikit.errors import ConfigError


def smooth_top1_svm(logits: Tensor, target: Tensor, *, temperature: float = 1.0, margin: float = 1.0) -> Tensor:
    r"""Smooth top-1 SVM loss, the mean over the rows.

    With scores :math:`s`, the right class :math:`y`, the margin :math:`\alpha` and the temperature :math:`\tau`,

    .. math::
        \ell = \tau \log \sum_j \exp \frac{s_j + \alpha [j \ne y] - s_y}{\tau}

    which goes to the hinge loss :math:`\max_j (s_j + \alpha [j \ne y]) - s_y` as :math:`\tau \to 0`, and is the
    cross-entropy at :math:`\tau = 1, \alpha = 0`. Computed in float32 at least, under autocast too, in logarithms, so
    that no score overflows (the authors' code changes to the hinge loss where scores are large).

    Args:
        logits: (rows, C) scores.
        target: (rows,) int64 class.
        temperature: :math:`\tau > 0`; 1 in the authors' code.
        margin: :math:`\alpha \ge 0`; 1 in the authors' code.

    Returns:
        A scalar.

    Raises:
        ConfigError: A temperature that is not above 0, or a negative margin.

    Example:
        >>> round(smooth_top1_svm(torch.tensor([[2.0, 0.0]]), torch.tensor([0])).item(), 4)  # log(1 + exp(1 - 2))
        0.3133

    Reference:
        Berrada, Zisserman, Kumar 2018, Smooth Loss Functions for Deep Top-k Classification, arXiv:1802.07595, with
        k = 1; https://github.com/oval-group/smooth-topk (MIT).
    """
    if not temperature > 0 or not margin >= 0:
        raise ConfigError(
            f"smooth SVM loss: temperature={temperature}, margin={margin}; expected above 0, and at least 0"
        )
    scores = logits.to(torch.promote_types(logits.dtype, torch.float32))
    right = scores.gather(1, target[:, None])  # (rows, 1)
    others = torch.ones_like(scores).scatter_(1, target[:, None], 0)  # 1 where j is not y
    return temperature * ((scores + margin * others - right) / temperature).logsumexp(dim=1).mean()
