"""The same gradient steps by several processes: each takes some of a step's patients, all make the same step.

The loss is one of all patients of the step, wherever they are: Cox's partial likelihood compares every one with
every other, and a mean is not the mean of unequal parts' means. So outputs are gathered, every process has the
same loss and its gradient with respect to all outputs, and takes its own patients' share of that back through the
model; the sum of what they find is the gradient of a single process. DistributedDataParallel's own averaging would
take a mean of the parts' losses, and stumbles over a head that an aggregator does not use.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from wsikit.training.steps import Rows, Steps, full, rng_state, set_rng_state


class SharedSteps(Steps):
    """Steps of one of several ranks. Every rank calls the same methods with the same arguments."""

    def step(self, rows: Rows, rng: np.random.Generator) -> float:
        """One step on the loss of all of ``rows`` together; its loss, the same in every rank."""
        self.optimizer.zero_grad()
        thinned = int(rng.integers(1 << 62))
        share = self._share(len(rows))
        mine = rows[share]
        parts = list(self._parts(mine, thinned=True)) if len(mine) else []
        states, kept = [], []
        with torch.set_grad_enabled(len(parts) == 1):  # of several parts the graphs would not fit at once
            for part in parts:
                states.append(rng_state(self.fabric.device))
                kept.append(self._forward(part, thinned))
        every = self._gathered([full(found.outputs) for found in kept], len(rows)).requires_grad_()
        with torch.enable_grad():
            loss = self.task.loss(every, self.target.take(rows))
            (gradient,) = torch.autograd.grad(loss, every)
        gradient = gradient[share]
        if len(parts) > 1:
            kept = []
        after, start, own_total = rng_state(self.fabric.device), share.start, 0.0
        for number, part in enumerate(parts):
            if len(parts) > 1:  # once more, with a graph, and dropout replayed
                set_rng_state(states[number], self.fabric.device)
            found = self._forward(part, thinned) if len(parts) > 1 else kept[0]
            at = start - share.start
            start += len(part)
            own = self._own(found, self.target.take(part)) * (len(part) / len(rows))
            self.fabric.backward((full(found.outputs) * gradient[at : at + len(part)]).sum() + own)
            own_total += float(own.detach())
        set_rng_state(after, self.fabric.device)
        own_total = self._sum_gradients(own_total)
        self.fabric.clip_gradients(self.net, self.optimizer, max_norm=self.training.clip, error_if_nonfinite=False)
        self.optimizer.step()
        return float(loss.detach()) + own_total

    def outputs(self, rows: Rows) -> Tensor:
        """Outputs (n, K) of all ``rows`` in evaluation mode, each computed by one rank."""
        mine = rows[self._share(len(rows))]
        return self._gathered([super().outputs(mine)] if len(mine) else [], len(rows))

    def _share(self, count: int) -> slice:
        """Which of ``count`` patients are this rank's: shares differ by one at most, and may be empty."""
        world, rank = self.fabric.world_size, self.fabric.global_rank
        return slice(count * rank // world, count * (rank + 1) // world)

    def _gathered(self, mine: list[Tensor], count: int) -> Tensor:
        """Outputs of all patients (count, K) from each rank's own, in the order of the patients."""
        wide = torch.float64 if self.training.precision == "64-true" else torch.float32
        every = torch.zeros(count, self.task.outputs + self.task.free, dtype=wide, device=self.fabric.device)
        if mine:
            every[self._share(count)] = torch.cat([one.detach() for one in mine])
        return self._sum(every)

    def _sum_gradients(self, value: float) -> float:
        """Replace every gradient, and ``value``, by the sum over the ranks; of one tensor, for one exchange."""
        weights = [p for p in self.net.parameters() if p.requires_grad]
        parts = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in weights]
        used = [torch.full_like(parts[0][:1], float(p.grad is not None)) for p in weights]
        total = self._sum(torch.cat([*parts, *used, torch.full_like(parts[0][:1], value)]))
        found = torch.split(total, [*(p.numel() for p in weights), len(weights), 1])
        # of a weight that no rank uses there is no gradient, and not one of zeros: AdamW would shrink it
        for weight, grad, anywhere in zip(weights, found, found[-2].tolist(), strict=False):
            weight.grad = grad.view_as(weight).clone() if anywhere else None
        return float(found[-1])

    def _sum(self, tensor: Tensor) -> Tensor:
        found: Tensor = self.fabric.all_reduce(tensor, reduce_op="sum")
        return found
