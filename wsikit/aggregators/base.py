"""The contract of an aggregator: a bag of features in, an embedding and its attention out.

A model writes one method, :meth:`Aggregator.pool`, for packed bags; padded batches and single bags are
turned into packed ones here, and every fault of the input is named here, so that ``pool`` may trust it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from wsikit.errors import ConfigError
from wsikit.layers.packed import bag_index, bag_sizes, pack, unpack

Order = Literal["invariant", "sequence"]


@dataclass(frozen=True)
class AggregatorCard:
    """What is true of an aggregator before it is built.

    Attributes:
        name: As ``create_aggregator`` takes it.
        summary: One line for tables.
        paper: Authors, year, title, and arXiv number or DOI.
        repository: The authors' code, or "none".
        licence: Of that repository's code ("none" where there is none): our code is as wsikit.
        order: "invariant": instances in another order (with their places and edges) give the same
            embedding; "sequence": the order of the rows matters.
        uses_grid: Whether ``grid`` must be given.
        uses_edges: Whether ``edges`` must be given.
        attention: Whether the output has attention.
        rollout: Whether the model has :meth:`Aggregator.carry`, and with it attention rollout.
        graph: Of a model that uses edges, the settings of the graph that its paper trains on, as
            ``wsikit.cohort.graphs.GraphSettings`` takes them; None: the neighbours on the grid.
    """

    name: str
    summary: str
    paper: str
    repository: str
    licence: str
    order: Order = "invariant"
    uses_grid: bool = False
    uses_edges: bool = False
    attention: bool = True
    rollout: bool = False
    graph: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class AggregatorOutput:
    """What an aggregator says of B bags.

    ``pool`` returns attention and instance logits packed; ``forward`` hands them out in the layout
    in which the bags came: (sum N, ...) for packed bags, (N, ...) for a single one, (B, Nmax, ...)
    with 0 at padding for padded ones.

    Attributes:
        embedding: (B, E), or (B, C, E) with one embedding per class.
        attention: (sum N,), or (sum N, K) with K maps; non-negative, each map sums to 1 over each bag.
        bag_logits: (B, C), where the model has a classifier of its own.
        instance_logits: (sum N, C), where it has one for instances.
        extras: Whatever else the model's own ``training_loss`` needs; packed.
        penalty: (B,), the model's own loss of each bag that needs no label; training adds the mean over bags.
    """

    embedding: Tensor
    attention: Tensor | None = None
    bag_logits: Tensor | None = None
    instance_logits: Tensor | None = None
    extras: Mapping[str, Any] = field(default_factory=dict)
    penalty: Tensor | None = None


class Aggregator(nn.Module):
    """Base of all aggregators: checks the bags, packs them, calls :meth:`pool`.

    A subclass has its card as the class attribute ``card``, calls ``super().__init__(in_dim, out_dim)``
    and writes ``pool``.

    Args:
        in_dim: D, the width of a feature.
        out_dim: E, the width of the embedding.
        classes: C where the embedding is one per class, (B, C, E); None where it is (B, E).

    A subclass whose parts depend on the number of outputs of the task (classes; 1 for a risk or a number) takes
    it as its parameter ``classes``: training fills it in.
    """

    card: ClassVar[AggregatorCard]

    def __init__(self, in_dim: int, out_dim: int, *, classes: int | None = None) -> None:
        super().__init__()
        self.in_dim, self.out_dim, self.classes = in_dim, out_dim, classes

    def pool(self, x: Tensor, offsets: Tensor, grid: Tensor | None, edges: Tensor | None) -> AggregatorOutput:
        """The model itself, on packed bags that have been checked.

        Args:
            x: (sum N, D) finite, in the data type of the model's parameters.
            offsets: (B + 1,) int64; bag b is ``x[offsets[b] : offsets[b + 1]]``, and none is empty.
            grid: (sum N, 2) place of each tile on its slide's grid, x then y, in steps of the grid, so that
                neighbours are 1 apart; slides of one bag lie apart. None where not given.
            edges: (2, number of edges) int64 from and to row of ``x``, within bags; None where not given.
        """
        raise NotImplementedError(f"{type(self).__name__} must define pool(x, offsets, grid, edges)")

    def carry(self, marks: Tensor, x: Tensor, offsets: Tensor, grid: Tensor | None, edges: Tensor | None) -> Tensor:
        """One number per instance, carried to the output by the attention alone; for attention rollout.

        A model with layers of attention may define it, and then says ``rollout=True`` on its card. Numbers go the
        way of :meth:`pool`, with three rules: a layer with a residual path makes ``(marks + A marks) / 2`` of
        them, with A the attention, mean of the heads; whatever treats rows one by one, or is no attention, leaves them
        as they are; a learned row, such as a class token, begins with 0. So it is linear in ``marks``, and its
        derivative is the row of the output in the product of the layers. Nothing is dropped out.

        Args:
            marks: (sum N,) in the type of x.
            x: As :meth:`pool`.
            offsets: As there.
            grid: As there.
            edges: As there.

        Returns:
            (B,), the mean over the output tokens of each bag.

        Reference:
            Abnar, Zuidema 2020, Quantifying Attention Flow in Transformers, arXiv:2005.00928, section 3.
        """
        raise NotImplementedError(f"{type(self).__name__} has no carry: its card must not say rollout=True")

    def training_loss(self, output: AggregatorOutput, target: Tensor) -> Tensor:
        """The model's own loss terms that need the label, a scalar to add to the task's loss; here 0.

        Args:
            output: What ``forward`` returned for these bags.
            target: (B,) int64 class of each bag.
        """
        return output.embedding.new_zeros(())

    def forward(
        self,
        x: Tensor,
        *,
        offsets: Tensor | None = None,
        mask: Tensor | None = None,
        grid: Tensor | None = None,
        edges: Tensor | None = None,
    ) -> AggregatorOutput:
        """Bags in any of three layouts -> their embeddings.

        Args:
            x: Packed (sum N, D) with ``offsets``; padded (B, Nmax, D) with ``mask``; or one bag (N, D) alone.
                Any floating type: the model computes in its parameters' (float32 if it has none and x is shorter).
            offsets: (B + 1,) int64, from 0 to sum N, rising.
            mask: (B, Nmax) bool, True = valid, anywhere in the row. What stands at padding is never read.
            grid: (sum N, 2), (B, Nmax, 2) or (N, 2) whole numbers, as ``x``: places of the tiles, x then y, in steps
                of the grid (neighbours are 1 apart, whatever the magnification), from any origin.
            edges: (2, number of edges) int64. In every layout they number the valid instances of all
                bags one after the other, that is, the rows of the packed layout.

        Returns:
            Embeddings (B, E) or (B, C, E), B = 1 for a single bag; the rest in the layout of ``x``.

        Raises:
            ConfigError: Shapes that do not fit, an empty bag, a value that is not finite, or
                grid or edges missing where the card says that the model uses them.
        """
        x, offsets, grid = self.packed(x, offsets=offsets, mask=mask, grid=grid, edges=edges)
        output = self.pool(x, offsets, grid, edges)
        if mask is None:
            return output
        return replace(
            output,
            attention=None if output.attention is None else unpack(output.attention, mask),
            instance_logits=None if output.instance_logits is None else unpack(output.instance_logits, mask),
        )

    def packed(
        self,
        x: Tensor,
        *,
        offsets: Tensor | None = None,
        mask: Tensor | None = None,
        grid: Tensor | None = None,
        edges: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """What :meth:`forward` takes, checked, as :meth:`pool` wants it: packed x, offsets and grid."""
        name = self.card.name
        if mask is not None:
            _check_padded(name, x, offsets, mask, grid)
            grid = None if grid is None else pack(grid, mask)[0]
            x, offsets = pack(x, mask)
        elif x.ndim != 2:
            raise ConfigError(
                f"aggregator {name!r}: x of shape {tuple(x.shape)}; expected packed (sum N, D) with offsets=, "
                "padded (B, Nmax, D) with mask=, or one bag (N, D)"
            )
        if offsets is None:
            offsets = torch.tensor([0, len(x)], device=x.device)
        offsets = offsets.to(x.device)
        self._check(x, offsets, grid, edges)
        return x.to(self._dtype(x)), offsets, grid

    def _dtype(self, x: Tensor) -> torch.dtype:
        for parameter in self.parameters():
            if parameter.is_floating_point():
                return parameter.dtype
        return torch.promote_types(x.dtype, torch.float32)

    def _check(self, x: Tensor, offsets: Tensor, grid: Tensor | None, edges: Tensor | None) -> None:
        """Everything that ``pool`` trusts, of packed bags."""
        card = self.card
        where = f"aggregator {card.name!r}"
        if x.shape[1] != self.in_dim:
            raise ConfigError(
                f"{where}: features of width {x.shape[1]}, but it was built with in_dim={self.in_dim}; "
                "build it with the width of the encoder's card"
            )
        if not x.is_floating_point():
            raise ConfigError(f"{where}: x of type {x.dtype}; expected floating point, convert with x.float()")
        bag_sizes(offsets, len(x))
        if not _finite(x):
            rows = (~torch.isfinite(x).all(dim=1)).nonzero().flatten()
            raise ConfigError(
                f"{where}: {len(rows)} of {len(x)} instances hold NaN or infinity, the first is instance "
                f"{int(rows[0])} of the packed rows; leave out the tiles whose status is not ok"
            )
        if card.uses_grid and grid is None:
            raise ConfigError(f"{where} uses the grid, but none was given; pass grid= beside x")
        if grid is not None:
            if grid.shape != (len(x), 2):
                raise ConfigError(
                    f"{where}: {len(x)} instances but grid of shape {tuple(grid.shape)}; expected ({len(x)}, 2)"
                )
            if grid.is_floating_point():
                raise ConfigError(
                    f"{where}: grid of type {grid.dtype}; expected whole numbers, steps of the grid: "
                    "(coords / stride_level0_px).round().long()"
                )
        if card.uses_edges and edges is None:
            raise ConfigError(f"{where} uses edges, but none were given; pass edges= (2, number of edges)")
        if edges is not None:
            _check_edges(where, edges, offsets, len(x))


def _finite(values: Tensor) -> bool:
    # One pass without a temporary: a sum is finite only if all terms are. It may overflow though
    # all are finite; then, and only then, look at each.
    values = values.detach()
    return bool(values.sum().isfinite()) or bool(values.isfinite().all())


def _check_padded(name: str, x: Tensor, offsets: Tensor | None, mask: Tensor, grid: Tensor | None) -> None:
    where = f"aggregator {name!r}"
    if offsets is not None:
        raise ConfigError(
            f"{where}: both offsets and mask were given; x is packed (offsets) or padded (mask), not both"
        )
    if mask.dtype != torch.bool:
        raise ConfigError(f"{where}: mask of type {mask.dtype}; expected bool, True = valid (mask.bool())")
    if x.ndim != 3 or mask.shape != x.shape[:2]:
        raise ConfigError(
            f"{where}: x of shape {tuple(x.shape)} with a mask of shape {tuple(mask.shape)}; "
            "expected (B, Nmax, D) with (B, Nmax)"
        )
    if grid is not None and grid.shape != (*mask.shape, 2):
        raise ConfigError(
            f"{where}: x of shape {tuple(x.shape)} but grid of shape {tuple(grid.shape)}; expected {(*mask.shape, 2)}"
        )


def _check_edges(where: str, edges: Tensor, offsets: Tensor, instances: int) -> None:
    if edges.ndim != 2 or edges.shape[0] != 2 or edges.dtype != torch.int64:
        raise ConfigError(
            f"{where}: edges of shape {tuple(edges.shape)}, {edges.dtype}; expected (2, number of edges) int64"
        )
    if edges.numel() == 0:
        return
    low, high = int(edges.min()), int(edges.max())
    if low < 0 or high >= instances:
        raise ConfigError(
            f"{where}: edges name instances {low} to {high}, but there are {instances}; "
            "expected indices of packed rows, from 0"
        )
    bag = bag_index(offsets)[edges]  # (2, number of edges)
    crossing = int((bag[0] != bag[1]).sum())
    if crossing:
        raise ConfigError(
            f"{where}: {crossing} edges join instances of different bags; add each bag's offset to its edges"
        )
