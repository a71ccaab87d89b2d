"""Where the epochs of a training go: which logs are asked for, and how they begin."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import field_validator, model_validator

from wsikit.training.epoch import Epoch, EpochLog
from wsikit.training.lasting_log import LastingLog
from wsikit.training.log import TrainingLog
from wsikit.training.mlflow_log import MlflowLog
from wsikit.training.settings import Strict
from wsikit.training.wandb_log import WandbLog


class LogSettings(Strict):
    """Where the epochs of ``wsikit train`` are logged beside ``history.csv`` and TensorBoard.

    Attributes:
        wandb: Name of a Weights & Biases project; None: no such log.
        online: Whether it is sent to their server while training. Else it is written to ``wandb/`` in the results,
            and ``wandb sync`` sends it, if anybody wants that.
        mlflow: Name of an MLflow experiment; None: no such log.
        mlflow_uri: The MLflow server that it is sent to (``https://...``), or the file that several trainings share
            (``sqlite:////absolute/path/mlflow.db``). Default: ``mlflow.db`` in the results. ``MLFLOW_TRACKING_URI``
            is not looked at.
    """

    wandb: str | None = None
    online: bool = False
    mlflow: str | None = None
    mlflow_uri: str | None = None

    @field_validator("mlflow_uri")
    @classmethod
    def _server_or_file(cls, value: str | None) -> str | None:
        if value is None:
            return None
        expected = "expected https://HOST, http://HOST or sqlite:////ABSOLUTE/PATH/mlflow.db"
        if value.startswith("sqlite:///"):
            if not Path(value.removeprefix("sqlite:///")).is_absolute():
                raise ValueError(f"the path is not absolute; {expected}")
            return value
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(expected)
        if "@" in value:
            raise ValueError(
                "a configuration is no place for a password: set MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, in the environment"
            )
        return value

    @model_validator(mode="after")
    def _place_of_something(self) -> LogSettings:
        if self.mlflow_uri is not None and self.mlflow is None:
            raise ValueError("mlflow_uri says where to; name the experiment, too (mlflow: NAME)")
        return self


def begin_logs(
    settings: LogSettings,
    folder: Path,
    *,
    name: str,
    config: Mapping[str, Any],
    before: Sequence[Epoch],
    say: Callable[[str], None],
) -> list[EpochLog]:
    """All logs of a training. What is asked for comes first: where it cannot begin, no table or events are written.

    Args:
        settings: What is asked for.
        folder: The results.
        name: Of the run.
        config: Settings of model and training, as plain values.
        before: Epochs of a training that is gone on with.
        say: Called with a line of text when a log that has begun does not take an epoch.

    Raises:
        ConfigError: A log that is asked for is not installed, or cannot begin.
    """
    logs: list[EpochLog] = []
    try:
        if settings.wandb is not None:
            run = WandbLog(folder, settings.wandb, online=settings.online, name=name, config=config, before=before)
            logs.append(LastingLog(run, "Weights & Biases", say=say))
        if settings.mlflow is not None:
            entry = MlflowLog(folder, settings.mlflow, uri=settings.mlflow_uri, name=name, config=config, before=before)
            logs.append(LastingLog(entry, "MLflow", say=say))
        return [*logs, TrainingLog(folder, before)]
    except BaseException:
        for log in logs:
            log.close(failed=True)
        raise
