"""The figures of an external validation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wsikit.cohort.endpoints import ClassTarget, ContinuousTarget, SurvivalTarget
from wsikit.evaluation.external_result import ExternalResult
from wsikit.evaluation.external_survival import risk_calibration
from wsikit.evaluation.result import ModelResult
from wsikit.figures.calibration import CalibrationPoints, draw_calibration
from wsikit.figures.decision_curve import DecisionCurve, draw_decision_curve
from wsikit.figures.kaplan_meier import KaplanMeierGroup, draw_kaplan_meier
from wsikit.figures.look import COLOURS
from wsikit.figures.roc import RocCurve, draw_roc
from wsikit.figures.scatter import draw_scatter
from wsikit.metrics import UndefinedMetricError, net_benefit, roc_auc
from wsikit.reports.pictures import Shown, drawn_calibration, drawn_points, written
from wsikit.reports.words import interval_text, value_text

if TYPE_CHECKING:
    pass

_WILSON = "how many of them were positive (with 95 % Wilson intervals)"


def external_figures(result: ExternalResult, folder: Path) -> list[Shown]:
    """Every figure that the endpoint has, each written into the folder."""
    target = result.cohort.target
    if isinstance(target, ClassTarget):
        two = [_decision(result, target, folder)] if len(target.classes) == 2 else []
        return [*_roc(result, target, folder), _calibration(result, target, folder), *two]
    if isinstance(target, SurvivalTarget):
        return [_kaplan_meier(result, target, folder), *_risk(result, target, folder)]
    if isinstance(target, ContinuousTarget):
        figure = draw_scatter(target.value, result.model.prediction[:, 0], name=str(result.cohort.endpoint.title))
        caption = "Each point is a patient; on the dashed line both are equal."
        return [written(figure, folder / "scatter.png", "Predicted against true values", caption)]
    return []


def _roc(result: ExternalResult, target: ClassTarget, folder: Path) -> list[Shown]:
    curves, one = [], np.zeros(len(target), np.int64)
    for number, name in enumerate(target.classes):
        if len(target.classes) == 2 and number == 0:
            continue  # the mirror image of the other
        positive, score = target.label == number, result.model.prediction[:, number]
        try:
            auc = f"AUC {roc_auc(score, positive):.2f}"
        except UndefinedMetricError:
            continue
        if len(target.classes) == 2:
            title, auc = (
                result.model.name,
                f"AUC {value_text(result.model.metrics[0])} ({interval_text(result.model.metrics[0])})",
            )
        else:
            title = f"class {name} against the others"
        curves.append(RocCurve(title, score, positive, one, auc))
    if not curves:
        return []
    caption = "Sensitivity and false positive rate at every threshold."
    if result.threshold is not None:
        at = {m.name: value_text(m) for m in result.model.metrics}
        caption += (
            f" At the one of the training ({result.threshold:.3g}) the sensitivity is {at['sensitivity']} and the "
            f"specificity {at['specificity']}."
        )
    return [written(draw_roc(curves[: len(COLOURS)]), folder / "roc.png", "ROC curve", caption)]


def _calibration(result: ExternalResult, target: ClassTarget, folder: Path) -> Shown:
    curves = []
    if len(target.classes) == 2:
        for model in filter(None, (result.model, result.recalibrated)):
            bins = drawn_calibration(model.prediction[:, 1], target.label == 1)
            curves.append(CalibrationPoints(model.name, bins.predicted, bins.observed, bins.patients, _numbers(model)))
    else:
        for number, name in enumerate(target.classes):
            bins = drawn_calibration(result.model.prediction[:, number], target.label == number)
            title = f"class {name} against the others"
            curves.append(CalibrationPoints(title, bins.predicted, bins.observed, bins.patients))
    caption = (
        f"Each point is about {round(len(target) / drawn_points(len(target)))} patients: their mean probability, and "
        f"{_WILSON}. On the dashed line probabilities mean what they say."
    )
    figure = draw_calibration(curves[: len(COLOURS)])
    return written(figure, folder / "calibration.png", "Calibration curve", caption)


def _numbers(model: ModelResult) -> str:
    wanted = ("calibration slope", "calibration intercept")
    found = [m for m in model.metrics if m.name in wanted]
    return ", ".join(f"{m.name.removeprefix('calibration ')} {value_text(m)}" for m in found)


def _decision(result: ExternalResult, target: ClassTarget, folder: Path) -> Shown:
    cuts, positive = np.linspace(0.01, 0.9, 90), target.label == 1
    curves = [
        DecisionCurve(m.name, net_benefit(np.clip(m.prediction[:, 1], 0, 1), positive, thresholds=cuts))
        for m in filter(None, (result.model, result.recalibrated))
    ]
    everybody = net_benefit(np.ones(len(positive)), positive, thresholds=cuts)
    caption = (
        "What acting on the model gains, in true positives per patient, for those who would act from this probability "
        "on. It is of use where it is above both 'treat all' and 0."
    )
    figure = draw_decision_curve(cuts, curves, everybody)
    return written(figure, folder / "decision.png", "Decision curve", caption)


def _kaplan_meier(result: ExternalResult, target: SurvivalTarget, folder: Path) -> Shown:
    calls = np.array(result.calls)
    groups = [
        KaplanMeierGroup(f"{name} risk", target.time[calls == name], target.event[calls == name])
        for name in ("low", "high")
        if (calls == name).any()
    ] or [KaplanMeierGroup("all patients", target.time, target.event)]
    note = "cut at the training's median risk"
    if result.log_rank is not None:
        few = result.log_rank.p_permutation <= 1 / (1 + result.log_rank.permutations)
        sign = "\N{LESS-THAN OR EQUAL TO}" if few else "="
        note = f"log-rank p {sign} {result.log_rank.p_permutation:.2g} (by permutation); {note}"
    caption = "Nobody here had a part in the cut between low and high risk. Bands are pointwise 95 % intervals."
    figure = draw_kaplan_meier(groups, unit=target.unit, note=note)
    return written(figure, folder / "kaplan_meier.png", "Kaplan-Meier curves of the risk groups", caption)


def _risk(result: ExternalResult, target: SurvivalTarget, folder: Path) -> list[Shown]:
    assert result.absolute is not None
    found = risk_calibration(result.absolute, target)
    if not len(found.patients):
        return []
    until = f"{result.absolute.horizon:.4g} {result.absolute.unit}"
    points = [
        CalibrationPoints(
            f"risk until {until}", found.predicted, found.observed, found.patients, _numbers(result.model)
        )
    ]
    if result.recalibrated is not None:
        again = risk_calibration(replace(result.absolute, risk=result.recalibrated.prediction[:, 0]), target)
        name = result.recalibrated.name
        points.append(
            CalibrationPoints(name, again.predicted, again.observed, again.patients, _numbers(result.recalibrated))
        )
    caption = (
        f"Patients by their predicted risk of the event until {until}, and the share that had it (Kaplan-Meier, with "
        "95 % Wilson intervals of the effective number of patients)."
    )
    figure = draw_calibration(points)
    return [written(figure, folder / "risk_calibration.png", "Predicted and observed risk", caption)]
