"""Who is in which study: each fold's other patients for the estimate, all of them for the final model."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import numpy.typing as npt

from wsikit.cohort.endpoints import Target
from wsikit.cohort.site_splits import inner_site_splits
from wsikit.cohort.splits import Fold, Splits, inner_splits
from wsikit.cohort.table import Cohort
from wsikit.config import config_hash
from wsikit.evaluation.members import REPEAT_SEED, member_seed, plan_members
from wsikit.evaluation.settings import Experiment
from wsikit.evaluation.tuning.trial import hidden

Rows = npt.NDArray[np.int64]
Purpose = Literal["both", "estimate", "model"]


@dataclass(frozen=True)
class Part:
    """One fit of every trial of a study.

    Attributes:
        train: Positions of the patients that fit it.
        judged: Of those that it is judged on.
        seed: Of its training.
    """

    train: Rows
    judged: Rows
    seed: int


@dataclass(frozen=True)
class StudyPlan:
    """One study.

    Attributes:
        name: In the journal: ``fold-1``, ``repeat-2-fold-1``, ``model``.
        title: For people: "fold 1".
        seed: What tells its sampler from the others'.
        rows: Positions of its patients, sorted; of nobody else is an outcome known to it.
        target: Of every patient, all other outcomes hidden.
        parts: Its inner folds.
    """

    name: str
    title: str
    seed: tuple[int, ...]
    rows: Rows
    target: Target
    parts: tuple[Part, ...]

    def digest(self, patients: Sequence[str]) -> str:
        """Hash of who is judged by whom, and of their outcomes; 64 hex digits.

        Args:
            patients: Names of all.
        """
        outcome, mine = hashlib.sha256(), self.target.take(self.rows)
        for one in fields(mine):
            value = getattr(mine, one.name)
            outcome.update(value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode())
        roles = [
            [[patients[i] for i in part.train], [patients[i] for i in part.judged], part.seed] for part in self.parts
        ]
        return config_hash([roles, outcome.hexdigest()])


def plan_folds(experiment: Experiment, cohort: Cohort, dealt: Sequence[Splits]) -> list[StudyPlan]:
    """A study for each fold of each cross-validation, on the inner folds that its models will have."""
    studies = []
    for repeat, splits in enumerate(dealt):
        jobs = plan_members(experiment, cohort, splits, repeat=repeat)
        for number in range(len(splits.folds)):
            parts = tuple(
                Part(job.train, job.validation, member_seed(experiment, repeat, job.number))
                for job in jobs
                if job.fold == number
            )
            again = f"repeat-{repeat + 1}-" if repeat else ""
            title = f"repeat {repeat + 1}, fold {number + 1}" if repeat else f"fold {number + 1}"
            studies.append(_study(f"{again}fold-{number + 1}", title, (repeat, number + 1), cohort, parts))
    return studies


def plan_model(experiment: Experiment, cohort: Cohort, roles: Fold) -> StudyPlan:
    """The study of the final model: its training patients, those that will watch it included."""
    wanted, fold = experiment.splits, Fold(roles.train, roles.validation, ())
    seed = (wanted.seed + REPEAT_SEED * wanted.repeats) * 1000
    if wanted.site is None:
        parts = inner_splits(fold, cohort, parts=wanted.inner_folds, seed=seed)
    else:
        parts = inner_site_splits(fold, cohort, site=wanted.site, parts=wanted.inner_folds, seed=seed)
    found = tuple(Part(train, watch, member_seed(experiment, 0, j)) for j, (train, watch) in enumerate(parts))
    return _study("model", "final model", (0, 0), cohort, found)


def _study(name: str, title: str, seed: tuple[int, ...], cohort: Cohort, parts: tuple[Part, ...]) -> StudyPlan:
    rows = np.unique(np.concatenate([rows for part in parts for rows in (part.train, part.judged)]))
    return StudyPlan(name, title, seed, rows, hidden(cohort.target, rows), parts)
