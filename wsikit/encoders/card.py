"""The contract of a tile encoder: its card, what it promises, and the key its features are kept under."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from wsikit.errors import ConfigError

Features = npt.NDArray[np.float32]
"""(N, D) float32."""


@dataclass(frozen=True)
class EncoderCard:
    """What is true of an encoder before it is loaded; copied into every store that holds its features.

    Args:
        name: As given to ``create_encoder`` and ``--encoder``.
        dim: Width D of a feature.
        tile_px: Side of the tile it was made for, or None where any size will do.
        mpp: Micrometres per pixel it was trained at, or None where it does not matter or is not known.
        mean: Mean per channel that the transform subtracts (of values in 0 to 1), or None.
        std: Standard deviation per channel that it divides by, or None.
        licence: Licence of the weights, or of the code where there are none.
        source: Where it comes from: a repository or a hub name.
        citation: Authors, year, arXiv / DOI.
        gated: Whether the hub asks for an account and consent before the download.
        summary: One line for tables.
        interpolation: How tiles of another size than ``tile_px`` are resized, or None where they are not.
        devices: Kinds of device it runs on, as torch names them.
        precisions: Arithmetic it can be asked for.
        pretraining: Data sets whose slides or images it was trained on ("TCGA"), () where it learned from none, or None
            where that is not known. A cohort that an encoder has seen is no test of it.
    """

    name: str
    dim: int
    tile_px: int | None
    mpp: float | None
    mean: tuple[float, float, float] | None
    std: tuple[float, float, float] | None
    licence: str
    source: str
    citation: str
    gated: bool = False
    summary: str = ""
    interpolation: str | None = None
    devices: tuple[str, ...] = ("cpu",)
    precisions: tuple[str, ...] = ("float32",)
    pretraining: tuple[str, ...] | None = None


class Encoder(Protocol):
    """Tile -> vector, frozen.

    Attributes:
        card: The facts.
        identity: Everything that decides the numbers: weights hash, transform, precision, version of
            the algorithm. Plain JSON values; two encoders of equal identity give equal features.
    """

    @property
    def card(self) -> EncoderCard:
        """The facts."""
        ...

    @property
    def identity(self) -> Mapping[str, Any]:
        """What decides the numbers."""
        ...

    def encode(self, pixels: npt.NDArray[np.uint8]) -> Features:
        """Features of tiles: RGB (N, H, W, 3) uint8 -> (N, D) float32.

        Row i depends on tile i alone; N = 0 gives (0, D). The input is not changed. For encoders
        without weights row i has the same bits in every batch and at every thread count; for a
        network it is the same up to the rounding of its matrix products, whose blocking follows
        the batch size.
        """
        ...


def encoder_key(encoder: Encoder, *, stain: Mapping[str, Any] | None = None) -> str:
    """The name of the encoder's features in a store: its name as a slug + 8 hex of its identity.

    Args:
        encoder: The encoder.
        stain: Method and version of the stain normalisation of its tiles, or None for tiles as scanned.

    Only what decides the numbers counts: a corrected licence or citation on the card leaves the key alone.

    Example:
        >>> encoder_key(wk.create_encoder("colour"))      # doctest: +SKIP
        'colour-5f0c2a91'
    """
    identity = features_identity(encoder, stain)
    facts = {"name": encoder.card.name, "dim": encoder.card.dim, "identity": identity}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, allow_nan=False).encode()).hexdigest()
    return f"{slug(encoder.card.name)}-{digest[:8]}"


def features_identity(encoder: Encoder, stain: Mapping[str, Any] | None) -> dict[str, Any]:
    """What decides an encoder's features of a tile: its identity, and what is done to the tile before."""
    return {**encoder.identity, **({} if stain is None else {"stain": dict(stain)})}


def slug(name: str) -> str:
    """Lower case, with every run of other characters than letters, digits and dots as one dash."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.")


def check_tiles(name: str, pixels: npt.NDArray[np.uint8], *, min_px: int = 1) -> None:
    """Refuse what is not a batch of RGB tiles.

    Args:
        name: The encoder's, for the message.
        pixels: To be (N, H, W, 3) uint8; N may be 0.
        min_px: The smallest side that the encoder can describe.

    Raises:
        ConfigError: Saying what was found and what was expected.
    """
    expected = "expected uint8 RGB tiles of shape (N, H, W, 3)"
    if not isinstance(pixels, np.ndarray):
        raise ConfigError(f"encoder {name!r}: got {type(pixels).__name__}; {expected} as a NumPy array")
    if pixels.ndim != 4 or pixels.shape[3] != 3:
        hint = "; for one tile pass tile[None]" if pixels.ndim == 3 else ""
        hint = "; drop the alpha channel with tiles[..., :3]" if pixels.shape[3:] == (4,) else hint
        raise ConfigError(f"encoder {name!r}: pixels of shape {pixels.shape}; {expected}{hint}")
    if pixels.dtype != np.uint8:
        raise ConfigError(f"encoder {name!r}: pixels of dtype {pixels.dtype}; {expected} with values 0 to 255")
    if len(pixels) and min(pixels.shape[1:3]) < min_px:
        raise ConfigError(f"encoder {name!r}: tiles of {pixels.shape[2]} x {pixels.shape[1]} px; at least {min_px} px")
