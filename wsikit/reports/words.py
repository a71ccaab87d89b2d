"""Numbers and findings in words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wsikit.cohort.endpoints import ClassTarget, ContinuousTarget, SurvivalTarget, Target
from wsikit.cohort.several_labels import LabelsTarget
from wsikit.cohort.several_outcomes import SeveralTarget
from wsikit.evaluation.bootstrap import Interval
from wsikit.evaluation.result import CrossvalResult, Metric

MINUS = "\N{MINUS SIGN}"

ALWAYS = (
    "Intervals say how a number would vary with other patients of the same kind. They are conditional on the fitted "
    "models: what other training patients or seeds would change is not in them.",
    "Patients are compared with others of their own fold only, as predictions of differently fitted models are on "
    "different scales.",
    "Cross-validation estimates how well this recipe works on patients like these. Other hospitals, scanners and "
    "stains are another question; only an external cohort answers it.",
)
"""What holds for every cross-validation."""


def decimals_of(values: Sequence[float]) -> int:
    """Decimals that show numbers of this size: two for AUCs, more where all are small, fewer from ten on."""
    largest = max((abs(v) for v in values if np.isfinite(v)), default=0.0)
    if largest >= 10:
        return 1 if largest < 100 else 0
    if largest >= 0.095 or largest == 0:
        return 2
    return min(6, 1 - int(np.floor(np.log10(largest))))


def number_text(value: float, decimals: int = 2, *, signed: bool = False) -> str:
    """A number with a true minus sign; ``signed`` also shows the plus."""
    text = f"{value:{'+' if signed else ''}.{decimals}f}"
    if not float(text):  # "-0.00" claims a direction that is not there
        text = text.lstrip("+-")
    return text.replace("-", MINUS)


def value_text(metric: Metric, *, signed: bool = False) -> str:
    """A metric's value, or "not defined"."""
    if metric.value is None:
        return "not defined"
    return number_text(metric.value, decimals_of([metric.value, *_ends(metric.interval)]), signed=signed)


def interval_text(metric: Metric, *, signed: bool = False) -> str:
    """``0.79 to 0.94``, with as many decimals as the value; "" where there is no interval."""
    if metric.interval is None or metric.value is None:
        return ""
    decimals = decimals_of([metric.value, *_ends(metric.interval)])
    return " to ".join(number_text(end, decimals, signed=signed) for end in _ends(metric.interval))


def level_text(interval: Interval) -> str:
    """``95 %``."""
    return f"{100 * interval.level:g} %"


def headline(result: CrossvalResult) -> str:
    """The result in one sentence, with its interval and the main metric of every baseline."""
    main = result.model.metrics[0]
    patients = counted(len(result.cohort), "patient")
    if main.value is None:
        return f"{_capital(main.name)} is not defined over {patients}: {main.note}."
    between = ""
    if main.interval is not None:
        between = f" ({level_text(main.interval)} interval {interval_text(main)})"
    beside = [f"{b.name} alone {value_text(b.metrics[0])}" for b in result.baselines]
    return f"{_capital(main.name)} {value_text(main)}{between} over {patients}" + "; ".join(["", *beside]) + "."


def counted(n: int, singular: str) -> str:
    """``1 patient``, ``1,204 patients``."""
    return f"{n:,} {singular}{'' if n == 1 else 's'}"


def cautions(result: CrossvalResult) -> list[str]:
    """What a careful reader has to be told: first what is particular to this run."""
    found = list(result.notes)
    main = result.model.metrics[0]
    target = result.cohort.target
    ranked = isinstance(target, ContinuousTarget) or (isinstance(target, ClassTarget) and target.ordered)
    chance = 0.0 if ranked else 0.5
    if main.interval is not None and main.interval.low <= chance:
        found.append(
            f"The interval of {main.name}, {interval_text(main)}, includes {chance:g}: guessing is not ruled out."
        )
    for metric, baseline in zip(result.differences, result.baselines, strict=True):
        if metric.value is None or metric.interval is None or metric.interval.low > 0:
            continue
        seen = f"{value_text(metric, signed=True)}, interval {interval_text(metric, signed=True)}"
        if metric.value <= 0:
            found.append(f"It is not better than {baseline.name}: the difference is {seen}.")
        else:
            found.append(f"The advantage over {baseline.name} is not established: it is {seen}.")
    metrics = [m for model in (result.model, *result.baselines) for m in model.metrics]
    failed = [m for m in metrics if m.interval is not None and m.interval.failed > 0.02 * m.interval.draws]
    if failed:
        names = ", ".join(dict.fromkeys(m.name for m in failed))
        found.append(f"More than 2 % of the resamples had no value of {names}; such intervals are too narrow.")
    return [*found, *ALWAYS]


def makeup(target: Target) -> str:
    """Who the patients are: counts of classes, events, or the mean."""
    if isinstance(target, ClassTarget):
        counts = np.bincount(target.label, minlength=len(target.classes)).tolist()
        return ", ".join(f"{name}: {n}" for n, name in zip(counts, target.classes, strict=True))
    if isinstance(target, SurvivalTarget):
        return counted(int(target.event.sum()), "event")
    if isinstance(target, LabelsTarget):
        return ", ".join(f"{name}: {yes} of {yes + no}" for name, yes, no in target.counts())
    if isinstance(target, SeveralTarget):
        return "; ".join(f"{n} {makeup(p.target)}" for n, p in zip(target.names, target.parts, strict=True))
    mean = float(target.value.mean()) if len(target) else float("nan")
    return f"mean {number_text(mean, decimals_of([mean]))}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _ends(interval: Interval | None) -> tuple[float, ...]:
    return () if interval is None else (interval.low, interval.high)
