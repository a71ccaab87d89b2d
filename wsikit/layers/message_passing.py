"""Sums over the neighbours of each tile, for graphs of any size: memory of the tiles, not of the edges.

An edge goes from ``edges[0]`` to ``edges[1]``, and tile ``edges[1]`` hears its neighbour ``edges[0]``. The
edges are sorted once for all layers; a sum over neighbours is then a product with a sparse matrix of fixed
order, forward and backward, and no message is ever stored for each edge. Sums are in float32 (float64 where
the values are), under autocast too. A tile without neighbours has the sum 0.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

BLOCK_VALUES = 1 << 24
"""Values held at once where something has to be worked out edge by edge: 64 MiB of float32."""


@dataclass(frozen=True)
class Neighbours:
    """Edges sorted both ways; made by :func:`neighbours`.

    Attributes:
        source: (M,) int64, where each edge comes from; edges are sorted by target, then by source.
        target: (M,) int64, where it goes to.
        starts: (N + 1,) int64: tile i hears the edges ``starts[i]:starts[i + 1]``.
        back_order: (M,) int64, the same edges in order of their source, then of their target.
        back_starts: (N + 1,) int64: tile j is heard through ``back_order[back_starts[j]:back_starts[j + 1]]``.
    """

    source: Tensor
    target: Tensor
    starts: Tensor
    back_order: Tensor
    back_starts: Tensor

    @property
    def nodes(self) -> int:
        """N, the number of tiles."""
        return len(self.starts) - 1

    @property
    def degree(self) -> Tensor:
        """(N,) int64, how many neighbours each tile hears."""
        return self.starts.diff()


def neighbours(edges: Tensor, nodes: int) -> Neighbours:
    """Sort edges (2, M) int64 between ``nodes`` tiles, in any order.

    Example:
        >>> neighbours(torch.tensor([[2, 0, 1], [1, 1, 2]]), 3).degree
        tensor([0, 2, 1])
    """
    code = edges[1] * nodes + edges[0]
    if not bool((code[1:] >= code[:-1]).all()):  # builders hand them out sorted
        code = code.sort().values
    target, source = code // nodes, code % nodes
    back_order = (source * nodes + target).argsort()
    return Neighbours(source, target, _starts(target, nodes), back_order, _starts(source, nodes))


def neighbour_sum(x: Tensor, graph: Neighbours) -> Tensor:
    """Sum of x over the neighbours of each tile: (N, ...) -> (N, ...), float32 or float64.

    Example:
        >>> graph = neighbours(torch.tensor([[1, 0, 2], [0, 1, 1]]), 3)
        >>> neighbour_sum(torch.tensor([[1.0], [2.0], [4.0]]), graph)[:, 0]
        tensor([2., 5., 0.])
    """
    return cast(Tensor, _Sum.apply(_widened(x), graph))  # type: ignore[no-untyped-call]


def neighbour_mean(x: Tensor, graph: Neighbours) -> Tensor:
    """Mean of x over the neighbours of each tile, 0 where there are none: (N, E) -> (N, E), float32 or float64."""
    return neighbour_sum(x, graph) / graph.degree.clamp(min=1)[:, None]


def edge_softmax(scores: Tensor, graph: Neighbours) -> Tensor:
    """Softmax of the scores of edges over those that go to one tile.

    Args:
        scores: (M, H), finite, in the order of ``graph.source``.
        graph: Of these edges.

    Returns:
        (M, H), float32 or float64; sums to 1 over the edges to each tile that has some.

    Example:
        >>> graph = neighbours(torch.tensor([[1, 0, 2], [0, 1, 1]]), 3)
        >>> edge_softmax(torch.zeros(3, 1), graph)[:, 0]
        tensor([1.0000, 0.5000, 0.5000])
    """
    scores = _widened(scores)
    at = graph.target[:, None].expand_as(scores)
    top = scores.new_full((graph.nodes, scores.shape[1]), -torch.inf).scatter_reduce(0, at, scores.detach(), "amax")
    weights = (scores - top[graph.target]).exp()
    total = cast(Tensor, _SumAtTargets.apply(weights, graph))  # type: ignore[no-untyped-call]
    return weights / total[graph.target]


def neighbour_weighted_sum(x: Tensor, weights: Tensor, graph: Neighbours) -> Tensor:
    """Sum of x over the neighbours of each tile, a weight for each edge and head.

    Args:
        x: (N, H, E).
        weights: (M, H), in the order of ``graph.source``.
        graph: The edges.

    Returns:
        (N, H, E), float32 or float64.
    """
    x = _widened(x)
    return cast(Tensor, _WeightedSum.apply(x, weights.to(x.dtype), graph))  # type: ignore[no-untyped-call]


def neighbour_softmax_sum(x: Tensor, temperature: Tensor, graph: Neighbours) -> Tensor:
    """Sum of x over the neighbours, each channel weighted by the softmax of itself: a learnt step from mean to max.

    ``y_ic = sum over j of a_ijc x_jc``, ``a_ijc = exp(t x_jc) / sum over j of exp(t x_jc)``. The weight of j
    is the same number for all that hear it, up to the sum: so both sums are sums over neighbours of values
    of tiles, and no weight is stored for each edge. Values spread over hundreds would overflow even float64,
    in which this is done; the weights are then worked out edge by edge.

    Args:
        x: (N, E).
        temperature: t, a scalar tensor; its sign is free.
        graph: The edges.

    Returns:
        (N, E), float32 or float64.

    Reference:
        Li, Xiong, Thabet, Ghanem 2020, DeeperGCN: All You Need to Train Deeper GCNs, arXiv:2006.07739, eq. 4.
    """
    x = _widened(x)
    with torch.autocast(x.device.type, enabled=False):
        scaled = x.double() * temperature.double()
        top = scaled.detach().amax(0)
        if bool((top - scaled.detach().amin(0)).max() > 600):
            weights = edge_softmax((x * temperature)[graph.source], graph)
            heard = _SumAtTargets.apply(weights * x[graph.source], graph)  # type: ignore[no-untyped-call]
            return cast(Tensor, heard)
        weight = (scaled - top).exp()
        total, heard = neighbour_sum(torch.cat([weight, weight * x], dim=1), graph).chunk(2, dim=1)
        return (heard / total.masked_fill(graph.degree[:, None] == 0, 1)).to(x.dtype)


class _Sum(torch.autograd.Function):
    """Neighbours' values, summed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, graph: Neighbours) -> Tensor:
        ctx.graph = graph
        return _product(graph.starts, graph.source, None, x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        graph = ctx.graph
        return _product(graph.back_starts, graph.target[graph.back_order], None, grad), None


class _SumAtTargets(torch.autograd.Function):
    """Values of edges (M, H), summed over those that go to one tile: (N, H)."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, graph: Neighbours) -> Tensor:
        ctx.graph = graph
        return _product(graph.starts, torch.arange(len(values), device=values.device), None, values)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad[ctx.graph.target], None


class _WeightedSum(torch.autograd.Function):
    """Neighbours' values (N, H, E), weighted by edge and head."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor, graph: Neighbours) -> Tensor:
        ctx.save_for_backward(x, weights)
        ctx.graph = graph
        heads = range(weights.shape[1])
        return torch.stack([_product(graph.starts, graph.source, weights[:, h], x[:, h]) for h in heads], dim=1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weights = ctx.saved_tensors
        graph, heads = ctx.graph, range(weights.shape[1])
        back, hearers = weights[graph.back_order], graph.target[graph.back_order]
        grad_x = torch.stack([_product(graph.back_starts, hearers, back[:, h], grad[:, h]) for h in heads], dim=1)
        step = max(1, BLOCK_VALUES // (x.shape[1] * x.shape[2]))
        pairs = zip(torch.split(graph.source, step), torch.split(graph.target, step), strict=True)
        grad_weights = [(x[source] * grad[target]).sum(-1) for source, target in pairs]
        return grad_x, torch.cat(grad_weights) if grad_weights else torch.zeros_like(weights), None


def _product(starts: Tensor, columns: Tensor, values: Tensor | None, x: Tensor) -> Tensor:
    """The sparse matrix with these rows (all ones, or ``values``) times x (columns, ...)."""
    rows = len(starts) - 1
    if len(columns) == 0:
        return x.new_zeros(rows, *x.shape[1:])
    values = x.new_ones(len(columns)) if values is None else values.contiguous()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        matrix = torch.sparse_csr_tensor(starts, columns, values, (rows, len(x)), check_invariants=False)
    with torch.autocast(x.device.type, enabled=False):
        return (matrix @ x.flatten(1).contiguous()).reshape(rows, *x.shape[1:])


def _starts(sorted_by: Tensor, nodes: int) -> Tensor:
    counts = torch.bincount(sorted_by, minlength=nodes)
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def _widened(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
