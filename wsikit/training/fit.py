"""The training loop. It never sees a patient of the reported fold."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wsikit.aggregators.registry import create_aggregator
from wsikit.cohort.bags import Bags
from wsikit.cohort.endpoints import Endpoint, SurvivalTarget, Target
from wsikit.cohort.several_outcomes import SeveralTarget
from wsikit.cohort.splits import check_known
from wsikit.errors import ConfigError
from wsikit.tasks.balance import sampling_weights
from wsikit.tasks.task import Task, Values, create_task
from wsikit.training.batches import tensors_of
from wsikit.training.checkpoint import Moving, identity_of, load_checkpoint, save_checkpoint
from wsikit.training.epoch import Epoch as Epoch
from wsikit.training.machinery import device_of, fabric_of, optimizer_of, schedule_of
from wsikit.training.model import SlideModel
from wsikit.training.ranks import in_ranks
from wsikit.training.scaling import fit_scaling
from wsikit.training.settings import ModelSettings, TrainingSettings, graph_of
from wsikit.training.shared_steps import SharedSteps
from wsikit.training.start import StartReport, load_start
from wsikit.training.steps import Steps

Rows = npt.NDArray[np.int64]
RANK_SEED = 1_000_003
"""Between the seeds of dropout of the devices that train together."""


@dataclass(frozen=True)
class FitResult:
    """A trained model.

    Attributes:
        model: With the weights of the epoch ``best``, in evaluation mode, on the CPU.
        task: With what it fitted on the training patients.
        history: Every epoch.
        best: Number of the epoch whose weights were kept: the one with the lowest validation loss,
            or with ``keep="last"`` the last.
        started: What was loaded from given weights; None where training started from scratch.
    """

    model: SlideModel
    task: Task
    history: tuple[Epoch, ...]
    best: int
    started: StartReport | None = None


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
    checkpoint: Path | None = None,
) -> FitResult:
    """Train one model on some patients and stop it by some others.

    Linear warm-up and cosine decay; ``training.keep`` says which epoch's weights are kept.
    Equal arguments give equal weights, bit for bit, on a CPU. Several devices make the steps of one, each with a
    share of a step's patients, up to rounding and the draws of dropout.

    Args:
        bags: Of all patients.
        endpoint: What is predicted.
        target: Of all patients; only rows of ``train`` and ``validation`` are looked at.
        train: Positions of the patients that fit the weights (and the scale of the features).
        validation: Positions of those that stop the training.
        model: The aggregator.
        training: The loop.
        watch: Called after every epoch, once it can be gone on from.
        checkpoint: File that is written after every epoch. Where it is there already, training goes on from it,
            and ends with the bits of a training that was never interrupted.

    Raises:
        ConfigError: The two groups overlap, the validation patients of a survival task have no event, a graph
            is asked for that the aggregator does not use, weights to start from that do not fit, a checkpoint
            of another training, or more devices than there are.
        WorkerDiedError: One of several devices' processes was killed.
    """
    _check(train, validation, target)
    device_of(training)
    job = partial(
        _fit, bags, endpoint, target, train=train, validation=validation, model=model, training=training,
        checkpoint=checkpoint,
    )  # fmt: skip
    if training.devices == 1:
        return job(watch)
    threads = max(1, torch.get_num_threads() // training.devices)
    return in_ranks(job, training.devices, told=watch, threads=threads)


def _fit(
    bags: Bags,
    endpoint: Endpoint,
    target: Target,
    watch: Callable[[Epoch], None],
    *,
    train: Rows,
    validation: Rows,
    model: ModelSettings,
    training: TrainingSettings,
    checkpoint: Path | None,
) -> FitResult:
    """The training, in this process: alone, or as one of the ranks, which all do the same but write nothing."""
    graph = graph_of(model)
    fabric = fabric_of(training)
    alone, writing = fabric.world_size == 1, fabric.global_rank == 0
    task = create_task(endpoint, target.take(train), balance=training.balance)
    drawn = sampling_weights(target.take(train)) if training.balance == "sampling" else None
    given = None if model.init is None else load_start(model.init, bags.encoder)
    mean, scale = fit_scaling(bags, train, training.scaling) if given is None else (given.mean, given.scale)
    rng = np.random.default_rng([training.seed, 1])
    identity = None
    if checkpoint is not None:
        identity = identity_of(
            bags, endpoint, target, train=train, validation=validation, model=model, training=training
        )
    with _seeded(training.seed, fabric.device):
        aggregator = create_aggregator(model.aggregator, in_dim=bags.dim, classes=task.outputs, **model.options)
        started = None if given is None else given.into(aggregator)
        net = SlideModel(aggregator, task.outputs, mean, scale, graph, free=task.free)
        optimizer = optimizer_of(net, training)
        per_epoch = 1 if task.whole_cohort else math.ceil(len(train) / training.batch_patients)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule_of(training, per_epoch))
        _, scaled = fabric.setup(net, optimizer)  # net is moved and converted in place; its wrapper refuses our outputs
        steps = (Steps if alone else SharedSteps)(fabric, net, scaled, task, bags, target, training)
        if fabric.global_rank:  # every rank drops other units out
            torch.manual_seed(training.seed + RANK_SEED * fabric.global_rank)
        moving = Moving(net, optimizer, schedule, rng, fabric)
        history: list[Epoch] = []
        best, kept = 0, _copy(net)
        if checkpoint is not None and identity is not None and checkpoint.is_file():
            history, best, kept = load_checkpoint(checkpoint, moving, identity)
        while len(history) < training.epochs and not _waited_enough(len(history), best, training):
            net.train()
            losses = []
            for rows in _batches(_order(train, drawn, rng), per_epoch):
                losses.append(steps.step(rows, rng))
                schedule.step()
            outputs = steps.outputs(validation)
            stop = target.take(validation)
            loss, number = float(task.loss(outputs, stop)), len(history) + 1
            rate = float(optimizer.param_groups[0]["lr"])
            epoch = Epoch(number, float(np.mean(losses)), loss, _score(task, outputs, stop), rate)
            history.append(epoch if alone else fabric.broadcast(epoch))  # all have to agree on when to stop
            loss = history[-1].validation_loss
            if not best or training.keep == "last" or loss < history[best - 1].validation_loss:
                best, kept = number, _copy(net)
            if checkpoint is not None and identity is not None:
                save_checkpoint(checkpoint, moving, identity, history=history, best=best, kept=kept)
            if writing:
                watch(history[-1])
    net.load_state_dict(kept)
    return FitResult(net.cpu().eval(), task, tuple(history), best, started)


def predict(
    model: SlideModel, task: Task, bags: Bags, rows: Rows, *, with_attention: bool = False
) -> tuple[Values, list[npt.NDArray[np.float32] | None]]:
    """Predictions of patients (n, columns), and the attention over the tiles of each, (N,) summing to 1.

    One bag at a time, so that memory is that of the largest. Attention with several maps is their mean.
    """
    outputs, attention = _outputs(model, bags, rows, with_attention)
    return task.predict(outputs), attention


def outputs_of(model: SlideModel, bags: Bags, rows: Rows) -> Tensor:
    """Outputs of the head for patients, (n, outputs) float32: what ``task.loss`` and ``task.predict`` take."""
    return _outputs(model, bags, rows, False)[0]


def _outputs(
    model: SlideModel, bags: Bags, rows: Rows, with_attention: bool
) -> tuple[Tensor, list[npt.NDArray[np.float32] | None]]:
    model.eval()
    outputs, attention = [], []
    with torch.inference_mode():
        for row in rows:
            batch = bags.batch([int(row)], graph=model.graph)
            found = model(*tensors_of(batch, next(model.parameters()).device))
            outputs.append(found.outputs)
            weights = found.aggregated.attention if with_attention else None
            if weights is not None:
                weights = weights.float().flatten(1).mean(1) if weights.ndim > 1 else weights.float()
            attention.append(None if weights is None else weights.cpu().numpy())
    return torch.cat(outputs).float(), attention


def _check(train: Rows, validation: Rows, target: Target) -> None:
    if not len(train) or not len(validation):
        raise ConfigError(f"{len(train)} training and {len(validation)} validation patients, expected some of both")
    if set(train.tolist()) & set(validation.tolist()):
        raise ConfigError("training and validation patients overlap; validation has to be apart to stop the training")
    if isinstance(target, SeveralTarget):
        check_known(target.take(train), "training")
    if isinstance(target, SurvivalTarget):
        for name, rows in (("training", train), ("validation", validation)):
            if not target.event[rows].any():
                raise ConfigError(
                    f"none of {len(rows)} {name} patients has the event: nothing can be learnt from them; "
                    "use fewer folds or a larger validation share"
                )


@contextlib.contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's generators seeded for the block, and as they were after it."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _waited_enough(done: int, best: int, training: TrainingSettings) -> bool:
    """Whether so many epochs have brought no better one that training stops."""
    return training.keep == "best" and best > 0 and done - best >= training.patience


def _order(rows: Rows, drawn: npt.NDArray[np.float64] | None, rng: np.random.Generator) -> Rows:
    """The patients of an epoch: each once, or as many, drawn with replacement by their probabilities."""
    return rng.permutation(rows) if drawn is None else rng.choice(rows, len(rows), p=drawn)


def _batches(rows: Rows, count: int) -> list[Rows]:
    """``rows`` in ``count`` groups that differ in size by one at most: no leftover of one patient."""
    return [np.asarray(part) for part in np.array_split(rows, count)]


def _copy(net: SlideModel) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in net.state_dict().items()}


def _score(task: Task, outputs: Tensor, target: Target) -> float:
    from wsikit.metrics.undefined import UndefinedMetricError

    try:
        return task.score(task.predict(outputs), target)
    except UndefinedMetricError:
        return float("nan")
