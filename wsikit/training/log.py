"""The course of a training as files: a table, and TensorBoard's events where TensorBoard is installed."""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from wsikit.store.objects import write_atomic
from wsikit.training.epoch import Epoch, curves

COLUMNS = ("number", "train_loss", "validation_loss", "validation_score", "learning_rate")


class TrainingLog:
    """Writes ``history.csv`` after every epoch, and ``tensorboard/`` if the extra ``logging`` is there.

    Args:
        folder: Where.
        before: Epochs of a training that is gone on with. Events that it wrote of later ones, before it was
            killed, are taken back.
    """

    def __init__(self, folder: Path, before: Sequence[Epoch] = ()) -> None:
        self._folder, self._history = folder, list(before)
        self._events: Any = None
        if find_spec("tensorboard") is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the libraries that it looks for on import
                from torch.utils.tensorboard import SummaryWriter

            events = folder / "tensorboard"
            self._events = SummaryWriter(str(events), purge_step=len(before) + 1 if before else None)
        self._write()

    def __call__(self, epoch: Epoch) -> None:
        """An epoch has ended."""
        self._history.append(epoch)
        self._write()
        if self._events is not None:
            for name, value in curves(epoch).items():
                self._events.add_scalar(name, value, epoch.number)
            self._events.flush()

    def close(self, *, failed: bool = False) -> None:
        """No epoch will follow."""
        if self._events is not None:
            self._events.close()

    def _write(self) -> None:
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["epoch", *COLUMNS[1:]])
        writer.writerows([getattr(epoch, name) for name in COLUMNS] for epoch in self._history)
        write_atomic(self._folder / "history.csv", text.getvalue().encode())
