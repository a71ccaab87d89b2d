"""The course of a training in Weights & Biases: asked for by name, on this machine's disk unless told otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wsikit.errors import ConfigError
from wsikit.training.epoch import Epoch, curves


class WandbLog:
    """Writes the epochs of a training as a run of Weights & Biases.

    Of the machine, the user's code and the console nothing is logged; of the patients nothing but the numbers of
    :class:`~wsikit.training.epoch.Epoch`.

    Args:
        folder: Where its ``wandb/`` is.
        project: Its name.
        online: Whether it is sent to their server.
        name: Of the run.
        config: Settings of model and training, as plain values.
        before: Epochs of a training that is gone on with: they are logged first, as each call is a run of its own.

    Raises:
        ConfigError: wandb is not installed, or does not begin.
    """

    def __init__(
        self,
        folder: Path,
        project: str,
        *,
        online: bool = False,
        name: str,
        config: Mapping[str, Any],
        before: Sequence[Epoch] = (),
    ) -> None:
        try:
            import wandb
        except ImportError as e:
            raise ConfigError("log: {wandb: ...} needs wandb: pip install 'wsikit[wandb]'") from e
        quiet = wandb.Settings(
            mode="online" if online else "offline",
            console="off", silent=True, disable_git=True, save_code=False,
            x_disable_stats=True, x_disable_meta=True, x_disable_machine_info=True,
        )  # fmt: skip
        try:
            self._run: Any = wandb.init(
                project=project, name=name, config=dict(config), dir=str(folder), settings=quiet
            )
        except (wandb.Error, OSError) as e:  # no login, no network, no room on the disk
            raise ConfigError(
                f"log: Weights & Biases cannot begin a run of {project!r}: {e}; without 'online: true' it is "
                "written to disk"
            ) from e
        for epoch in before:
            self(epoch)

    def __call__(self, epoch: Epoch) -> None:
        """An epoch has ended."""
        self._run.log(curves(epoch), step=epoch.number)

    def close(self, *, failed: bool = False) -> None:
        """No epoch will follow."""
        self._run.finish(exit_code=int(failed))
