"""Which tiles a prediction comes from: attention, attention rollout, gradient times input, integrated gradients.

A map of tiles is a claim about a model. :mod:`wsikit.evaluation.faithfulness` puts it to the test.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wsikit.aggregators.rollout import attention_rollout
from wsikit.cohort.bags import BagBatch
from wsikit.errors import ConfigError
from wsikit.training.model import SlideModel, SlideModelOutput

Map = npt.NDArray[np.float64]
"""(N,) one number for each tile of a bag, higher = it speaks more for the output."""

FIRST_STEPS = 16
"""Points of the path that integrated gradients begins with; they are doubled until the sum is complete."""

PATH_TILES = 20_000
"""Tiles of all points of the path that are passed through the model at once, or one point's."""


@dataclass(frozen=True)
class IntegratedGradients:
    """Integrated gradients of one bag.

    Attributes:
        values: (N,) of each tile, in units of the output.
        output: f(x), the output that is explained.
        baseline_output: f(baseline).
        steps: Points of the path that were used.
        tolerance: Of the gap, in units of the larger of 1 and the difference of the two outputs.
    """

    values: Map
    output: float
    baseline_output: float
    steps: int
    tolerance: float

    @property
    def gap(self) -> float:
        """What is missing: f(x) - f(baseline) less the sum of the values; 0 for an exact integral."""
        return self.output - self.baseline_output - float(self.values.sum())

    @property
    def complete(self) -> bool:
        """Whether the gap is within the tolerance. It never is for a model whose output jumps on the path."""
        return abs(self.gap) <= self.tolerance * max(1.0, abs(self.output - self.baseline_output))


def margin(outputs: Tensor, column: int) -> Tensor:
    """The output that is explained, (B, K) -> (B,).

    With one output that output itself. With several, logits of classes, the log odds of one class against all
    others, ``o_k - log sum exp of the others``: a single logit says nothing, because a softmax does not change
    when all of them rise.

    Raises:
        ConfigError: No such column.

    Example:
        >>> margin(torch.tensor([[0.0, 2.0]]), 1)
        tensor([2.])
    """
    if not 0 <= column < outputs.shape[1]:
        raise ConfigError(f"column={column}; the model has {outputs.shape[1]} outputs, numbered from 0")
    if outputs.shape[1] == 1:
        return outputs[:, 0]
    rest = [k for k in range(outputs.shape[1]) if k != column]
    return outputs[:, column] - outputs[:, rest].logsumexp(1)


def attention_map(model: SlideModel, bag: BagBatch) -> Map | None:
    """Attention over the tiles of one bag, summing to 1; several maps as their mean. None without attention.

    Attention is the weight of a tile in the embedding: it has no sign, and a large weight of a feature that the
    head ignores changes nothing.

    Raises:
        ConfigError: Other than one bag.
    """
    _one(bag)
    with _evaluating(model), torch.no_grad():
        weights = _run(model, _features(bag), bag).aggregated.attention
    if weights is None:
        return None
    return np.asarray(weights.double().flatten(1).mean(1) if weights.ndim > 1 else weights.double(), np.float64)


def rollout_map(model: SlideModel, bag: BagBatch) -> Map:
    """Attention rollout over the tiles of one bag: attention through all layers. Absolute values sum to 1.

    See :func:`wsikit.aggregators.rollout.attention_rollout`. As attention it has no sign: the negative numbers of
    ``transmil`` are those of its approximation, and speak against nothing.

    Raises:
        ConfigError: Other than one bag, or an aggregator without rollout.
    """
    _one(bag)
    rest = [torch.as_tensor(part) for part in (bag.grid, *([] if bag.edges is None else [bag.edges]))]
    with _evaluating(model), torch.no_grad():
        x = model.scaled(_features(bag))
        row = attention_rollout(model.aggregator, x, grid=rest[0], edges=rest[1] if len(rest) > 1 else None)
    return _shares(np.asarray(row.double().cpu().numpy(), np.float64))


def _shares(values: Map) -> Map:
    whole = float(np.abs(values).sum())
    return values / whole if whole > 0 else values


def gradient_times_input(
    model: SlideModel, bag: BagBatch, *, column: int, baseline: npt.NDArray[np.floating] | None = None
) -> Map:
    """``(x_i - b) . d margin / d x_i`` of each tile i of one bag: what a straight line would attribute to it.

    Args:
        model: Explained in evaluation mode.
        bag: One bag of N tiles.
        column: Of the model's outputs; see :func:`margin`.
        baseline: (D,) b, in units of the features; default: the mean feature of the training patients, which the
            model subtracts from all.

    Returns:
        (N,) float64.

    Raises:
        ConfigError: Other than one bag, no such output, a baseline of another width, or a model that cuts the gradient
            between its output and the tiles (DTFD's tiers, unless ``end_to_end``).

    Reference:
        Shrikumar et al. 2016, Not Just a Black Box, arXiv:1605.01713 (there with b = 0).
    """
    _one(bag)
    x, b = _features(bag), _baseline(model, bag, baseline)
    with _evaluating(model):
        return _gradient(model, bag, b, x - b, column, np.ones(1))


def integrated_gradients(
    model: SlideModel,
    bag: BagBatch,
    *,
    column: int,
    baseline: npt.NDArray[np.floating] | None = None,
    tolerance: float = 1e-3,
    max_steps: int = 1024,
) -> IntegratedGradients:
    """Integrated gradients: each tile's share of the way from a baseline bag to this one.

    ``a_i = (x_i - b) . mean over t in (0, 1) of d margin / d x_i at b + t (x - b)``. The values sum to
    ``f(x) - f(b)``, f being the margin; the mean is taken over midpoints, whose number is doubled until the sum holds.
    The baseline is a bag of equally many tiles in the same places, all with one feature: grid, edges and the
    number of tiles are no part of what is explained.

    Args:
        model: Explained in evaluation mode.
        bag: One bag of N tiles.
        column: Of the model's outputs; see :func:`margin`.
        baseline: (D,) b, in units of the features; default: the mean feature of the training patients, which is
            all zeros after the model's scaling.
        tolerance: How much of the sum may be missing, in units of the larger of 1 and ``|f(x) - f(b)|``.
        max_steps: At most so many points. A model that picks single tiles may jump on the way: its sum is never
            complete, and ``gap`` says by how much.

    Raises:
        ConfigError: As :func:`gradient_times_input`; or fewer steps than 16.

    Reference:
        Sundararajan, Taly, Yan 2017, Axiomatic Attribution for Deep Networks, arXiv:1703.01365, eq. 1 and
        proposition 1 (completeness).
    """
    if max_steps < FIRST_STEPS:
        raise ConfigError(f"max_steps={max_steps}; expected at least {FIRST_STEPS}")
    _one(bag)
    x, b = _features(bag), _baseline(model, bag, baseline)
    away = x - b
    with _evaluating(model):
        with torch.no_grad():
            at_x = float(margin(_run(model, x, bag).outputs, column)[0])
            at_b = float(margin(_run(model, b.expand_as(x), bag).outputs, column)[0])
        steps = FIRST_STEPS
        while True:
            points = (np.arange(steps) + 0.5) / steps
            calls = math.ceil(steps / max(1, PATH_TILES // len(x)))
            sums = [_gradient(model, bag, b, away, column, part) for part in np.array_split(points, calls)]
            values = np.asarray(np.sum(sums, axis=0) / steps, np.float64)
            found = IntegratedGradients(values, at_x, at_b, steps, tolerance)
            if found.complete or 2 * steps > max_steps:
                return found
            steps *= 2


def _gradient(model: SlideModel, bag: BagBatch, b: Tensor, away: Tensor, column: int, points: Map) -> Map:
    """``away_i . d margin / d x_i`` summed over points of the path (T,), each a bag of one batch; (N,)."""
    n, many = len(away), len(points)
    with torch.enable_grad():
        at = (
            (b + torch.as_tensor(points, dtype=away.dtype)[:, None, None] * away).flatten(0, 1).requires_grad_()
        )  # (T, N, D) -> (T N, D)
        output = margin(_run(model, at, _repeated(bag, many)).outputs, column).sum()
        slope = torch.autograd.grad(output, at, allow_unused=True)[0] if output.requires_grad else None
    if slope is None:
        raise ConfigError(
            f"aggregator {model.aggregator.card.name!r} passes no gradient from its output to the tiles, so it has no "
            "gradient attributions; ask for its attention, and put that to the test"
        )
    parts = (away * slope.reshape(many, n, -1)).sum(2, dtype=torch.float64)  # (T, N)
    return np.asarray(parts.sum(0).cpu().numpy(), np.float64)


def _repeated(bag: BagBatch, times: int) -> BagBatch:
    """A bag so many times over, each with its own edges; features are left as they are."""
    n = len(bag.grid)
    starts = np.arange(times, dtype=np.int64) * n
    edges = None if bag.edges is None else np.concatenate([bag.edges + start for start in starts], axis=1)
    return BagBatch(bag.x, np.append(starts, times * n), np.tile(bag.grid, (times, 1)), edges)


def _run(model: SlideModel, x: Tensor, bag: BagBatch) -> SlideModelOutput:
    rest = (bag.offsets, bag.grid, *([] if bag.edges is None else [bag.edges]))
    found: SlideModelOutput = model(x, *(torch.as_tensor(part) for part in rest))
    return found


def _features(bag: BagBatch) -> Tensor:
    """Float32 at least: a step on the way from the baseline is finer than 16 bits can tell."""
    x = torch.as_tensor(bag.x)
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _baseline(model: SlideModel, bag: BagBatch, given: npt.NDArray[np.floating] | None) -> Tensor:
    if given is None:
        return model.mean.detach().to(_features(bag).dtype)
    if given.shape != (bag.x.shape[1],):
        raise ConfigError(f"baseline of shape {given.shape}; expected ({bag.x.shape[1]},), one number for each feature")
    return torch.as_tensor(given).to(_features(bag).dtype)


def _one(bag: BagBatch) -> None:
    if len(bag.offsets) != 2:
        raise ConfigError(f"{len(bag.offsets) - 1} bags; expected one: explain patients one at a time")


@contextmanager
def _evaluating(model: SlideModel) -> Iterator[None]:
    """Evaluation mode for the block, the mode as it was after it."""
    before = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(before)
