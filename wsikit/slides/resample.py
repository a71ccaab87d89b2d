"""From the pixels that were read to the pixels of a tile."""

from __future__ import annotations

import functools
import math
import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.slides.base import Pixels

_BAND = 8
"""Output rows of one small matrix product: more of them multiply more zeros, fewer make more calls."""

_PRODUCTS = 250_000
"""Multiplications of one product: OpenBLAS starts threads, which then spin beside the readers, from 262,145 on."""

_LARGEST = 1 << 24
"""Bytes of the largest region that is averaged as floats, which take six times that."""

_local = threading.local()


def scratch(use: str, shape: tuple[int, ...], dtype: type[np.generic]) -> npt.NDArray[Any]:
    """This thread's array for one use, the same one at each call: fresh memory costs more than the work on it."""
    arrays: dict[str, npt.NDArray[Any]] = _local.__dict__
    if use not in arrays or arrays[use].shape != shape:
        arrays[use] = np.empty(shape, dtype)
    return arrays[use]


def resample(region: Pixels, out: Pixels, how: str) -> None:
    """Fill ``out`` from a region of another size.

    Args:
        region: (h, w, 3) uint8.
        out: (tile_px, tile_px, 3) uint8, contiguous: where the tile goes.
        how: A value of :attr:`wsikit.slides.level.LevelChoice.resampler`. "area" averages exactly; "dct"
            averages what the JPEG decoder has left to do; "cubic" interpolates; "none" copies.
    """
    import cv2

    size = out.shape[1::-1]
    if how == "none" or region.shape == out.shape:
        out[:] = region
    elif how == "cubic":
        cv2.resize(region, size, dst=out, interpolation=cv2.INTER_CUBIC)
    elif any(have % want for have, want in zip(region.shape, out.shape, strict=True)) and region.size <= _LARGEST:
        _average(region, out)
    else:  # whole pixels only: OpenCV has a fast kernel for that; or so many that they should not be kept as floats
        cv2.resize(region, size, dst=out, interpolation=cv2.INTER_AREA)


def _average(region: Pixels, out: Pixels) -> None:
    """Area average for any ratio: OpenCV's own takes twice as long for fractions of a pixel."""
    import cv2

    (height, width, _), (rows, columns, _) = region.shape, out.shape
    values = scratch("values", region.shape, np.float32)
    values[:] = region
    shrunk = scratch("shrunk", (rows, width, 3), np.float32)
    _average_rows(values.reshape(height, -1), shrunk.reshape(rows, -1))
    turned = scratch("turned", (width, rows, 3), np.float32)
    cv2.transpose(shrunk, dst=turned)
    across = scratch("across", (columns, rows, 3), np.float32)
    _average_rows(turned.reshape(width, -1), across.reshape(columns, -1))
    cv2.transpose(cv2.convertScaleAbs(across, dst=scratch("bytes", across.shape, np.uint8)), dst=out)


def _average_rows(values: npt.NDArray[np.float32], out: npt.NDArray[np.float32]) -> None:
    """(n, L) to (m, L)."""
    for first, low, weights in _bands(len(values), len(out)):
        step = max(1, _PRODUCTS // weights.size)
        for left in range(0, values.shape[1], step):
            part = slice(left, left + step)
            np.matmul(weights, values[low : low + weights.shape[1], part], out=out[first : first + len(weights), part])


@functools.lru_cache(maxsize=16)
def _bands(source: int, target: int) -> list[tuple[int, int, npt.NDArray[np.float32]]]:
    """The matrix (target, source) that averages, in bands: first output row, first input row, what is not zero."""
    ends = np.arange(target + 1) * source / target
    pixels = np.arange(source)
    covered = np.minimum(ends[1:, None], pixels + 1) - np.maximum(ends[:-1, None], pixels)  # (target, source)
    weights = (covered.clip(0) * target / source).astype(np.float32)
    bands = []
    for first in range(0, target, _BAND):
        last = min(first + _BAND, target)
        low, high = math.floor(ends[first]), math.ceil(ends[last])
        bands.append((first, low, np.ascontiguousarray(weights[first:last, low:high])))
    return bands
