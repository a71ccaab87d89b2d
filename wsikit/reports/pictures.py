"""The figures of a cross-validation: which one suits the endpoint, written and embedded."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from wsikit.cohort.endpoints import ClassTarget, ContinuousTarget, SurvivalTarget
from wsikit.cohort.several_labels import LabelsTarget
from wsikit.evaluation.result import CrossvalResult, Metric, ModelResult, SubgroupResult
from wsikit.figures.calibration import CalibrationPoints, draw_calibration
from wsikit.figures.decision_curve import DecisionCurve, draw_decision_curve
from wsikit.figures.forest import ForestRow, draw_forest
from wsikit.figures.kaplan_meier import KaplanMeierGroup, draw_kaplan_meier
from wsikit.figures.look import COLOURS
from wsikit.figures.roc import RocCurve, draw_roc
from wsikit.figures.scatter import draw_scatter
from wsikit.figures.training_curves import TrainingCurve, draw_training_curves
from wsikit.metrics import UndefinedMetricError, calibration_curve, net_benefit, roc_auc
from wsikit.metrics.calibration import CalibrationCurve
from wsikit.reports.cases import group_name
from wsikit.reports.words import counted, interval_text, value_text
from wsikit.store.objects import write_atomic
from wsikit.tasks.task import Values

if TYPE_CHECKING:
    from matplotlib.figure import Figure


CUT = "groups are cut at the median risk of each fold's training patients"


@dataclass(frozen=True)
class Shown:
    """A figure in the report.

    Attributes:
        source: A data URI.
        width_px: At which its text has the size of the report's.
        alt: What it shows, for those who cannot see it.
        caption: How to read it.
    """

    source: str
    width_px: int
    alt: str
    caption: str


def main_figure(result: CrossvalResult, folder: Path) -> Shown | None:
    """The figure of the endpoint, written as ``roc.png``, ``kaplan_meier.png`` or ``scatter.png``.

    None where no fold can be drawn: a ROC curve needs both classes in one fold.
    """
    target = result.cohort.target
    if isinstance(target, ClassTarget | LabelsTarget):
        curves = _curves(result, target) if isinstance(target, ClassTarget) else _label_curves(result, target)
        if not curves:
            return None
        caption = (
            "Each thin line is a fold, each bold one the mean of the folds. The AUC in the legend is pooled over "
            "pairs of patients of one fold."
        )
        return written(draw_roc(curves), folder / "roc.png", "ROC curves", caption)
    if isinstance(target, SurvivalTarget):
        return _survival(result, target, folder)
    assert isinstance(target, ContinuousTarget)
    title = getattr(result.cohort.endpoint, "column", "value")
    figure = draw_scatter(target.value, result.model.prediction[:, 0], name=str(title))
    caption = "Each point is a patient, predicted by models that have not seen them; on the dashed line both are equal."
    return written(figure, folder / "scatter.png", "Predicted against true values", caption)


def drawn_points(patients: int) -> int:
    """Points of a calibration curve: ten, and fewer where one would stand for less than ten patients."""
    return min(10, max(1, patients // 10))


def drawn_calibration(probability: Values, positive: npt.NDArray[np.bool_]) -> CalibrationCurve:
    """The curve of so many points, from probabilities (P,) that may stick out of 0 to 1 by rounding."""
    return calibration_curve(np.clip(probability, 0, 1), positive, bins=drawn_points(len(positive)))


def calibration_figure(result: CrossvalResult, folder: Path) -> Shown | None:
    """Calibration of the model's probabilities, written as ``calibration.png``; None unless there are classes."""
    target = result.cohort.target
    if not isinstance(target, ClassTarget):
        return None
    two = len(target.classes) == 2
    wanted = ("calibration slope", "calibration intercept")
    numbers = [m for m in result.model.metrics if m.name in wanted]
    label = ", ".join(f"{m.name.removeprefix('calibration ')} {value_text(m)}" for m in numbers)
    found = []
    for number, name in enumerate(target.classes):
        if two and number == 0:
            continue  # the mirror image of the other
        bins = drawn_calibration(result.model.prediction[:, number], target.label == number)
        title = result.model.name if two else f"class {name} against the others"
        found.append(CalibrationPoints(title, bins.predicted, bins.observed, bins.patients, label))
    caption = (
        f"Each point is about {round(len(target) / drawn_points(len(target)))} patients, out of fold: their mean "
        "probability, and how many of them were positive (with 95 % Wilson intervals). On the dashed line "
        "probabilities mean what they say."
    )
    figure = draw_calibration(found[: len(COLOURS)])
    return written(figure, folder / "calibration.png", "Calibration curve", caption)


def decision_figure(result: CrossvalResult, folder: Path) -> Shown | None:
    """Net benefit of model and baselines, written as ``decision.png``; None unless there are two classes."""
    target = result.cohort.target
    if not isinstance(target, ClassTarget) or len(target.classes) != 2:
        return None
    cuts, positive = np.linspace(0.01, 0.9, 90), target.label == 1
    curves = [
        DecisionCurve(m.name, net_benefit(np.clip(m.prediction[:, 1], 0, 1), positive, thresholds=cuts))
        for m in (result.model, *result.baselines)
    ]
    everybody = net_benefit(np.ones(len(positive)), positive, thresholds=cuts)
    caption = (
        "What acting on a model gains, in true positives per patient, for those who would act from this probability "
        "on. A model is of use where it is above both 'treat all' and 0."
    )
    figure = draw_decision_curve(cuts, curves[: len(COLOURS)], everybody)
    return written(figure, folder / "decision.png", "Decision curve", caption)


def training_figure(result: CrossvalResult, folder: Path) -> Shown | None:
    """Losses of every fitted model, written as ``training.png``; None where none has a history."""
    curves = [
        TrainingCurve(
            f"fold {m.fold + 1}", [e.train_loss for e in m.history], [e.validation_loss for e in m.history], m.best
        )
        for m in result.members
        if m.history
    ]
    if not curves:
        return None
    caption = (
        "One line for each fitted model. The training loss is the mean over an epoch's steps, the validation loss that "
        "after it. No tested patient is in either."
    )
    return written(draw_training_curves(curves), folder / "training.png", "Training curves", caption)


def subgroup_figure(groups: Sequence[SubgroupResult], model: ModelResult, folder: Path) -> Shown | None:
    """The main metric of every subgroup, below that of all; written as ``subgroups.png``, None where none has it."""
    main, path = model.metrics[0], folder / "subgroups.png"
    path.unlink(missing_ok=True)  # an earlier run's
    rows = [
        ForestRow(name, metric.value, metric.interval.low, metric.interval.high)
        for name, metric in [("all patients", main), *((_group_words(group), group.metrics[0]) for group in groups)]
        if metric.value is not None and metric.interval is not None
    ]
    missing = 1 + len(groups) - len(rows)
    if not groups or len(rows) < 2:
        return None
    caption = f"{main.name} with its interval; the dashed line is that of all patients."
    if missing:
        caption += f" Without it: {counted(missing, 'group')}; the table says why."
    figure = draw_forest(rows, name=main.name, reference=main.value)
    return written(figure, path, f"{main.name} of each subgroup", caption)


def _group_words(group: SubgroupResult) -> str:
    name = group.name if group.name.startswith(group.column) else f"{group.column}: {group.name}"
    return f"{name} ({counted(len(group.rows), 'patient')})"


def data_uri(content: bytes, kind: str) -> str:
    """A picture inside the page; ``kind`` is png or jpeg."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _curves(result: CrossvalResult, target: ClassTarget) -> list[RocCurve]:
    """The model and its baselines; of more than two classes, each against the others; none where no fold has a pair."""
    if len(target.classes) == 2:
        if not any(len(np.unique(target.label[result.fold == number])) == 2 for number in np.unique(result.fold)):
            return []
        found = [
            RocCurve(
                model.name,
                model.prediction[:, 1],
                target.label == 1,
                result.fold,
                _auc(model.metrics[0]),
                thin=not number,
            )
            for number, model in enumerate((result.model, *result.baselines))
        ]
        return found[: len(COLOURS)]
    found = []
    for number, name in enumerate(target.classes):
        positive, score = target.label == number, result.model.prediction[:, number]
        try:
            auc = roc_auc(score, positive, groups=result.fold)
        except UndefinedMetricError:
            continue
        found.append(RocCurve(f"class {name} against the others", score, positive, result.fold, f"AUC {auc:.2f}"))
    return found[: len(COLOURS)]


def _label_curves(result: CrossvalResult, target: LabelsTarget) -> list[RocCurve]:
    """The model on each label, over the patients who have it known; none of a label without a pair in any fold."""
    found = []
    for number, name in enumerate(target.names):
        mine = target.known[:, number]
        positive, score, fold = (
            target.positive[mine, number],
            result.model.prediction[mine, number],
            result.fold[mine],
        )
        try:
            auc = roc_auc(score, positive, groups=fold)
        except UndefinedMetricError:
            continue
        found.append(RocCurve(name, score, positive, fold, f"AUC {auc:.2f}"))
    return found[: len(COLOURS)]


def _auc(main: Metric) -> str:
    between = interval_text(main)
    return f"{main.name} {value_text(main)}" + (f" ({between})" if between else "")


def _survival(result: CrossvalResult, target: SurvivalTarget, folder: Path) -> Shown:
    group, test = result.risk_group, result.log_rank
    if group is None or len(np.unique(group)) < 2:
        groups = [KaplanMeierGroup("all patients", target.time, target.event)]
        note = "all patients are in one risk group" if group is not None else "there are no risk groups"
    else:
        groups = [
            KaplanMeierGroup(group_name(int(g)), target.time[group == g], target.event[group == g])
            for g in np.unique(group)
        ]
        note = CUT
        if test is not None:
            few = test.p_permutation <= 1 / (1 + test.permutations)
            sign = "\N{LESS-THAN OR EQUAL TO}" if few else "="
            note = (
                f"log-rank p {sign} {test.p_permutation:.2g} ({test.permutations:,} permutations inside folds); {CUT}"
            )
    caption = (
        "The tested patients had no part in the cut between low and high risk. Bands are pointwise 95 % "
        "intervals; upright ticks are patients last seen without the event."
    )
    figure = draw_kaplan_meier(groups, unit=target.unit, note=note)
    return written(figure, folder / "kaplan_meier.png", "Kaplan-Meier curves of the risk groups", caption)


def written(figure: Figure, path: Path, alt: str, caption: str) -> Shown:
    """A figure as a PNG file and in the page."""
    content = BytesIO()
    figure.savefig(content, format="png")
    write_atomic(path, content.getvalue())
    return Shown(data_uri(content.getvalue(), "png"), round(float(figure.get_figwidth()) * 92), alt, caption)
