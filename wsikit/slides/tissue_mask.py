"""Tissue masks: what they are, how they are made, and the table of methods that make them.

A method is one file in ``wsikit/slides/tissue``: a class with ``segment(rgb, mpp)``, entered with
:func:`register_segmenter`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from wsikit.errors import ConfigError, NotBrightfieldError
from wsikit.registry import Registry, nearest
from wsikit.slides.base import Pixels
from wsikit.slides.overview import read_overview
from wsikit.slides.slide import Slide

Mask = npt.NDArray[np.bool_]

DEFAULT_METHOD = "saturation"


@dataclass(frozen=True)
class TissueMask:
    """Where tissue is on a slide.

    Attributes:
        mask: (h, w) bool, True = tissue, covering the whole slide.
        downsample: Level-0 px per mask px along (x, y).
        mpp: Micrometres per mask pixel (geometric mean of x and y).
        method: Name of the segmenter, or "geojson", or "whole".
        parameters: Everything else that decides the mask, as plain values.
        unreadable_px: Mask pixels that could not be decoded. They count as tissue, so that the
            tiles there are planned and then recorded as unreadable rather than lost as glass.
    """

    mask: Mask
    downsample: tuple[float, float]
    mpp: float
    method: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    unreadable_px: int = 0

    @property
    def fraction(self) -> float:
        """Share of the slide's area that is tissue, 0 to 1."""
        return float(self.mask.mean()) if self.mask.size else 0.0

    @property
    def area_mm2(self) -> float:
        """Tissue area in square millimetres."""
        return float(self.mask.sum()) * self.mpp**2 / 1e6


class Segmenter(Protocol):
    """A method that finds tissue.

    Its constructor's keyword options are its parameters, and stand in the store as they are; one that
    takes something that may not (a path) has a property ``identity`` with what stands there instead.
    One whose options settle the resolution it works at has a property ``mpp``, which goes before its card's.
    Building one is cheap: files are loaded when ``segment`` is first called.
    """

    def segment(self, rgb: Pixels, mpp: float) -> Mask:
        """Tissue of an overview: RGB (h, w, 3) uint8 at ``mpp`` um per pixel -> (h, w) bool."""
        ...


@dataclass(frozen=True)
class SegmenterCard:
    """What is true of a segmenter before it is built.

    Args:
        name: As given to ``--tissue``.
        summary: One line for the table in the docs.
        mpp: Resolution of the overview it works on, um per pixel.
        reference: Paper or source.
    """

    name: str
    summary: str
    mpp: float
    reference: str


SEGMENTERS: Registry[SegmenterCard] = Registry(
    "tissue segmenter", package="wsikit.slides.tissue", group="wsikit.segmenters"
)


def register_segmenter(
    name: str, *, summary: str, mpp: float, reference: str
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Enter a segmenter class: ``@register_segmenter("saturation", ...)``."""
    return SEGMENTERS.register(SegmenterCard(name, summary, mpp, reference))


def segmenter_options(method: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """All options of a method, defaults filled in; unknown ones are refused with the nearest name."""
    signature = inspect.signature(SEGMENTERS[method].build)
    known = {name: p.default for name, p in signature.parameters.items()}
    for name in options:
        if name not in known:
            raise ConfigError(
                f"tissue segmenter {method!r} has no option {name!r}{nearest(name, known)} "
                f"(it has: {', '.join(known) or 'none'})"
            )
    chosen = {**known, **options}
    missing = [name for name, value in chosen.items() if value is inspect.Parameter.empty]
    if missing:
        raise ConfigError(f"tissue segmenter {method!r} needs the option {', '.join(map(repr, missing))}")
    return chosen


def recorded_parameters(method: str, options: Mapping[str, Any], *, mpp: float | None = None) -> dict[str, Any]:
    """What decides the masks of a method, as plain JSON values without paths: part of a store's configuration."""
    parameters = segmenter_options(method, options)
    segmenter = SEGMENTERS[method].build(**parameters)
    return {**getattr(segmenter, "identity", parameters), "mpp": working_mpp(method, segmenter, mpp)}


def working_mpp(method: str, segmenter: Segmenter, asked: float | None = None) -> float:
    """Resolution of the overview that a segmenter is given, um per pixel: as asked, as it wants, as its card says."""
    return asked or float(getattr(segmenter, "mpp", SEGMENTERS[method].card.mpp))


def segment_tissue(
    slide: Slide, *, method: str = DEFAULT_METHOD, mpp: float | None = None, **options: Any
) -> TissueMask:
    """Find the tissue of a slide.

    Args:
        slide: An open slide.
        method: Name of a segmenter (``wsikit models --kind tissue`` lists them).
        mpp: Resolution to work at, um per pixel; default: the method's own. A slide that is coarser
            is taken as it is.
        **options: The method's parameters.

    Returns:
        The mask. It may be empty: that is a finding, and tiling then says so.

    Raises:
        UnknownNameError: No such method.
        NotBrightfieldError: The slide is dark where glass should be: fluorescence, not bright field.

    Example:
        >>> tissue = wk.segment_tissue(slide, method="saturation")      # doctest: +SKIP
        >>> tissue.fraction                                             # doctest: +SKIP
        0.42
    """
    segmenter: Segmenter = SEGMENTERS[method].build(**segmenter_options(method, options))
    overview = read_overview(slide, mpp=working_mpp(method, segmenter, mpp))
    rgb = filled_from_nearest(overview.rgb, overview.readable)
    refuse_dark(slide, rgb)
    downsample = overview.downsample
    reached = slide.mpp.mean * float(np.sqrt(downsample[0] * downsample[1]))
    mask = np.asarray(segmenter.segment(rgb, reached), np.bool_)
    if mask.shape != rgb.shape[:2]:
        raise ValueError(f"tissue segmenter {method!r}: mask of shape {mask.shape} for an overview of {rgb.shape[:2]}")
    unreadable = ~overview.readable
    recorded = recorded_parameters(method, options, mpp=mpp)
    return TissueMask(mask | unreadable, downsample, reached, method, recorded, int(unreadable.sum()))


def filled_from_nearest(rgb: Pixels, readable: Mask) -> Pixels:
    """An overview whose unreadable pixels have the colour of the nearest readable one.

    A grey block would be a thing of its own to a segmenter (ink, an edge, another level of the glass), and cost
    tissue beside it that can be read.

    Args:
        rgb: (h, w, 3) uint8.
        readable: (h, w) bool.
    """
    import cv2

    if readable.all() or not readable.any():
        return rgb
    _, labels = cv2.distanceTransformWithLabels(
        (~readable).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )  # (h, w), for each pixel the number of the readable one that is nearest
    nearest_of = np.zeros(int(labels.max()) + 1, np.int64)
    nearest_of[labels[readable]] = np.flatnonzero(readable)
    filled: Pixels = rgb.reshape(-1, 3)[nearest_of[labels]]  # (h, w, 3)
    return filled


def refuse_dark(slide: Slide, rgb: Pixels) -> None:
    """Raise NotBrightfieldError where even the brightest parts of an overview are dark.

    In bright field the light comes through: the brightest twentieth of any slide is glass or pale
    stroma, well above half of the range. In fluorescence it is a dim signal on black.
    """
    brightest = float(np.percentile(rgb.max(axis=2), 95))
    if brightest < 100 and float(np.median(rgb.max(axis=2))) < 60:
        raise NotBrightfieldError(
            f"slide {slide.path}: not a bright-field scan: 95 % of its pixels are darker than {brightest:.0f} of 255; "
            "fluorescence and dark-field images have no tissue in the sense of wsikit"
        )
