"""Tuning in a configuration: what is asked (``tune``), and what was found and spent (``tuned``)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from wsikit.evaluation.tuning.space import Value
from wsikit.training.settings import Strict


class TuneSettings(Strict):
    """How settings are searched for; read by ``wsikit tune`` only.

    Attributes:
        trials: Settings tried in each study; there is one study for each fold, and one for the final model.
        space: What is varied: of each setting ``{low: ..., high: ..., log: true}`` or a list of values. Empty: the
            learning rate, weight decay, tile dropout and, where the aggregator has it, ``dropout``.
        metric: What a trial is judged by: the endpoint's own ``score`` (higher is better), or the ``loss``.
        seed: Of the sampler.
        at_once: Trials of a study under way at once. It decides what the sampler knows when it proposes, so it is a
            setting and not the number of workers: equal settings give equal trials on any number of them.
    """

    trials: Annotated[int, Field(ge=1)] = 20
    space: dict[str, Any] = Field(default_factory=dict)
    metric: Literal["score", "loss"] = "score"
    seed: Annotated[int, Field(ge=0)] = 0
    at_once: Annotated[int, Field(ge=1)] = 4


class Tuned(Strict):
    """The record of a tuning: ``wsikit tune`` writes it into ``best.yaml``.

    Attributes:
        trials: Settings tried in each study: the budget.
        studies: How many studies there were.
        fits: Models fitted for all trials.
        epochs: Epochs of all of them.
        cpu_hours: Processor time of all of them.
        failed: Trials that came to nothing.
        metric: What they were judged by.
        space: What was varied.
        folds: Of each fold, those of repeats one after the other, the settings that were chosen on its other
            patients, by full names. Empty: nobody is left whom the choice has not seen.
        splits: Hash of the splits, of each repeat, that ``folds`` are of.
        patients: Hash of the patients on whom the settings of the final model were chosen; None: there are none.
    """

    trials: Annotated[int, Field(ge=1)]
    studies: Annotated[int, Field(ge=1)]
    fits: int
    epochs: int
    cpu_hours: float
    failed: int = 0
    metric: str = "score"
    space: dict[str, Any] = Field(default_factory=dict)
    folds: tuple[dict[str, Value], ...] = ()
    splits: tuple[str, ...] = ()
    patients: str | None = None
