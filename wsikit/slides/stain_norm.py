"""Stain normalisation: what a method is, how it is fitted to a slide, and how tiles are transformed.

A method is one file in ``wsikit/slides/stain``. It is fitted to a sample of a slide's tiles, never to a
single one: a tile of pure stroma has no haematoxylin that could be measured. The target is built in.

Glass stays glass: pixels with next to no dye keep their colour whatever the method, with a soft passage
to those that are transformed in full. (The papers transform every pixel, which tints the glass.)
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from wsikit.registry import Registry
from wsikit.slides.base import Pixels

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

LIGHT = 240.0
"""Level of unstained glass, as in the code that Macenko's method is known by."""

LEAST_DENSITY = 0.15
"""Density (natural log) in the darkest channel from which a pixel is tissue: Macenko's beta."""

GLASS_DENSITY = 0.05
"""Density up to which a pixel is left as it is."""

MOST_PIXELS = 200_000
LEAST_PIXELS = 2_000
"""A fit takes at most so many tissue pixels of its sample, evenly spaced; with fewer than the least there is none."""

_AT_ONCE = 8  # tiles: about 6 MB a plane of 256 px tiles stay in a cache

Densities = npt.NDArray[np.float64]
"""(P, 3) optical density of R, G, B, natural log."""


@dataclass(frozen=True)
class StainCard:
    """What is true of a method.

    Args:
        name: As given to ``--stain-norm``.
        summary: One line for tables.
        reference: The paper.
        version: Counts changes of the numbers it gives; part of the key of features.
    """

    name: str
    summary: str
    reference: str
    version: int = 1


class StainMethod(Protocol):
    """A way to describe the stain of a slide, and to bring pixels from it to the target."""

    def fit(self, rgb: Pixels) -> dict[str, Any]:
        """Parameters of the stain of tissue pixels (P, 3) uint8, as plain JSON values. Deterministic."""
        ...

    def map(self, rgb: torch.Tensor, parameters: Mapping[str, Any]) -> torch.Tensor:
        """Levels (..., 3) float32, 0 to 255, brought to the target; may leave the range."""
        ...


STAIN_METHODS: Registry[StainCard] = Registry(
    "stain normalisation", package="wsikit.slides.stain", group="wsikit.stain"
)


def register_stain(
    name: str, *, summary: str, reference: str, version: int = 1
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Enter a class with ``fit`` and ``map``: ``@register_stain("macenko", ...)``."""
    return STAIN_METHODS.register(StainCard(name, summary, reference, version))


def stain_identity(method: str) -> dict[str, Any]:
    """What of a method decides features: its name and the version of its numbers."""
    return {"method": method, "version": STAIN_METHODS[method].card.version}


def density(rgb: Pixels) -> Densities:
    """Optical density of levels, natural log; negative where brighter than glass."""
    return np.asarray(-np.log((rgb.astype(np.float64) + 1) / LIGHT))


def tissue_pixels(tiles: Pixels) -> Pixels:
    """Tissue pixels (P, 3) of tiles (N, H, W, 3), evenly spaced and at most ``MOST_PIXELS``."""
    pixels = tiles.reshape(-1, 3)
    pixels = pixels[pixels.min(axis=1) <= LIGHT * np.exp(-LEAST_DENSITY) - 1]
    return np.ascontiguousarray(pixels[:: -(-len(pixels) // MOST_PIXELS) or 1])


def fit_stain(method: str, tiles: Pixels) -> dict[str, Any]:
    """Describe the stain of a slide.

    Args:
        method: One of ``STAIN_METHODS.names()``.
        tiles: A sample of the slide, RGB (N, H, W, 3) uint8; some 30 tiles on tissue are enough.

    Returns:
        Plain JSON values for :func:`normalise_stain`; empty where the sample holds too little tissue, and
        then tiles are left as they are.

    Raises:
        UnknownNameError: No such method.

    Example:
        >>> fit_stain("macenko", np.full((1, 64, 64, 3), 255, np.uint8))
        {}
    """
    chosen: StainMethod = STAIN_METHODS[method].build()
    pixels = tissue_pixels(tiles)
    parameters = chosen.fit(pixels) if len(pixels) >= LEAST_PIXELS else {}
    if not parameters:
        log.warning("stain normalisation %r: %d tissue pixels show no stain that can be fitted", method, len(pixels))
    # Rounded: the last bits of a sum may depend on the machine, and these numbers are kept in the store.
    return {name: np.round(np.asarray(value, np.float64), 6).tolist() for name, value in parameters.items()}


def normalise_stain(method: str, tiles: Pixels, parameters: Mapping[str, Any], *, device: str = "cpu") -> Pixels:
    """Tiles as if they had the stain of the target.

    Args:
        method: The method that gave the parameters.
        tiles: RGB (N, H, W, 3) uint8 of the slide that was fitted; not changed.
        parameters: Of :func:`fit_stain`; empty ones leave tiles as they are.
        device: As torch names it.

    Returns:
        RGB (N, H, W, 3) uint8. Row i depends on tile i alone.
    """
    import torch

    if not parameters:
        return tiles
    chosen: StainMethod = STAIN_METHODS[method].build()
    out = np.empty_like(tiles)
    with torch.inference_mode():
        for start in range(0, len(tiles), _AT_ONCE):
            rgb = torch.from_numpy(np.ascontiguousarray(tiles[start : start + _AT_ONCE])).to(device).float()
            dye = -torch.log((rgb.amin(-1, keepdim=True) + 1) / LIGHT)  # (n, H, W, 1) of the darkest channel
            share = ((dye - GLASS_DENSITY) / (LEAST_DENSITY - GLASS_DENSITY)).clamp(0, 1)
            mixed = torch.lerp(rgb, chosen.map(rgb, parameters).clamp(0, 255), share)
            out[start : start + _AT_ONCE] = mixed.round().to(torch.uint8).cpu().numpy()
    return out
