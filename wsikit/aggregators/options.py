"""Checks of the options that many aggregators have in common."""

from __future__ import annotations

from wsikit.errors import ConfigError


def at_least_one(name: str, **options: int) -> None:
    """Refuse a width or a number below 1.

    Args:
        name: Of the aggregator.
        options: By their names.

    Raises:
        ConfigError: With the first that is too small.

    Example:
        >>> at_least_one("abmil", heads=1, embed_dim=256)
    """
    for option, value in options.items():
        if value < 1:
            raise ConfigError(f"aggregator {name!r}: {option}={value}; expected at least 1")


def at_least_zero(name: str, **options: float) -> None:
    """Refuse a negative weight of a loss; raises as :func:`at_least_one`."""
    for option, value in options.items():
        if not value >= 0:
            raise ConfigError(f"aggregator {name!r}: {option}={value}; expected at least 0")


def above_zero(name: str, **options: float) -> None:
    """Refuse a number that is 0 or negative; raises as :func:`at_least_one`."""
    for option, value in options.items():
        if not value > 0:
            raise ConfigError(f"aggregator {name!r}: {option}={value}; expected above 0")


def below_one(name: str, **options: float) -> None:
    """Refuse a share that is negative, or 1 and above; raises as :func:`at_least_one`."""
    for option, value in options.items():
        if not 0 <= value < 1:
            raise ConfigError(f"aggregator {name!r}: {option}={value}; expected at least 0 and below 1")


def multiple_of_heads(name: str, embed_dim: int, heads: int) -> None:
    """Refuse a width that the heads cannot share; raises as :func:`at_least_one`."""
    if embed_dim % heads:
        raise ConfigError(f"aggregator {name!r}: embed_dim={embed_dim}; expected a multiple of heads={heads}")
