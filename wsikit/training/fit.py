"""The training loop. It never sees a patient of the reported fold."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wsikit.aggregators.registry import create_aggregator
from wsikit.cohort.bags import BagBatch, Bags
from wsikit.cohort.endpoints import Endpoint, SurvivalTarget, Target
from wsikit.cohort.graphs import induced
from wsikit.errors import ConfigError
from wsikit.tasks.task import Task, Values, create_task
from wsikit.training.model import SlideModel, SlideModelOutput
from wsikit.training.scaling import fit_scaling
from wsikit.training.settings import ModelSettings, TrainingSettings, graph_of

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Epoch:
    """One pass over the training patients.

    Attributes:
        number: From 1.
        train_loss: Mean over the steps.
        validation_loss: After the pass.
        validation_score: The task's metric on the validation patients; NaN where it is not defined.
        learning_rate: At its end.
    """

    number: int
    train_loss: float
    validation_loss: float
    validation_score: float
    learning_rate: float


@dataclass(frozen=True)
class FitResult:
    """A trained model.

    Attributes:
        model: With the weights of the epoch ``best``, in evaluation mode, on the CPU.
        task: With what it fitted on the training patients.
        history: Every epoch.
        best: Number of the epoch whose weights were kept: the one with the lowest validation loss,
            or with ``keep="last"`` the last.
    """

    model: SlideModel
    task: Task
    history: tuple[Epoch, ...]
    best: int


def fit(
    bags: Bags,
    endpoint: Endpoint,
    target: Target,
    *,
    train: Rows,
    validation: Rows,
    model: ModelSettings,
    training: TrainingSettings,
    watch: Callable[[Epoch], None] = lambda epoch: None,
) -> FitResult:
    """Train one model on some patients and stop it by some others.

    Linear warm-up and cosine decay; ``training.keep`` says which epoch's weights are kept.
    Equal arguments give equal weights, bit for bit, on a CPU.

    Args:
        bags: Of all patients.
        endpoint: What is predicted.
        target: Of all patients; only rows of ``train`` and ``validation`` are looked at.
        train: Positions of the patients that fit the weights (and the scale of the features).
        validation: Positions of those that stop the training.
        model: The aggregator.
        training: The loop.
        watch: Called after every epoch.

    Raises:
        ConfigError: The two groups overlap, the validation patients of a survival task have no event, or a graph
            is asked for that the aggregator does not use.
    """
    _check(train, validation, target)
    graph = graph_of(model)
    fabric = _fabric(training)
    task = create_task(endpoint, target.take(train))
    mean, scale = fit_scaling(bags, train, training.scaling)
    dim = bags[int(train[0])].x.shape[1]
    rng = np.random.default_rng([training.seed, 1])
    with _seeded(training.seed, fabric.device):
        aggregator = create_aggregator(model.aggregator, in_dim=dim, classes=task.outputs, **model.options)
        net = SlideModel(aggregator, task.outputs, mean, scale, graph)
        optimizer = _optimizer(net, training)
        per_epoch = 1 if task.whole_cohort else math.ceil(len(train) / training.batch_patients)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _schedule(training, per_epoch))
        _, scaled = fabric.setup(net, optimizer)  # net is moved and converted in place; its wrapper refuses our outputs
        steps = _Steps(fabric, net, scaled, task, bags, target, training)
        history: list[Epoch] = []
        best, kept = 0, _copy(net)
        for number in range(1, training.epochs + 1):
            net.train()
            losses = []
            for rows in _batches(rng.permutation(train), per_epoch):
                losses.append(steps.step(rows, rng))
                schedule.step()
            outputs = steps.outputs(validation)
            stop = target.take(validation)
            loss = float(task.loss(outputs, stop))
            rate = float(optimizer.param_groups[0]["lr"])
            history.append(Epoch(number, float(np.mean(losses)), loss, _score(task, outputs, stop), rate))
            watch(history[-1])
            if not best or training.keep == "last" or loss < history[best - 1].validation_loss:
                best, kept = number, _copy(net)
            elif number - best >= training.patience:
                break
    net.load_state_dict(kept)
    return FitResult(net.cpu().eval(), task, tuple(history), best)


def predict(
    model: SlideModel, task: Task, bags: Bags, rows: Rows, *, with_attention: bool = False
) -> tuple[Values, list[npt.NDArray[np.float32] | None]]:
    """Predictions of patients (n, columns), and the attention over the tiles of each, (N,) summing to 1.

    One bag at a time, so that memory is that of the largest. Attention with several maps is their mean.
    """
    model.eval()
    outputs, attention = [], []
    with torch.inference_mode():
        for row in rows:
            batch = bags.batch([int(row)], graph=model.graph)
            found = model(*_tensors(batch, next(model.parameters()).device))
            outputs.append(found.outputs)
            weights = found.aggregated.attention if with_attention else None
            if weights is not None:
                weights = weights.float().flatten(1).mean(1) if weights.ndim > 1 else weights.float()
            attention.append(None if weights is None else weights.cpu().numpy())
    return task.predict(torch.cat(outputs).float()), attention


class _Steps:
    """Gradient steps and outputs over packed bags."""

    def __init__(
        self, fabric: Any, net: Any, optimizer: Any, task: Task, bags: Bags, target: Target, training: TrainingSettings
    ) -> None:
        self.fabric, self.net, self.optimizer, self.task = fabric, net, optimizer, task
        self.bags, self.target, self.training = bags, target, training

    def step(self, rows: Rows, rng: np.random.Generator) -> float:
        """One step on the loss of all of ``rows`` together; its loss."""
        self.optimizer.zero_grad()
        parts = list(self._parts(rows))
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
            return torch.cat([_full(self._forward(part, None).outputs) for part in self._parts(rows)])

    def _forward(self, rows: Rows, thinned: int | None) -> SlideModelOutput:
        with self.fabric.autocast():
            found: SlideModelOutput = self.net(*self._batch(rows, thinned))
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
                states.append(_rng_state(self.fabric.device))
                outputs.append(_full(self._forward(part, thinned).outputs))
        every = torch.cat(outputs).requires_grad_()
        with torch.enable_grad():
            loss = self.task.loss(every, self.target.take(np.concatenate(parts)))
            (gradient,) = torch.autograd.grad(loss, every)
        after = _rng_state(self.fabric.device)
        value, start = float(loss.detach()), 0
        for part, state in zip(parts, states, strict=True):
            _set_rng_state(state, self.fabric.device)
            found = self._forward(part, thinned)
            mine = gradient[start : start + len(part)]
            start += len(part)
            own = self._own(found, self.target.take(part)) * (len(part) / len(every))
            self.fabric.backward((_full(found.outputs) * mine).sum() + own)
        _set_rng_state(after, self.fabric.device)
        return value

    def _parts(self, rows: Rows) -> Iterator[Rows]:
        """``rows`` in groups of at most ``max_step_tiles`` tiles (or one patient)."""
        part: list[int] = []
        tiles = 0
        for row in rows.tolist():
            size = len(self.bags[row])
            if part and tiles + size > self.training.max_step_tiles:
                yield np.array(part)
                part, tiles = [], 0
            part.append(row)
            tiles += size
        yield np.array(part)

    def _batch(self, rows: Rows, thinned: int | None) -> tuple[Tensor, ...]:
        batch = self.bags.batch(rows, graph=self.net.graph)
        if thinned is not None and self.training.tile_dropout:
            batch = _thin(batch, self.training.tile_dropout, [[thinned, int(row)] for row in rows])
        return _tensors(batch, self.fabric.device)


def _check(train: Rows, validation: Rows, target: Target) -> None:
    if not len(train) or not len(validation):
        raise ConfigError(f"{len(train)} training and {len(validation)} validation patients, expected some of both")
    if set(train.tolist()) & set(validation.tolist()):
        raise ConfigError("training and validation patients overlap; validation has to be apart to stop the training")
    if isinstance(target, SurvivalTarget):
        for name, rows in (("training", train), ("validation", validation)):
            if not target.event[rows].any():
                raise ConfigError(
                    f"none of {len(rows)} {name} patients has the event: nothing can be learnt from them; "
                    "use fewer folds or a larger validation share"
                )


def _fabric(training: TrainingSettings) -> Any:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries that it looks for on import
        from lightning_fabric import Fabric

    device = training.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    accelerator, _, number = device.partition(":")
    devices: Any = [int(number)] if number else 1
    try:
        return Fabric(accelerator=accelerator, devices=devices, precision=training.precision)
    except Exception as e:
        raise ConfigError(f"training device {training.device!r} with {training.precision!r}: {e}") from e


@contextlib.contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's generators seeded for the block, and as they were after it."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _rng_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _set_rng_state(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)


def _optimizer(net: SlideModel, training: TrainingSettings) -> torch.optim.Optimizer:
    usual_rate, usual_decay = {"adamw": (3e-3, 1e-2), "sgd": (0.1, 1e-3)}[training.optimizer]
    rate = usual_rate if training.learning_rate is None else training.learning_rate
    decay = usual_decay if training.weight_decay is None else training.weight_decay
    if training.optimizer == "adamw":
        return torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=decay)
    return torch.optim.SGD(net.parameters(), lr=rate, momentum=0.9, nesterov=True, weight_decay=decay)


def _schedule(training: TrainingSettings, per_epoch: int) -> Callable[[int], float]:
    total = training.epochs * per_epoch
    warm = max(1, round(training.warmup * total))

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, total - warm))))

    return factor


def _batches(rows: Rows, count: int) -> list[Rows]:
    """``rows`` in ``count`` groups that differ in size by one at most: no leftover of one patient."""
    return [np.asarray(part) for part in np.array_split(rows, count)]


def _thin(batch: BagBatch, share: float, seeds: Sequence[list[int]]) -> BagBatch:
    """A random part of each bag's tiles, at least one, and the edges among them.

    There is a seed for each bag, so that parts thin as the whole does.
    """
    kept = []
    for start, stop, seed in zip(batch.offsets[:-1].tolist(), batch.offsets[1:].tolist(), seeds, strict=True):
        n = max(1, round((1 - share) * (stop - start)))
        kept.append(np.sort(np.random.default_rng(seed).choice(stop - start, n, replace=False)) + start)
    rows = np.concatenate(kept)
    offsets = np.concatenate([[0], np.cumsum([len(k) for k in kept])]).astype(np.int64)
    edges = None if batch.edges is None else induced(batch.edges, rows, len(batch.x))
    return BagBatch(batch.x[rows], offsets, batch.grid[rows], edges)


def _tensors(batch: BagBatch, device: torch.device) -> tuple[Tensor, ...]:
    """What ``SlideModel.forward`` takes: features, offsets, places, and edges where there are any.

    Features stay float16 until they are on the device: half the bytes to move.
    """
    arrays = (batch.x, batch.offsets, batch.grid, *([] if batch.edges is None else [batch.edges]))
    tensors = tuple(torch.as_tensor(array) for array in arrays)
    if device.type == "cuda":
        return tuple(t.pin_memory().to(device, non_blocking=True) for t in tensors)
    return tensors


def _full(outputs: Tensor) -> Tensor:
    """Half precision as float32; float64 stays."""
    return outputs.to(torch.promote_types(outputs.dtype, torch.float32))


def _copy(net: SlideModel) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in net.state_dict().items()}


def _score(task: Task, outputs: Tensor, target: Target) -> float:
    from wsikit.metrics.undefined import UndefinedMetricError

    try:
        return task.score(task.predict(outputs), target)
    except UndefinedMetricError:
        return float("nan")
