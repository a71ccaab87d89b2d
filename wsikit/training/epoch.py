"""What is known of an epoch when it has ended, and what is told of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol


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


class EpochLog(Protocol):
    """Is told of every epoch of a training."""

    def __call__(self, epoch: Epoch) -> None:
        """An epoch has ended."""

    def close(self, *, failed: bool = False) -> None:
        """No epoch will follow."""


def curves(epoch: Epoch) -> dict[str, float]:
    """Its values by the names that loggers group them by (``train/loss``); what is not defined is left out."""
    values = {name.replace("_", "/", 1): value for name, value in asdict(epoch).items() if name != "number"}
    return {name: value for name, value in values.items() if not math.isnan(value)}


def plain_history(history: Sequence[Epoch]) -> list[dict[str, float | None]]:
    """Epochs as plain values; None stands for NaN, which JSON does not have."""
    return [{k: None if math.isnan(v) else v for k, v in asdict(epoch).items()} for epoch in history]


def history_from(values: Iterable[Mapping[str, Any]]) -> tuple[Epoch, ...]:
    """What :func:`plain_history` was made of."""
    found = []
    for epoch in values:
        known: dict[str, Any] = {k: math.nan if v is None else v for k, v in epoch.items()}
        found.append(Epoch(**known))
    return tuple(found)
