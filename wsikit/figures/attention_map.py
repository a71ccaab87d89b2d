"""Attention over the tiles of a slide: the thumbnail, and beside it the tiles in colour with their scale."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.figures.overlay import INK, LEAST_SIDE_PX, Picture, draw_scale_bar, font_of, text_at
from wsikit.figures.tile_map import draw_tile_map, score_colours

Numbers = npt.NDArray[np.floating[Any]]

SCALE_TITLE = "{name}, times the average tile"
LEAST = 1 / 64
"""Lower end of every scale at least: fainter tiles hardly count."""

_GAP, _LEAST_CELL = 20, 380  # px: between the two pictures, and the least width of each with its paper
_BAR, _WORDS, _PAD, _APART, _TEXT = 18, 74, 28, 58, 20  # px: the bar, its words, beside it, between labels, letters


def attention_limits(times_average: Numbers) -> tuple[float, float]:
    """Ends of the colour scale: powers of two around the 2 % and the 99.5 % quantile, at least 1/2 and 2.

    Fixed ends would show most models as one colour, as attention is spread over a few times the
    average in one and over a thousand times in another. The least span keeps noise around a
    uniform attention from looking like structure.

    Args:
        times_average: (N,) attention x N.
    """
    low, high = np.quantile(np.asarray(times_average, np.float64), (0.02, 0.995)).tolist()
    return min(float(2 ** np.floor(np.log2(max(low, LEAST)))), 0.5), max(float(2 ** np.ceil(np.log2(high))), 2.0)


def attention_positions(times_average: Numbers, limits: tuple[float, float]) -> npt.NDArray[np.float64]:
    """Where values lie on the colour scale, (N,) from 0 to 1: logarithmic, the average in the middle.

    Args:
        times_average: (N,) attention x N, >= 0.
        limits: Values at 0 (below 1) and at 1 (above 1); what lies beyond has their colours.
    """
    low, high = limits
    logs = np.log(np.clip(np.asarray(times_average, np.float64), low, high))
    return np.asarray(np.where(logs < 0, 0.5 - 0.5 * logs / np.log(low), 0.5 + 0.5 * logs / np.log(high)), np.float64)


def draw_attention_map(
    rgb: Picture,
    tiles_xywh: Numbers,
    times_average: Numbers,
    *,
    limits: tuple[float, float] | None = None,
    um_per_px: float | None = None,
    name: str = "attention",
) -> Picture:
    """A thumbnail, and beside it the same with its tiles in the colour of their attention, and a colour bar.

    Args:
        rgb: The thumbnail, (h, w, 3) uint8.
        tiles_xywh: (N, 4): left, top, width, height of each tile, px of the thumbnail.
        times_average: (N,) attention relative to that of an average tile of the bag: 1 = average.
        limits: Of the colours; default :func:`attention_limits` of these tiles. Give those of the whole
            bag where it has several slides, so that their colours mean the same.
        um_per_px: Micrometres per pixel of the thumbnail; gives a scale bar.
        name: What the colours show.

    Returns:
        The picture, RGB uint8, on white.
    """
    import cv2

    factor = max(1.0, LEAST_SIDE_PX / max(rgb.shape[:2]))
    size = (round(rgb.shape[1] * factor), round(rgb.shape[0] * factor))
    plain = np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_CUBIC), np.uint8) if factor > 1 else rgb
    limits = attention_limits(times_average) if limits is None else limits
    colours = score_colours(attention_positions(times_average, limits))
    tinted = draw_tile_map(plain, np.asarray(tiles_xywh, np.float64) * factor, colours, opacity=0.65)
    if um_per_px is not None:
        plain = draw_scale_bar(plain, um_per_px / factor, text_px=_TEXT)
    height, width = plain.shape[:2]
    cell = max(width, _LEAST_CELL)
    paper = np.full((height, 2 * cell + _GAP, 3), 255, np.uint8)
    for left, picture in ((0, plain), (cell + _GAP, tinted)):
        start = left + (cell - width) // 2
        paper[:, start : start + width] = picture
    bar = np.full((_BAR + _WORDS, paper.shape[1], 3), 255, np.uint8)
    bar[:, cell + _GAP :] = _draw_bar(cell, limits, SCALE_TITLE.format(name=name))
    return np.concatenate([paper, bar])


def _draw_bar(width: int, limits: tuple[float, float], title: str) -> Picture:
    """The colour bar with its ticks and title below, (_BAR + _WORDS, width, 3)."""
    strip = np.full((_BAR + _WORDS, width, 3), 255, np.uint8)
    long = width - 2 * _PAD
    strip[10 : 10 + _BAR, _PAD : _PAD + long] = score_colours((np.arange(long) + 0.5) / long)
    labels: list[tuple[float, str]] = []
    octaves = range(round(np.log2(limits[0])), round(np.log2(limits[1])) + 1)
    for octave in sorted(octaves, key=lambda o: (o != 0, o not in (octaves[0], octaves[-1]), o)):
        x = _PAD + float(attention_positions(np.array([2.0**octave]), limits)[0]) * (long - 1)
        if all(abs(x - other) >= _APART for other, _ in labels):
            labels.append((x, f"{2**octave}" if octave >= 0 else f"1/{2**-octave}"))
            strip[10 + _BAR : 15 + _BAR, round(x) - 1 : round(x) + 1] = INK
    for x, text in labels:
        left = x - font_of(_TEXT).getlength(text) / 2
        strip = text_at(strip, (round(left), _BAR + 17), text, _TEXT, INK)
    left = (width - font_of(_TEXT).getlength(title)) / 2
    return text_at(strip, (max(0, round(left)), _BAR + 43), title, _TEXT, INK)
