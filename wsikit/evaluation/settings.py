"""A cross-validation as a file: what is asked, of which cohort, with which model."""

from __future__ import annotations

import re
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, ValidationError, field_validator, model_validator

from wsikit.errors import ConfigError
from wsikit.evaluation.tile_maps import MapKind
from wsikit.evaluation.tuning.settings import Tuned, TuneSettings
from wsikit.registry import nearest
from wsikit.store.places import ObjectPath, StorePath, place_of
from wsikit.store.reader import JOIN
from wsikit.training.logs import LogSettings
from wsikit.training.settings import ModelSettings, Strict, TrainingSettings


class SplitSettings(Strict):
    """Who is tested when.

    Attributes:
        folds: How many; each patient is tested in one.
        seed: Of the shuffling.
        inner_folds: Models for each fold. Each keeps another part of the fold's other patients apart
            to watch its training, and their predictions are averaged. With 1 there is one model, and
            ``validation`` of the patients watch it.
        validation: That share, where ``inner_folds`` is 1.
        file: Splits to use instead: ours, CLAM's, Patho-Bench's or STAMP's.
        site: Column of the table with the hospital, or ``tcga``: all patients of a site are then in one fold, outside
            and inside. Of a file that parts a site it is an error.
        kind: ``stratified``, or ``leave-one-site-out``: one fold for each site.
        repeats: So many cross-validations, each with folds dealt anew; every metric is their mean.
    """

    folds: Annotated[int, Field(ge=2)] = 5
    seed: Annotated[int, Field(ge=0)] = 0
    inner_folds: Annotated[int, Field(ge=1)] = 4
    validation: Annotated[float, Field(gt=0, lt=0.9)] = 0.2
    file: Path | None = None
    site: str | None = None
    kind: Literal["stratified", "leave-one-site-out"] = "stratified"
    repeats: Annotated[int, Field(ge=1)] = 1

    @model_validator(mode="after")
    def _fits(self) -> SplitSettings:
        left_out = self.kind == "leave-one-site-out"
        if left_out and self.site is None:
            raise ValueError("kind leave-one-site-out needs the column with the site: 'site: COLUMN', or 'site: tcga'")
        if left_out and self.file is not None:
            raise ValueError("kind leave-one-site-out makes its own folds; leave out 'file'")
        if self.repeats > 1 and (left_out or self.file is not None):
            raise ValueError(
                "repeats deal the folds anew, which leave-one-site-out and a file do not allow; leave it out"
            )
        return self


class EvaluationSettings(Strict):
    """What is measured.

    Attributes:
        bootstrap: Resamples of patients for every interval.
        permutations: Relabelled cohorts for the log-rank test.
        baseline_encoder: Features whose plain mean, in a regularised linear model, is the baseline.
        subgroups: Columns of the table in whose groups everything is measured again: ``site``, ``sex``; numbers are
            cut, ``age:65`` (below 65, and 65 or more).
        heatmaps: Slides with the best and with the worst predictions that are drawn, of each so many.
        map: What the drawn slides show: ``attention``, or ``rollout``, attention through all layers, of the aggregators
            that have it.
        scratch: Whether models that start from given weights (``model.init``) are compared with as many that start from
            scratch, on the same patients with the same seeds: that takes twice as long.
        nested: Also fit models without each two folds, for an interval of the Brier score (or the squared error)
            that is not conditional on the fitted models: (folds - 1) / 2 times as many models more.
        faithfulness: Random orders of the tiles that the map of each drawn slide has to beat; 0 leaves maps untested.
    """

    bootstrap: Annotated[int, Field(ge=100)] = 2000
    permutations: Annotated[int, Field(ge=100)] = 2000
    baseline_encoder: str = "colour"
    subgroups: tuple[str, ...] = ()
    heatmaps: Annotated[int, Field(ge=0)] = 3
    map: MapKind = "attention"
    scratch: bool = True
    faithfulness: Annotated[int, Field(ge=0)] = 19
    nested: bool = False


class Experiment(Strict):
    """Everything that decides a cross-validation.

    Attributes:
        cohort: The table.
        stores: One or several: folders, or places in a bucket (``s3://bucket/cohort.zarr``).
        encoder: Features that the model sees; of a list of encoders the columns, joined tile by tile.
        endpoint: ``kind`` class, ordinal, labels, survival, continuous or several, and the columns; see
            ``wsikit.cohort.endpoints``.
        missing_slides: Slides of the table that no store has: ``refuse`` or ``exclude``.
        model: The aggregator.
        training: The loop.
        splits: The folds.
        evaluation: The numbers.
        tune: What ``wsikit tune`` tries.
        tuned: What it found; of its ``best.yaml``.
        log: Where ``wsikit train`` logs its epochs beside ``history.csv`` and TensorBoard.
        name: For the report's title.
        out: Folder for the results.
    """

    cohort: Path
    stores: tuple[StorePath, ...]
    encoder: str = "texture"
    endpoint: dict[str, Any]
    missing_slides: Literal["refuse", "exclude"] = "refuse"
    model: ModelSettings = ModelSettings()
    training: TrainingSettings = TrainingSettings()
    splits: SplitSettings = SplitSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    tune: TuneSettings = TuneSettings()
    tuned: Tuned | None = None
    log: LogSettings = LogSettings()
    name: str = ""
    out: Path = Path("run")

    @field_validator("encoder", mode="before")
    @classmethod
    def _joined(cls, value: Any) -> Any:
        return JOIN.join(value) if isinstance(value, list | tuple) and all(isinstance(v, str) for v in value) else value

    @field_validator("stores", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        given = [value] if isinstance(value, str | Path | ObjectPath) else value
        return tuple(place_of(one) if isinstance(one, str) else one for one in given)


def load_experiment(path: str | PathLike[str], *, out: Path | None = None) -> Experiment:
    """Read a YAML file. Paths in it, but not URLs, are relative to the file.

    Raises:
        ConfigError: No file, bad YAML, an unknown setting (with the nearest known one), a value out of range.
    """
    import yaml

    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"no configuration {path}: expected a YAML file, see 'wsikit crossval --help'")
    if path.suffix.lower() in (".csv", ".tsv", ".xlsx"):
        raise ConfigError(f"{path} is a table; expected a configuration (YAML) that names it: 'cohort: {path.name}'")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as e:
        raise ConfigError(f"{path}: not YAML: {e}") from e
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected settings such as 'cohort: cohort.csv', found {type(values).__name__}")
    experiment = experiment_from(values, where=str(path))
    here = path.parent
    placed = {
        "cohort": here / experiment.cohort,
        "stores": tuple(here / s if isinstance(s, Path) else s for s in experiment.stores),
        "out": out or here / experiment.out,
        "name": experiment.name or path.stem,
    }
    if experiment.model.init is not None:
        placed["model"] = experiment.model.model_copy(update={"init": here / experiment.model.init})
    if experiment.splits.file is not None:
        placed["splits"] = experiment.splits.model_copy(update={"file": here / experiment.splits.file})
    return experiment.model_copy(update=placed)


def experiment_from(values: dict[str, Any], *, where: str = "experiment") -> Experiment:
    """An experiment from plain values.

    Raises:
        ConfigError: As :func:`load_experiment`.
    """
    try:
        return Experiment(**values)
    except ValidationError as e:
        lines = []
        for problem in e.errors():
            name = ".".join(str(part) for part in problem["loc"])
            if problem["type"] == "extra_forbidden":
                known = _fields(problem["loc"][:-1])
                lines.append(
                    f"no setting {name!r}{nearest(str(problem['loc'][-1]), known)} (there are: {', '.join(known)})"
                )
            elif problem["type"] == "missing":
                lines.append(f"setting {name!r} is missing")
            else:
                lines.append(f"{name} is {_shown(problem['input'])}: {problem['msg']}")
        raise ConfigError(f"{where}: " + "; ".join(lines)) from None
    except TypeError as e:
        raise ConfigError(f"{where}: {e}") from None


def on_devices(experiment: Experiment, devices: int | None, accelerator: str | None) -> Experiment:
    """The same experiment on other devices; None leaves what it says.

    Raises:
        ConfigError: Several devices, and one of them is named.
    """
    told = {"devices": devices, "device": accelerator}
    given = {name: value for name, value in told.items() if value is not None}
    if not given:
        return experiment
    training = experiment.training.model_copy(update=given)
    if training.devices > 1 and ":" in training.device:
        raise ConfigError(
            f"{training.devices} devices, and accelerator {training.device!r} is a single one; write --accelerator "
            f"{training.device.partition(':')[0]}, or leave --devices out"
        )
    return experiment.model_copy(update={"training": training})


def _shown(value: object) -> str:
    """A value that was refused, for an error that may end in a job's log: without a password in an address."""
    return re.sub(r"://[^\s'\"]*@", "://...@", repr(value))


def _fields(location: tuple[int | str, ...]) -> list[str]:
    model: Any = Experiment
    for part in location:
        model = model.model_fields[part].annotation
        model = next((one for one in get_args(model) if one is not type(None)), model)  # of "settings or None"
    return list(model.model_fields)
