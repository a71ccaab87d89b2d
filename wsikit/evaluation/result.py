"""What a cross-validation found, ready to be written, drawn and reported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.cohort.split_audit import SplitAudit
from wsikit.cohort.splits import Splits
from wsikit.cohort.table import Cohort
from wsikit.evaluation.bootstrap import Interval
from wsikit.evaluation.risk_groups import LogRank
from wsikit.evaluation.settings import Experiment
from wsikit.training.fit import Epoch


@dataclass(frozen=True)
class Metric:
    """One number with its interval.

    Attributes:
        name: "AUC", "Harrell's C", "sensitivity", ...
        value: None where it is not defined; ``note`` says why.
        interval: Over patients, conditional on the fitted models; None where there is none.
        note: What a reader has to know about this number, or "".
    """

    name: str
    value: float | None
    interval: Interval | None = None
    note: str = ""


@dataclass(frozen=True)
class Round:
    """Out-of-fold predictions of one cross-validation of several, with folds of its own.

    Attributes:
        prediction: (P, K) float64.
        fold: (P,) int64, the fold that tested each patient.
        threshold: (P,) probability above which a patient is called positive, or None.
    """

    prediction: npt.NDArray[np.float64]
    fold: npt.NDArray[np.int64]
    threshold: npt.NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Repeat:
    """A further cross-validation of the same recipe.

    Attributes:
        splits: Its folds.
        round: What its models say.
        members: Its models.
    """

    splits: Splits
    round: Round
    members: tuple[Member, ...]


@dataclass(frozen=True)
class SubgroupResult:
    """The model among some of the patients.

    Attributes:
        column: Of the table.
        name: "F", "age below 65".
        rows: (n,) positions of the patients.
        metrics: As of the model; those that cannot be had among so few say why.
    """

    column: str
    name: str
    rows: npt.NDArray[np.int64]
    metrics: tuple[Metric, ...]


@dataclass(frozen=True)
class ModelResult:
    """Out-of-fold predictions of one model, and how good they are.

    Attributes:
        name: "abmil on texture", "mean of colour", "number of tiles".
        prediction: (P, K) float64 in the order of the cohort's patients.
        metrics: The task's own first.
    """

    name: str
    prediction: npt.NDArray[np.float64]
    metrics: tuple[Metric, ...]


@dataclass(frozen=True)
class Member:
    """One fitted model of a fold.

    Attributes:
        fold: Whose test patients it has never seen.
        number: Among the models of its fold.
        train: How many patients fitted it.
        validation: How many watched it.
        best: Epoch whose weights were kept.
        history: Every epoch.
        bundle: The model on disk.
    """

    fold: int
    number: int
    train: int
    validation: int
    best: int
    history: tuple[Epoch, ...]
    bundle: Path


@dataclass(frozen=True)
class CrossvalResult:
    """A cross-validation.

    Attributes:
        experiment: What was asked.
        cohort: Patients, slides, exclusions.
        splits: Who was tested when.
        fold: (P,) int64, the fold that tested each patient.
        columns: Names of the prediction's columns.
        model: What was cross-validated.
        baselines: Simpler models on the same folds: a result that does not beat them says little.
        differences: The model's main metric minus each baseline's, paired by patient.
        members: Every fitted model.
        attention: Of each patient the weights over the tiles of the bag (N,), summing to 1, or None.
        threshold: (P,) probability above which a patient is called positive, from the inner validation
            patients of the patient's fold; None unless there are two classes.
        risk_group: (P,) int64, 0 = low: by the median risk of the fold's training patients; None
            unless survival, or where a model has collapsed.
        log_rank: Test of the groups; None unless survival, or where there is one group only.
        notes: What a careful reader has to be told: collapsed predictions, undefined numbers.
        manifest: ``run.json``.
        audit: What tested patients have in common with the others of their folds; None where nobody looked.
        subgroups: The model's metrics among patients of a site, sex, age: those that were asked for.
        repeats: Further cross-validations with other folds. Metrics are means over all; what is of one patient
            (predictions, groups, attention, figures) is of the first.
        scratch: Models trained from scratch to compare with, where the others start from given weights.
        first_column: Of an outcome that was learnt with others: where its columns begin in what the models predict.
    """

    experiment: Experiment
    cohort: Cohort
    splits: Splits
    fold: npt.NDArray[np.int64]
    columns: tuple[str, ...]
    model: ModelResult
    baselines: tuple[ModelResult, ...]
    differences: tuple[Metric, ...]
    members: tuple[Member, ...]
    attention: tuple[npt.NDArray[np.float32] | None, ...]
    threshold: npt.NDArray[np.float64] | None
    risk_group: npt.NDArray[np.int64] | None
    log_rank: LogRank | None
    notes: tuple[str, ...]
    manifest: Mapping[str, Any]
    audit: SplitAudit | None = None
    subgroups: tuple[SubgroupResult, ...] = ()
    repeats: tuple[Repeat, ...] = ()
    scratch: tuple[Member, ...] = ()
    first_column: int = 0

    @property
    def out(self) -> Path:
        """The folder of the results."""
        return self.experiment.out
