"""How a model is built and trained, as plain strict values."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from wsikit.aggregators.registry import aggregator_card
from wsikit.cohort.graphs import GraphSettings
from wsikit.errors import ConfigError
from wsikit.tasks.balance import Balance
from wsikit.training.scaling import Scaling


class Strict(BaseModel):
    """Values that cannot change, and no others than these."""

    model_config = ConfigDict(extra="forbid", frozen=True)


GIVEN = {
    "name": "it is the setting 'aggregator'",
    "in_dim": "training fills in the width of the features",
    "classes": "training fills in the outputs of the endpoint",
    "seed": "it is a setting of the training",
}
"""What ``create_aggregator`` takes beside an aggregator's own options, and where it comes from."""

USUAL = {"adamw": (3e-3, 1e-2), "sgd": (0.1, 1e-3)}
"""Learning rate and weight decay of each optimizer, where none are given."""


class ModelSettings(Strict):
    """The aggregator.

    Attributes:
        aggregator: Its name.
        options: Its own, without those of :data:`GIVEN`.
        graph: Which tiles are neighbours, for an aggregator that uses edges: ``kind`` (grid, knn, radius or
            features), ``k``, ``radius_um``, ``metric``, ``symmetric``, ``self_loops``; see
            ``wsikit.cohort.graphs``. Default: the aggregator's own.
        init: A bundle whose aggregator's weights training starts from. They have to fit one for one, and be of
            features of the same encoder; the scale of the features comes with them. The head starts anew.
    """

    aggregator: str = "abmil"
    options: dict[str, Any] = Field(default_factory=dict)
    graph: GraphSettings | None = None
    init: Path | None = None

    @field_validator("options")
    @classmethod
    def _only_its_own(cls, options: dict[str, Any]) -> dict[str, Any]:
        for option in options:
            if option in GIVEN:
                raise ValueError(f"{option!r} is no option of an aggregator: {GIVEN[option]}; leave it out")
        return options


def graph_of(model: ModelSettings) -> GraphSettings | None:
    """The graph that a model is trained on: the one that was asked for, or the aggregator's own; None without edges.

    Raises:
        ConfigError: A graph is asked for, and the aggregator uses no edges.
    """
    card = aggregator_card(model.aggregator)
    if not card.uses_edges:
        if model.graph is not None:
            raise ConfigError(
                f"model: aggregator {model.aggregator!r} uses no edges, so graph={model.graph.kind!r} would change "
                "nothing; leave it out, or name an aggregator that does"
            )
        return None
    return model.graph or GraphSettings(**(card.graph or {}))


class TrainingSettings(Strict):
    """The training loop.

    Attributes:
        epochs: At most so many passes over the training patients.
        optimizer: ``adamw``, or ``sgd`` (Nesterov, momentum 0.9). AdamW moves every weight equally far, those
            that only noise pulls at included; see docs/explanation/evaluation.md for when SGD found more.
        learning_rate: Peak of the schedule: linear warm-up, then half a cosine to zero. Default: 0.003 for
            ``adamw``, 0.1 for ``sgd``.
        warmup: Share of the steps that warm up.
        weight_decay: Of the optimizer. Default: 0.01 for ``adamw``, 0.001 for ``sgd``.
        batch_patients: Patients in a step; a survival step always has all of them.
        balance: How patients of rare classes are made to count as much as those of frequent ones: ``loss``
            weighs them in the loss (each label on its own, where there are several), ``sampling`` draws them more
            often, as many patients in an epoch as ever; ``none``. Predicted probabilities are then those of a cohort
            with equally many of each.
        keep: Weights of the ``best`` epoch by validation loss, or of the ``last``. With few patients the
            validation loss is mostly noise, and choosing by it is worse than not choosing.
        patience: Epochs without a better validation loss after which training stops, where the best is kept.
        tile_dropout: Share of a training bag's tiles left out of each step, at random.
        mixup: Share of a step's tiles that are moved a random way towards another tile of the same patient, in the
            space of the features (intra-slide MixUp: Gadermayr et al., 2022, arXiv:2211.05862; how much it helps
            varies widely with the data, arXiv:2311.03052).
        bag_tiles: At most so many of a training bag's tiles in each step, drawn anew for every step; None for no
            limit. Of a bag that the memory does not keep (``cache_gb``) only these are read. Validation and
            predictions always see whole bags.
        cache_gb: Memory for bags, in GiB; what does not fit is read again at every step. Each process has its own.
        device_cache_gb: Memory of the device for bags, in GiB; what does not fit is copied at every step.
        max_step_tiles: Tiles on the device at once; a larger step is taken in parts, with the same gradient.
        clip: Largest norm of the gradient.
        scaling: How features are brought to one scale, fitted on the training patients: ``patients``,
            ``whiten-patients``, ``standardise``, ``whiten`` or ``none``; see ``wsikit.training.scaling``.
        device: As torch names it, or ``auto``.
        devices: So many GPUs (or with ``cpu`` processes) train one model together, on this machine. Steps are those of
            a single one: they share its patients. Each has ``cache_gb`` of its own.
        precision: As Lightning Fabric names it: ``32-true``, ``bf16-mixed``, ...
        seed: Of weights, order and dropout.
    """

    epochs: Annotated[int, Field(ge=1)] = 40
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    weight_decay: Annotated[float, Field(ge=0)] | None = None
    batch_patients: Annotated[int, Field(ge=1)] = 8
    balance: Balance = "none"
    keep: Literal["best", "last"] = "last"
    patience: Annotated[int, Field(ge=1)] = 15
    tile_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    mixup: Annotated[float, Field(ge=0, le=1)] = 0.0
    bag_tiles: Annotated[int, Field(ge=1)] | None = None
    cache_gb: Annotated[float, Field(ge=0)] = 4.0
    device_cache_gb: Annotated[float, Field(ge=0)] = 0.0
    max_step_tiles: Annotated[int, Field(ge=1)] = 200_000
    clip: Annotated[float, Field(gt=0)] = 1.0
    scaling: Scaling = "patients"
    device: str = "auto"
    devices: Annotated[int, Field(ge=1)] = 1
    precision: Literal["32-true", "64-true", "bf16-mixed", "16-mixed"] = "32-true"
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _one_or_several(self) -> TrainingSettings:
        if self.devices > 1 and ":" in self.device:
            raise ValueError(
                f"device {self.device!r} is a single one, and devices is {self.devices}; "
                f"write device: {self.device.partition(':')[0]}, or leave 'devices' out"
            )
        return self
