"""What is known of an epoch when it has ended."""

from __future__ import annotations

from dataclasses import dataclass


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
