"""Progress of a training: a bar in a terminal, a line for each epoch in a log."""

from __future__ import annotations

import math
import time

from wsikit.cli._bar import Bar
from wsikit.training.epoch import Epoch


class EpochProgress(Bar):
    """How far a training is, how good, and how long it will take.

    Args:
        epochs: The most there may be.
    """

    def __init__(self, epochs: int) -> None:
        super().__init__("state")
        self._task = self._bar.add_task("epochs", total=epochs, state="")
        self._epochs, self._since = epochs, time.monotonic()

    def epoch(self, epoch: Epoch) -> None:
        """An epoch has ended."""
        score = "" if math.isnan(epoch.validation_score) else f", score {epoch.validation_score:.3f}"
        state = f"loss {epoch.train_loss:.4f}, validation {epoch.validation_loss:.4f}{score}"
        self._bar.update(self._task, completed=epoch.number, state=state)
        if not self._console.is_terminal:
            now = time.monotonic()
            self.say(f"epoch {epoch.number} of {self._epochs}: {state}, {now - self._since:.1f} s")
            self._since = now
