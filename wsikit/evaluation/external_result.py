"""What an external validation found, ready to be written, drawn and reported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsikit.cohort.table import Cohort
from wsikit.evaluation.assessment import ClassSets, Intervals
from wsikit.evaluation.external_survival import Absolute
from wsikit.evaluation.outliers import Unlikeness
from wsikit.evaluation.recalibration import Recalibration
from wsikit.evaluation.recalibration_survival import RiskRecalibration
from wsikit.evaluation.result import ModelResult, SubgroupResult
from wsikit.evaluation.risk_groups import LogRank


@dataclass(frozen=True)
class ExternalResult:
    """Models on patients who had no part in them.

    Attributes:
        out: Folder of the results.
        cohort: Patients, slides, exclusions.
        columns: Names of the prediction's columns.
        model: As it was trained: this is the result.
        recalibrated: A second one, whose probabilities were learnt on these patients; None unless asked for. Of
            survival its prediction is the risk at the horizon, (P, 1).
        recalibration: Learnt on all of them, for use on further ones; None likewise.
        models: How many were averaged.
        trained: On how many patients.
        threshold: Of the probability, from the training; None unless there are two classes.
        cuts: What the threshold, or the cut of the risk, was chosen on.
        calls: (P,) class or risk group by the models' own cut points, "" where they have none.
        unlike: How unlike the training patients they are.
        sets: Prediction sets or intervals, where asked for.
        absolute: Risks at a time; None unless survival.
        log_rank: Test of the risk groups; None unless survival, or where there is one group only.
        notes: What a careful reader has to be told of this cohort.
        manifest: ``external.json``.
        subgroups: The models as they were trained among patients of a site, sex, age: those that were asked for.
    """

    out: Path
    cohort: Cohort
    columns: tuple[str, ...]
    model: ModelResult
    recalibrated: ModelResult | None
    recalibration: Recalibration | RiskRecalibration | None
    models: int
    trained: int
    threshold: float | None
    cuts: str
    calls: tuple[str, ...]
    unlike: Unlikeness | None
    sets: ClassSets | Intervals | None
    absolute: Absolute | None
    log_rank: LogRank | None
    notes: tuple[str, ...]
    manifest: dict[str, Any]
    subgroups: tuple[SubgroupResult, ...] = ()
