"""Aggregators by name: ``list_aggregators()``, ``aggregator_card(name)``, ``create_aggregator(name, in_dim=...)``.

An aggregator is one file in ``wsikit.aggregators.models`` (or one entry point of the group
``wsikit.aggregators`` in another distribution) that registers a card and a class. The parameters of
the class beside ``in_dim`` are its options.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar, cast, get_type_hints

import torch

from wsikit.aggregators.base import Aggregator, AggregatorCard
from wsikit.errors import ConfigError
from wsikit.registry import Registry, nearest

BuildT = TypeVar("BuildT", bound=Callable[..., Aggregator])

GROUP = "wsikit.aggregators"
"""Entry points of other distributions' aggregators."""

AGGREGATORS: Registry[AggregatorCard] = Registry("aggregator", package="wsikit.aggregators.models", group=GROUP)


def register_aggregator(card: AggregatorCard) -> Callable[[BuildT], BuildT]:
    """Decorator: enter an :class:`~wsikit.aggregators.base.Aggregator`, or a function that builds one.

    It is called as ``build(in_dim=..., **options)``.
    """
    return cast(Callable[[BuildT], BuildT], AGGREGATORS.register(card))


def list_aggregators(pattern: str = "*") -> list[str]:
    """Names that ``create_aggregator`` takes and a shell pattern matches, sorted.

    Example:
        >>> list_aggregators("abm*")
        ['abmil']
    """
    return AGGREGATORS.names(pattern)


def aggregator_card(name: str) -> AggregatorCard:
    """The facts of an aggregator, without building it.

    Raises:
        UnknownNameError: With the nearest known names.
    """
    return AGGREGATORS[name].card


def aggregator_source(name: str) -> dict[str, str]:
    """Where an aggregator's code is from: what it computes is not known by its name.

    Returns:
        ``module``; ``sha256`` of the module's file, "not known" where there is none (a notebook); of one that is not
        wsikit's own ``distribution``, name and version.

    Raises:
        UnknownNameError: No such aggregator.
    """
    build = AGGREGATORS[name].build
    found = {"module": build.__module__, "sha256": "not known"}
    with contextlib.suppress(OSError, TypeError):
        file = inspect.getsourcefile(build)
        if file is not None:
            found["sha256"] = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    for point in entry_points(group=GROUP):
        if point.dist is not None and build.__module__.partition(".")[0] == point.module.partition(".")[0]:
            found["distribution"] = f"{point.dist.name} {point.dist.version}"
    return found


def create_aggregator(
    name: str, *, in_dim: int, classes: int | None = None, seed: int | None = None, **options: Any
) -> Aggregator:
    """An aggregator with fresh weights, in training mode, on the CPU.

    Args:
        name: One of ``list_aggregators()``.
        in_dim: D, the width of a feature: ``dim`` of the encoder's card.
        classes: Outputs of the task (1 for a risk or a number), for the aggregators that depend on it; the
            others ignore it.
        seed: The same seed gives the same weights, and torch's own generator is left as it was.
            None: drawn from torch's own generator.
        options: The model's own; an unknown one is refused with the nearest name.

    Raises:
        UnknownNameError: No such aggregator.
        ConfigError: An option or a width that it cannot use; an option of another type than is declared.

    Example:
        >>> model = create_aggregator("abmil", in_dim=16, seed=0)
        >>> x, offsets = torch.ones(5, 16), torch.tensor([0, 2, 5])
        >>> model(x, offsets=offsets).embedding.shape == (2, model.out_dim)
        True
    """
    build = AGGREGATORS[name].build
    own = sorted(set(inspect.signature(build).parameters) - {"in_dim", "classes"})
    for option in options:
        if option not in own:
            listed = f"its options: {', '.join(own)}" if own else "it has no options"
            raise ConfigError(f"aggregator {name!r} has no option {option!r}{nearest(option, own)} ({listed})")
    _check_types(name, build, options)
    if isinstance(in_dim, bool) or not isinstance(in_dim, int) or in_dim < 1:
        raise ConfigError(f"aggregator {name!r}: in_dim={in_dim!r}; expected the width of a feature, a whole number")
    if classes is not None and "classes" in inspect.signature(build).parameters:
        options["classes"] = classes
    if seed is None:
        return cast(Aggregator, build(in_dim=in_dim, **options))
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which seeds the generators of the accelerators too.
        torch.default_generator.manual_seed(seed)
        return cast(Aggregator, build(in_dim=in_dim, **options))


def _check_types(name: str, build: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Refuse an option whose type is not the declared one: a configuration file may hold anything."""
    from pydantic import TypeAdapter, ValidationError
    from pydantic.errors import PydanticUserError

    try:
        declared = get_type_hints(build.__init__ if inspect.isclass(build) else build)
    except (NameError, TypeError):  # declared for type checkers only
        return
    for option, value in options.items():
        try:
            # As JSON: there a list is a tuple, and 1 is 1.0, but "1" is not a number.
            TypeAdapter(declared[option]).validate_json(json.dumps(value), strict=True)
        except ValidationError as error:
            found = f"{option}={value!r}, {type(value).__name__}"
            raise ConfigError(f"aggregator {name!r}: {found}; {error.errors()[0]['msg']}") from None
        except (KeyError, TypeError, PydanticUserError):  # nothing is declared, or nothing that a file could hold
            continue
