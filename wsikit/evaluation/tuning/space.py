"""What trials vary: settings of the training and options of the aggregator, each a range or a list."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from pydantic import ValidationError

from wsikit.aggregators.registry import AGGREGATORS
from wsikit.errors import ConfigError
from wsikit.registry import nearest
from wsikit.training.settings import GIVEN, USUAL, ModelSettings, TrainingSettings

TRAINING, OPTIONS = "training.", "model.options."

NOT_TUNED = {
    "seed": "the luckiest seed says nothing about the next patients",
    "device": "it is no choice of the method",
    "precision": "it is no choice of the method",
    "cache_gb": "it changes the speed only",
    "device_cache_gb": "it changes the speed only",
    "max_step_tiles": "it changes the speed only",
}
"""Settings of the training that no trial varies, and why."""

Value: TypeAlias = bool | int | float | str | None


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``; whole ones where both are.

    Attributes:
        low: The least.
        high: The most.
        log: Whether equal factors are equally likely, instead of equal steps.
    """

    low: float
    high: float
    log: bool = False

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are meant."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def holds(self, value: Value) -> bool:
        """Whether a value is in it."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return self.low <= value <= self.high and (not self.whole or isinstance(value, int))

    def plain(self) -> Any:
        """As a configuration has it."""
        return {"low": self.low, "high": self.high, "log": self.log}


@dataclass(frozen=True)
class Choice:
    """One of several values.

    Attributes:
        values: Two or more, all different.
    """

    values: tuple[Value, ...]

    def holds(self, value: Value) -> bool:
        """Whether a value is one of them; True is not 1."""
        return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in self.values)

    def plain(self) -> Any:
        """As a configuration has it."""
        return list(self.values)


Space: TypeAlias = dict[str, Range | Choice]
"""By full names: ``training.learning_rate``, ``model.options.embed_dim``."""


def space_from(given: Mapping[str, Any], model: ModelSettings, training: TrainingSettings) -> Space:
    """The space of a configuration; without one the usual space of the aggregator and the optimizer.

    Args:
        given: Of each setting ``{low: ..., high: ..., log: true}``, or a list of values. A name is one of the
            training's settings (``learning_rate``) or of the aggregator's options (``embed_dim``); where both have
            it, ``training.NAME`` and ``model.options.NAME`` tell them apart.
        model: Whose options there are.
        training: Whose optimizer it is.

    Raises:
        ConfigError: An unknown name, one that is not tuned, values that are no range and no list, or a value that
            the setting does not take.
    """
    if not given:
        return usual_space(model, training)
    space: Space = {}
    for name, values in given.items():
        full = full_name(name, model)
        if full in space:
            raise ConfigError(f"tune.space: {full!r} is there twice, once as {name!r}; leave one out")
        space[full] = parameter_from(name, values)
        _check_values(full, space[full], model, training)
    return space


def usual_space(model: ModelSettings, training: TrainingSettings) -> Space:
    """What is worth trying of nearly every model: step, decay, and how much is left out of a step.

    A factor of ten to either side of the optimizer's usual learning rate and weight decay.
    """
    rate, decay = USUAL[training.optimizer]
    space: Space = {
        "training.learning_rate": Range(rate / 10, rate * 10, log=True),
        "training.weight_decay": Range(decay / 10, decay * 10, log=True),
        "training.tile_dropout": Choice((0.0, 0.25, 0.5, 0.75)),
    }
    if "dropout" in options_of(model.aggregator):
        space["model.options.dropout"] = Choice((0.0, 0.25, 0.5))
    return space


def options_of(aggregator: str) -> dict[str, Any]:
    """The aggregator's own options and their defaults."""
    parameters = inspect.signature(AGGREGATORS[aggregator].build).parameters
    return {name: p.default for name, p in parameters.items() if name not in GIVEN and p.kind is p.KEYWORD_ONLY}


def full_name(name: str, model: ModelSettings) -> str:
    """``learning_rate`` -> ``training.learning_rate``.

    Raises:
        ConfigError: No such setting, or one that is not tuned.
    """
    options, settings = options_of(model.aggregator), TrainingSettings.model_fields
    bare = name.removeprefix(TRAINING)
    if bare in NOT_TUNED:
        raise ConfigError(f"tune.space: {name!r} is not tuned: {NOT_TUNED[bare]}; leave it out")
    if bare in settings and (name != bare or bare not in options):
        return TRAINING + bare
    option = name.removeprefix(OPTIONS)
    if option in options and (name != option or option not in settings):
        return OPTIONS + option
    if option in options:
        raise ConfigError(
            f"tune.space: {name!r} is a setting of the training and an option of {model.aggregator!r}; "
            f"write '{TRAINING}{name}' or '{OPTIONS}{name}'"
        )
    known = [*(s for s in settings if s not in NOT_TUNED), *options]
    raise ConfigError(
        f"tune.space: no setting {name!r}{nearest(option, known)} (the training has: "
        f"{', '.join(s for s in settings if s not in NOT_TUNED)}; aggregator {model.aggregator!r} has: "
        f"{', '.join(options) or 'no options'})"
    )


def parameter_from(name: str, given: Any) -> Range | Choice:
    """A range or a choice from plain values.

    Raises:
        ConfigError: Neither of them, or one with nothing to choose.
    """
    where = f"tune.space: {name!r} is {given!r}"
    if isinstance(given, list | tuple):
        if any(not isinstance(value, bool | int | float | str | None) for value in given):
            raise ConfigError(f"{where}; expected a list of plain values")
        if len(given) < 2 or len({(type(v) is bool, v) for v in given}) < len(given):
            raise ConfigError(f"{where}; expected two or more different values")
        return Choice(tuple(given))
    if not isinstance(given, Mapping) or not {"low", "high"} <= set(given) <= {"low", "high", "log"}:
        raise ConfigError(f"{where}; expected a list of values, or {{low: ..., high: ..., log: true}}")
    low, high, log = given["low"], given["high"], given.get("log", False)
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in (low, high))
    if not numbers:  # YAML reads 1e-4 as text
        raise ConfigError(f"{where}; expected numbers (YAML wants 1.0e-4 for 1e-4)")
    if not isinstance(log, bool) or low >= high or (log and low <= 0):
        raise ConfigError(f"{where}; expected low below high, and above 0 where log is true")
    return Range(low, high, log)


def changed(
    model: ModelSettings, training: TrainingSettings, values: Mapping[str, Value]
) -> tuple[ModelSettings, TrainingSettings]:
    """Settings with some of them replaced.

    Args:
        model: As they are.
        training: As they are.
        values: By full names.

    Raises:
        ConfigError: A value that a setting does not take, or a name that is none.
    """
    ours = {n.removeprefix(TRAINING): v for n, v in values.items() if n.startswith(TRAINING)}
    options = {n.removeprefix(OPTIONS): v for n, v in values.items() if n.startswith(OPTIONS)}
    if len(ours) + len(options) < len(values):
        strange = next(n for n in values if not n.startswith((TRAINING, OPTIONS)))
        raise ConfigError(f"tuned setting {strange!r}: expected a name that begins with {TRAINING!r} or {OPTIONS!r}")
    try:
        new = TrainingSettings(**(training.model_dump() | ours))
    except ValidationError as e:
        problem = e.errors()[0]
        raise ConfigError(f"training.{problem['loc'][0]} is {problem['input']!r}: {problem['msg']}") from None
    return model.model_copy(update={"options": dict(model.options) | options}), new


def current(space: Space, model: ModelSettings, training: TrainingSettings) -> dict[str, Value] | None:
    """The values that the settings have now, where the space holds all of them; else None."""
    rate, decay = USUAL[training.optimizer]
    usual = {"learning_rate": rate, "weight_decay": decay}
    options = options_of(model.aggregator) | dict(model.options)
    found: dict[str, Value] = {}
    for name, parameter in space.items():
        if name.startswith(TRAINING):
            bare = name.removeprefix(TRAINING)
            value = getattr(training, bare)
            value = usual[bare] if value is None and bare in usual else value
        else:
            value = options[name.removeprefix(OPTIONS)]
        if not parameter.holds(value):
            return None
        found[name] = value
    return found


def _check_values(full: str, parameter: Range | Choice, model: ModelSettings, training: TrainingSettings) -> None:
    """Every choice, and both ends of a range, has to be a value of the training; an aggregator says so when built."""
    ends = (parameter.low, parameter.high) if isinstance(parameter, Range) else parameter.values
    for value in ends:
        try:
            changed(model, training, {full: value})
        except ConfigError as e:
            raise ConfigError(f"tune.space: {e}") from None
