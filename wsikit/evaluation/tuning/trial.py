"""One fit of a trial: some inner training patients, and what the model says of the inner patients left out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from wsikit.cohort.bags import Bags
from wsikit.cohort.endpoints import Endpoint, Target
from wsikit.cohort.splits import hold_out
from wsikit.cohort.table import CohortSlide
from wsikit.errors import ConfigError
from wsikit.evaluation.tuning.space import Value, changed
from wsikit.tasks.task import Values
from wsikit.training.fit import fit, outputs_of
from wsikit.training.settings import ModelSettings, TrainingSettings

Rows = npt.NDArray[np.int64]
Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass(frozen=True)
class TrialData:
    """What all fits of a run have in common: no outcome is in it.

    Attributes:
        token: Of the run; a worker keeps the bags of one run.
        slides: Of every patient.
        encoder: Of the features.
        cache_gb: Memory for them.
        graphs: Folder that keeps graphs which take long to build; None where there are none of these.
        endpoint: What is predicted.
        model: As configured.
        training: As configured.
        watch_share: Of the inner training patients that watch, where the best epoch is kept.
    """

    token: str
    slides: tuple[tuple[CohortSlide, ...], ...]
    encoder: str
    cache_gb: float
    graphs: Path | None
    endpoint: Endpoint
    model: ModelSettings
    training: TrainingSettings
    watch_share: float


@dataclass(frozen=True)
class TrialFit:
    """One fit.

    Attributes:
        values: The trial's settings, by full names.
        target: Of every patient, with the outcomes of all but the study's own hidden; see :func:`hidden`.
        train: Positions of those that fit the model.
        judged: Of those that it is judged on.
        seed: Of the training.
    """

    values: Mapping[str, Value]
    target: Target
    train: Rows
    judged: Rows
    seed: int


@dataclass(frozen=True)
class FitOutcome:
    """What came of it.

    Attributes:
        prediction: (n, K) of the judged patients; None where it failed.
        loss: Of them; NaN where it failed.
        epochs: How many were trained.
        cpu_s: Processor time.
        problem: Why it failed, or "".
    """

    prediction: Values | None
    loss: float
    epochs: int
    cpu_s: float
    problem: str = ""


def hidden(target: Target, rows: Rows) -> Target:
    """The target with every outcome but those of ``rows`` replaced by that of the first of them.

    What a trial is given thus does not hold the outcome of a tested patient at all.
    """
    mine = np.full(len(target), rows[0])
    mine[rows] = rows
    return target.take(mine)


_ALONE = threading.Lock()
_KEPT: dict[str, Bags] = {}


def fit_trial(data: TrialData, wanted: TrialFit) -> FitOutcome:
    """Fit and judge; runs in a worker, on one thread, one at a time in a process.

    Where ``keep`` is ``best`` a share of the training patients is kept apart to watch: a patient who chose the epoch
    would judge it too kindly. Where it is ``last`` nobody chooses, and the judged patients themselves are watched.
    """
    return alone(partial(_timed, data), wanted)


def alone(function: Callable[[Job], Result], job: Job) -> Result:
    """A function's result; a second one in this process waits: torch's generator and its threads are the process's."""
    import torch

    with _ALONE:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return function(job)
        finally:
            torch.set_num_threads(threads)


def _timed(data: TrialData, wanted: TrialFit) -> FitOutcome:
    began = time.process_time()
    try:
        prediction, loss, epochs = _fit(data, wanted)
    except ConfigError as e:  # settings that do not go together: a trial's own fault
        return FitOutcome(None, float("nan"), 0, time.process_time() - began, str(e))
    spent = time.process_time() - began
    if not np.isfinite(prediction).all() or not np.isfinite(loss):
        return FitOutcome(None, float("nan"), epochs, spent, "the training diverged: predictions are not finite")
    return FitOutcome(prediction, loss, epochs, spent)


def _fit(data: TrialData, wanted: TrialFit) -> tuple[Values, float, int]:
    model, training = changed(data.model, data.training, wanted.values)
    training = training.model_copy(update={"seed": wanted.seed})
    bags, train, watch = _bags(data), wanted.train, wanted.judged
    if training.keep == "best":
        train, watch = hold_out(train, wanted.target, None, share=data.watch_share, seed=wanted.seed)
    found = fit(bags, data.endpoint, wanted.target, train=train, validation=watch, model=model, training=training)
    outputs = outputs_of(found.model, bags, wanted.judged)
    loss = float(found.task.loss(outputs, wanted.target.take(wanted.judged)))
    return found.task.predict(outputs), loss, len(found.history)


def _bags(data: TrialData) -> Bags:
    if data.token not in _KEPT:
        _KEPT.clear()
        budget = int(data.cache_gb * (1 << 30))
        _KEPT[data.token] = Bags(data.slides, encoder=data.encoder, cache_bytes=budget, graphs=data.graphs)
    return _KEPT[data.token]
