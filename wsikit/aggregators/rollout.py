"""Attention rollout: which instances the output attends to, through all layers of attention (Abnar, Zuidema 2020)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from wsikit.aggregators.base import Aggregator
from wsikit.aggregators.registry import aggregator_card, list_aggregators
from wsikit.errors import ConfigError
from wsikit.layers.packed import unpack


def rollout_aggregators() -> list[str]:
    """Names of the aggregators that have attention rollout, sorted."""
    return [name for name in list_aggregators() if aggregator_card(name).rollout]


def attention_rollout(
    aggregator: Aggregator,
    x: Tensor,
    *,
    offsets: Tensor | None = None,
    mask: Tensor | None = None,
    grid: Tensor | None = None,
    edges: Tensor | None = None,
) -> Tensor:
    """The row of the output (its class token, or the mean of its tokens) in the product of all layers of attention.

    ``A~_L ... A~_1`` with ``A~ = (A + I) / 2`` of each layer, A being the mean of its heads, and I what passes it by on
    the residual path. The product is never made: numbers, one for each instance, are carried through the layers
    (:meth:`~wsikit.aggregators.base.Aggregator.carry`), and the row is the derivative of what arrives. Memory is that
    of a forward pass.

    It follows attention and nothing else: no MLP, no convolution of tiles, and not what a value means to the head.
    Nor has it a sign, or a class that it speaks for.

    Args:
        aggregator: A model whose card says ``rollout``; evaluated as it is, its dropout left out.
        x: As :meth:`Aggregator.forward <wsikit.aggregators.base.Aggregator.forward>`, and so are the others.
        offsets: As there.
        mask: As there.
        grid: As there.
        edges: As there.

    Returns:
        One number for each instance, in the layout of ``x`` (0 at padding), float32 or float64. What remains to 1 over
        a bag stays with learned rows, such as the class token itself. None is negative, but for
        ``transmil``, whose approximated attention has negative entries.

    Raises:
        ConfigError: A model without it, by name; and as ``forward``.

    Example:
        >>> from wsikit.aggregators.registry import create_aggregator
        >>> model = create_aggregator("set-transformer", in_dim=4, layers=1, seed=0)
        >>> attention_rollout(model, torch.zeros(2, 4))  # a half stays with the seed, an eighth with inducing points
        tensor([0.1875, 0.1875])

    Reference:
        Abnar, Zuidema 2020, Quantifying Attention Flow in Transformers, arXiv:2005.00928, section 3. Code compared
        with: none.
    """
    if not aggregator.card.rollout:
        raise ConfigError(
            f"aggregator {aggregator.card.name!r} has no attention rollout; those that have: "
            f"{', '.join(rollout_aggregators())}; ask for its attention or for gradients"
        )
    with torch.no_grad():
        packed, offsets, grid = aggregator.packed(x.detach(), offsets=offsets, mask=mask, grid=grid, edges=edges)
    marks = packed.new_zeros(len(packed), requires_grad=True)
    with _frozen(aggregator), torch.enable_grad():
        arrived = aggregator.carry(marks, packed, offsets, grid, edges)
        (row,) = torch.autograd.grad(arrived.sum(), marks)
    row = row.to(torch.promote_types(row.dtype, torch.float32))
    return row if mask is None else unpack(row, mask)


@contextmanager
def _frozen(aggregator: Aggregator) -> Iterator[None]:
    """Evaluation mode and no gradients of the weights for the block: else the layers would be kept for them."""
    learned = [weight for weight in aggregator.parameters() if weight.requires_grad]
    training = aggregator.training
    aggregator.eval().requires_grad_(False)
    try:
        yield
    finally:
        aggregator.train(training)
        for weight in learned:
            weight.requires_grad_(True)
