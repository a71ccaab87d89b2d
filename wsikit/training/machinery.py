"""What a loop runs on and with: the device and its precision, the optimizer, the learning rate."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from wsikit.errors import ConfigError
from wsikit.training.settings import USUAL, TrainingSettings


def fabric_of(training: TrainingSettings) -> Any:
    """Lightning Fabric on the device and with the precision that are asked for.

    With several devices this is called in each of their processes (see ``wsikit.training.ranks``), and gives one
    that is connected to the others.

    Raises:
        ConfigError: There is no such device, not so many, or it cannot do this precision.
    """
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries that it looks for on import
        from lightning_fabric import Fabric

    accelerator, _, number = device_of(training).partition(":")
    devices: Any = [int(number)] if number else training.devices
    try:
        if training.devices == 1:
            return Fabric(accelerator=accelerator, devices=devices, precision=training.precision)
        from lightning_fabric.plugins.environments.lightning import LightningEnvironment
        from lightning_fabric.strategies.ddp import DDPStrategy

        # named, because under SLURM it would else expect the scheduler to have started the processes
        together = DDPStrategy(cluster_environment=LightningEnvironment())
        fabric = Fabric(accelerator=accelerator, devices=devices, precision=training.precision, strategy=together)
    except Exception as e:
        raise ConfigError(f"training device {training.device!r} with {training.precision!r}: {e}") from e
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # in this process alone: it announces every rank
    fabric.launch()
    return fabric


def device_of(training: TrainingSettings) -> str:
    """The device that is asked for; of ``auto`` a GPU where there is one.

    Raises:
        ConfigError: There are fewer GPUs than are asked for.
    """
    device = training.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if training.devices > 1 and device == "cuda" and torch.cuda.device_count() < training.devices:
        raise ConfigError(
            f"training: devices is {training.devices}, and there are {torch.cuda.device_count()} GPUs here; ask for "
            "fewer, or for processes of the CPU (device: cpu)"
        )
    return device


def optimizer_of(net: nn.Module, training: TrainingSettings) -> torch.optim.Optimizer:
    """AdamW or SGD over all parameters."""
    usual_rate, usual_decay = USUAL[training.optimizer]
    rate = usual_rate if training.learning_rate is None else training.learning_rate
    decay = usual_decay if training.weight_decay is None else training.weight_decay
    if training.optimizer == "adamw":
        return torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=decay)
    return torch.optim.SGD(net.parameters(), lr=rate, momentum=0.9, nesterov=True, weight_decay=decay)


def schedule_of(training: TrainingSettings, per_epoch: int) -> Callable[[int], float]:
    """Factor of the learning rate at each step: a linear warm-up, then half a cosine to zero."""
    total = training.epochs * per_epoch
    warm = max(1, round(training.warmup * total))

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, total - warm))))

    return factor
