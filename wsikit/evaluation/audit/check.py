"""A question to a cohort, its answer, and the number behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from wsikit.evaluation.bootstrap import Interval

GREEN, AMBER, RED = "green", "amber", "red"
ALPHA = 0.05
"""Of every p value that decides a verdict."""


@dataclass(frozen=True)
class Number:
    """The number behind a verdict, beside what chance gives.

    Attributes:
        measure: "balanced accuracy", "AUC", ...
        value: It.
        chance: What it would be by chance.
        interval: Over patients, or None.
        random: (M,) the same number under chance, for the picture; empty where it was not drawn.
        others: Further numbers of the same measure by name.
    """

    measure: str
    value: float
    chance: float
    interval: Interval | None = None
    random: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty(0), repr=False)
    others: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Check:
    """One question and its answer.

    Attributes:
        name: "site: hospital", "duplicates", ...
        question: What is asked.
        verdict: "green", "amber" or "red".
        found: The answer in words.
        advice: What to do; "" where there is nothing.
        number: Behind the verdict; None where there is none.
    """

    name: str
    question: str
    verdict: str
    found: str
    advice: str = ""
    number: Number | None = None


@dataclass(frozen=True)
class AuditSettings:
    """How much work the audit is.

    Attributes:
        permutations: Dealings of sites among patients.
        label_permutations: Relabelled cohorts that linear models are fitted on.
        bootstrap: Resamples for intervals.
        colour: Encoder of the colour-only model.
        seed: Of everything.
    """

    permutations: int = 200
    label_permutations: int = 40
    bootstrap: int = 500
    colour: str = "colour"
    seed: int = 0


def worst(checks: Sequence[Check]) -> str:
    """The colour of them all."""
    found = {check.verdict for check in checks}
    return next((colour for colour in (RED, AMBER) if colour in found), GREEN)
