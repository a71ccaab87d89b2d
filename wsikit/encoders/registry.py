"""Encoders by name: ``list_encoders()``, ``encoder_card(name)``, ``create_encoder(name)``.

An encoder is one file in ``wsikit.encoders.families`` (or one entry point of the group
``wsikit.encoders`` in another distribution) that registers a card and a builder. The builder's
keyword-only parameters are its options; it names ``weights``, ``precision`` or ``device`` only
where it has such a choice. A *family* stands for many encoders under one prefix, ``timm:<model>``.
"""

from __future__ import annotations

import fnmatch
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from wsikit.encoders.card import Encoder, EncoderCard
from wsikit.errors import ConfigError, UnknownNameError
from wsikit.registry import Registry, nearest

Build = Callable[..., Any]

PRECISIONS = ("float32", "bfloat16", "float16")

_FILES = {"package": "wsikit.encoders.families", "group": "wsikit.encoders"}


@dataclass(frozen=True)
class EncoderFamily:
    """Many encoders under one prefix.

    Args:
        name: The prefix, without the colon.
        summary: One line for tables.
        names: All members' names without the prefix (may import heavy packages).
        card: Member name without the prefix -> its facts, without loading weights.
    """

    name: str
    summary: str
    names: Callable[[], list[str]]
    card: Callable[[str], EncoderCard]


ENCODERS: Registry[EncoderCard] = Registry("encoder", **_FILES)
FAMILIES: Registry[EncoderFamily] = Registry("encoder family", **_FILES)


def register_encoder(card: EncoderCard) -> Callable[[Build], Build]:
    """Decorator: enter a builder ``build(*, options...) -> Encoder`` under ``card.name``."""
    return ENCODERS.register(card)


def register_family(family: EncoderFamily) -> Callable[[Build], Build]:
    """Decorator: enter a builder ``build(member, *, options...) -> Encoder`` under the family's prefix."""
    return FAMILIES.register(family)


def list_encoders(pattern: str = "*") -> list[str]:
    """Names that ``create_encoder`` takes and a shell pattern matches, sorted.

    Members of a family are many and slow to list, so they are named only when the pattern starts
    with the prefix: ``list_encoders("timm:vit_small*")``. ``list(FAMILIES)`` has the prefixes.

    Example:
        >>> list_encoders("colour")
        ['colour']
    """
    prefix, colon, member_pattern = pattern.partition(":")
    if colon and prefix in FAMILIES.names():
        members = FAMILIES[prefix].card.names()
        return sorted(f"{prefix}:{name}" for name in fnmatch.filter(members, member_pattern or "*"))
    return ENCODERS.names(pattern)


def encoder_card(name: str) -> EncoderCard:
    """The facts of an encoder, without loading or downloading its weights.

    Raises:
        UnknownNameError: With the nearest known names.
    """
    prefix, member = _split(name)
    return FAMILIES[prefix].card.card(member) if member else ENCODERS[name].card


def create_encoder(
    name: str,
    *,
    weights: str | Path | None = None,
    precision: str = "float32",
    device: str = "cpu",
    **options: Any,
) -> Encoder:
    """An encoder, ready to use.

    Args:
        name: One of ``list_encoders()``, or a member of a family such as ``timm:vit_small_patch16_224``.
        weights: A local file, ``"hub"`` (what None means where there are weights), or ``"random"``.
            Random weights are never a fallback: they come only when asked for by this word.
        precision: ``float32``, ``bfloat16`` or ``float16``; features are float32 in every case.
        device: As torch names it: ``cpu``, ``cuda``, ``cuda:1``.
        options: The encoder's own; an unknown one is refused with the nearest name.

    Raises:
        UnknownNameError: No such encoder.
        ConfigError: An option, precision, device or weights file that it cannot use.

    Example:
        >>> encoder = create_encoder("colour")
        >>> encoder.encode(np.zeros((2, 64, 64, 3), np.uint8)).shape == (2, encoder.card.dim)
        True
    """
    prefix, member = _split(name)
    build = FAMILIES[prefix].build if member else ENCODERS[name].build
    accepted = {p.name for p in inspect.signature(build).parameters.values() if p.kind is p.KEYWORD_ONLY}
    own = sorted(accepted - {"weights", "precision", "device"})
    for option in options:
        if option not in own:
            listed = f"its options: {', '.join(own)}" if own else "it has no options"
            raise ConfigError(f"encoder {name!r} has no option {option!r}{nearest(option, own)} ({listed})")
    if weights is not None and "weights" not in accepted:
        raise ConfigError(f"encoder {name!r} has no weights, but weights={str(weights)!r} were given; leave them out")
    if precision not in PRECISIONS:
        known = ", ".join(PRECISIONS)
        raise ConfigError(f"no precision {precision!r}{nearest(precision, PRECISIONS)} (one of {known})")
    if precision != "float32" and "precision" not in accepted:
        raise ConfigError(f"encoder {name!r} has one precision only; found precision={precision!r}, leave it out")
    if not member:
        _check_device(name, device, ENCODERS[name].card.devices)
    chosen = {"weights": weights, "precision": precision, "device": device}
    arguments = {key: value for key, value in chosen.items() if key in accepted} | options
    return cast(Encoder, build(member, **arguments) if member else build(**arguments))


def _split(name: str) -> tuple[str, str]:
    """``timm:resnet18`` -> ("timm", "resnet18"); ``colour`` -> ("colour", "")."""
    prefix, colon, member = name.partition(":")
    if colon and prefix in FAMILIES.names():
        if not member:
            raise UnknownNameError(f"{name!r} names a family of encoders; add a member: {prefix}:<model>")
        return prefix, member
    if name in FAMILIES.names():
        raise UnknownNameError(f"{name!r} is a family of encoders; name a member: {name}:<model>")
    if colon:
        raise UnknownNameError(
            f"no encoder family named {prefix!r}{nearest(prefix, FAMILIES)} (families: {', '.join(FAMILIES)})"
        )
    return name, ""


def _check_device(name: str, device: str, kinds: tuple[str, ...]) -> None:
    if device.partition(":")[0] not in kinds:
        raise ConfigError(f"encoder {name!r} does not run on device {device!r}; it runs on {' and '.join(kinds)}")
