"""The course of a training in MLflow: asked for by name, in a file of the results unless told otherwise."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from wsikit.errors import ConfigError
from wsikit.training.epoch import Epoch, curves

FORCED = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}
"""From its import on MLflow tells its makers how it is used, and prints addresses, unless told not to."""

PATIENCE = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
}
"""How long an epoch waits for a server, where the user has set nothing. MLflow's own waits take minutes."""

NO_ARTIFACTS = "mlflow-artifacts:/"
"""Where artifacts would be, says a file that is made here. MLflow itself writes the path of the working folder."""

AT_ONCE = 100
"""Parameters that MLflow takes in one call."""

SQLITE = "sqlite:///"


class MlflowLog:
    """Writes the epochs of a training as a run of MLflow.

    Of the user, the machine, the code and the folders nothing is logged; of the patients nothing but the numbers of
    :class:`~wsikit.training.epoch.Epoch`. Nothing is sent but to ``uri``, and until :meth:`close` MLflow's reports of
    its use are off.

    Args:
        folder: Where ``mlflow.db`` is, if no uri is given.
        experiment: Its name. It is made where there is none.
        uri: ``http://``, ``https://``, or ``sqlite:///`` and an absolute path; None: ``mlflow.db``. What the
            environment says (``MLFLOW_TRACKING_URI``) is not looked at.
        name: Of the run.
        config: Settings of model and training, as plain values; they become parameters: ``training.epochs``.
        before: Epochs of a training that is gone on with: they are logged first, as each call is a run of its own.

    Raises:
        ConfigError: mlflow-skinny is not installed, or the server or the file cannot be used.
    """

    def __init__(
        self,
        folder: Path,
        experiment: str,
        *,
        uri: str | None = None,
        name: str,
        config: Mapping[str, Any],
        before: Sequence[Epoch] = (),
    ) -> None:
        where = uri or f"{SQLITE}{(folder / 'mlflow.db').resolve().as_posix()}"
        self._made_at: dict[int, int] = {}
        with ExitStack() as open_until_closed:
            open_until_closed.enter_context(_environment())
            try:
                with _quiet():
                    self._begin(where, experiment, name, config, before, open_until_closed)
            except ImportError as e:
                raise ConfigError(
                    f"log: {{mlflow: ...}} needs mlflow-skinny, SQLAlchemy and alembic: {e}; "
                    "pip install 'wsikit[mlflow]'"
                ) from e
            self._open = open_until_closed.pop_all()

    def __call__(self, epoch: Epoch) -> None:
        """An epoch has ended.

        Raises:
            mlflow.exceptions.MlflowException: The server or the file does not take it.
        """
        from mlflow.entities import Metric

        # The same moment when it is told again: what has arrived after all is then no second point of the curve.
        at = self._made_at.setdefault(epoch.number, time.time_ns() // 1_000_000)
        points = [Metric(name, value, at, epoch.number) for name, value in curves(epoch).items()]
        with _quiet():
            self._client.log_batch(self._run, metrics=points, synchronous=True)

    def close(self, *, failed: bool = False) -> None:
        """No epoch will follow.

        Raises:
            mlflow.exceptions.MlflowException: The server or the file cannot be told.
        """
        with self._open, _quiet():
            self._client.set_terminated(self._run, status="FAILED" if failed else "FINISHED")

    def _begin(
        self,
        where: str,
        experiment: str,
        name: str,
        config: Mapping[str, Any],
        before: Sequence[Epoch],
        opened: ExitStack,
    ) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param
        from mlflow.exceptions import MlflowException

        try:
            made = _file(where, opened) if where.startswith(SQLITE) else None
            self._client: Any = MlflowClient(where, registry_uri=where)
            make = self._client.create_experiment if made is None else made
            run = self._client.create_run(_experiment(self._client, experiment, make), run_name=name)
            self._run: str = run.info.run_id
            settings = [Param(key, value) for key, value in _flat(config)]
            for start in range(0, len(settings), AT_ONCE):
                self._client.log_batch(self._run, params=settings[start : start + AT_ONCE], synchronous=True)
            for epoch in before:
                self(epoch)
        except (MlflowException, OSError) as e:  # no network, no permission, another version's tables
            raise ConfigError(
                f"log: MLflow cannot begin a run of {experiment!r} in {where}: {e}; without 'mlflow_uri' it is written "
                "to mlflow.db in the results"
            ) from e


def _file(where: str, opened: ExitStack) -> Callable[[str], str]:
    """Open or make a database; how an experiment is made in it.

    Raises:
        ConfigError: It cannot be written to. MLflow alone would try for minutes.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from sqlalchemy.exc import SQLAlchemyError

    path = Path(where.removeprefix(SQLITE))
    if "?" in where:
        raise ConfigError(f"log: MLflow cannot open {path}: no '?' may be in it; name another in 'mlflow_uri'")
    try:
        with closing(sqlite3.connect(path)) as database:
            database.execute("BEGIN IMMEDIATE")
        store: Any = SqlAlchemyStore(where, NO_ARTIFACTS)
    except (sqlite3.Error, SQLAlchemyError) as e:
        raise ConfigError(
            f"log: {path} cannot be opened or made as MLflow's database: {e}; expected SQLite's file, or none yet, "
            "in a folder that can be written to"
        ) from e
    opened.callback(store.engine.dispose)  # else the file is held open as long as the process lives
    make: Callable[[str], str] = store.create_experiment
    return make


def _experiment(client: Any, name: str, make: Callable[[str], str]) -> str:
    """Its id. Of several trainings that begin at once one makes it."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return make(name)
        except MlflowException:
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return str(found.experiment_id)


def _flat(values: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, str]]:
    """Settings within settings as names with dots, and their values as text, which is all that MLflow has."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{within}{name}.")
        else:
            yield f"{within}{name}", value if isinstance(value, str) else json.dumps(value)


@contextmanager
def _environment() -> Iterator[None]:
    """MLflow can be told some things in no other way."""
    told = FORCED | {name: value for name, value in PATIENCE.items() if name not in os.environ}
    before = {name: os.environ.get(name) for name in told}
    os.environ.update(told)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what it prints of an error that is raised as well, and without SQLAlchemy's word on MLflow's tables."""
    loggers = [logging.getLogger(name) for name in ("mlflow.store.db", "urllib3.connectionpool")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The ``noload`` loader strategy is deprecated", DeprecationWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
