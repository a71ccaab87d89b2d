"""One gradient step over packed bags, in as many parts as memory asks for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wsikit.cohort.bags import Bags
from wsikit.cohort.endpoints import Target
from wsikit.tasks.task import Task
from wsikit.training.batches import Batches
from wsikit.training.model import SlideModelOutput
from wsikit.training.settings import TrainingSettings

Rows = npt.NDArray[np.int64]


class Steps:
    """Gradient steps and outputs over packed bags."""

    def __init__(
        self, fabric: Any, net: Any, optimizer: Any, task: Task, bags: Bags, target: Target, training: TrainingSettings
    ) -> None:
        self.fabric, self.net, self.optimizer, self.task = fabric, net, optimizer, task
        self.batches = Batches(bags, training, fabric.device, net.graph)
        self.target, self.training = target, training

    def step(self, rows: Rows, rng: np.random.Generator) -> float:
        """One step on the loss of all of ``rows`` together; its loss."""
        self.optimizer.zero_grad()
        parts = list(self._parts(rows, thinned=True))
        thinned = int(rng.integers(1 << 62))
        if len(parts) == 1:
            found, mine = self._forward(rows, thinned), self.target.take(rows)
            loss = self.task.loss(found.outputs, mine) + self._own(found, mine)
            self.fabric.backward(loss)
            value = float(loss.detach())
        else:
            value = self._in_two_passes(parts, thinned)
        self.fabric.clip_gradients(self.net, self.optimizer, max_norm=self.training.clip, error_if_nonfinite=False)
        self.optimizer.step()
        return value

    def outputs(self, rows: Rows) -> Tensor:
        """Outputs (n, K) in evaluation mode, float32 or float64."""
        self.net.eval()
        with torch.no_grad():
            return torch.cat([full(self._forward(part, None).outputs) for part in self._parts(rows, thinned=False)])

    def _forward(self, rows: Rows, thinned: int | None) -> SlideModelOutput:
        with self.fabric.autocast():
            found: SlideModelOutput = self.net(*self.batches.batch(rows, thinned))
        return found

    def _own(self, found: SlideModelOutput, mine: Target) -> Tensor:
        """The aggregator's own terms: those that need no label, and those that need a class."""
        penalty, labels = found.aggregated.penalty, self.task.own_target(mine)
        loss = found.outputs.new_zeros(()) if penalty is None else penalty.mean()
        if labels is not None:
            loss = loss + self.net.aggregator.training_loss(found.aggregated, labels.to(found.outputs.device))
        return loss

    def _in_two_passes(self, parts: Sequence[Rows], thinned: int) -> float:
        """The exact gradient of a loss over more tiles than fit at once.

        First all outputs without a graph, and the loss's gradient with respect to them; then each part
        again with its share of that gradient injected. Dropout is replayed, so both passes see the same.
        """
        states, outputs = [], []
        with torch.no_grad():
            for part in parts:
                states.append(rng_state(self.fabric.device))
                outputs.append(full(self._forward(part, thinned).outputs))
        every = torch.cat(outputs).requires_grad_()
        with torch.enable_grad():
            loss = self.task.loss(every, self.target.take(np.concatenate(parts)))
            (gradient,) = torch.autograd.grad(loss, every)
        after = rng_state(self.fabric.device)
        value, start = float(loss.detach()), 0
        for part, state in zip(parts, states, strict=True):
            set_rng_state(state, self.fabric.device)
            found = self._forward(part, thinned)
            mine = gradient[start : start + len(part)]
            start += len(part)
            own = self._own(found, self.target.take(part)) * (len(part) / len(every))
            self.fabric.backward((full(found.outputs) * mine).sum() + own)
        set_rng_state(after, self.fabric.device)
        return value

    def _parts(self, rows: Rows, *, thinned: bool) -> Iterator[Rows]:
        """``rows`` in groups of at most ``max_step_tiles`` tiles (or one patient)."""
        part: list[int] = []
        tiles = 0
        for row in rows.tolist():
            size = self.batches.tiles(row, thinned=thinned)
            if part and tiles + size > self.training.max_step_tiles:
                yield np.array(part)
                part, tiles = [], 0
            part.append(row)
            tiles += size
        yield np.array(part)


def rng_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    """State of torch's generators of the CPU and of the device."""
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def set_rng_state(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    """Set them again."""
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)


def full(outputs: Tensor) -> Tensor:
    """Half precision as float32; float64 stays."""
    return outputs.to(torch.promote_types(outputs.dtype, torch.float32))
