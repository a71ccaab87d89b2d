"""Counts of local patterns in tiles, in integer arithmetic from the pixels to the histograms.

``texture_counts_torch`` counts the same on any torch device. Because both only add, compare, shift
and look up whole numbers, they agree to the last count, whatever the device, the number of threads
or the batch; what is made of the counts is in ``families.texture``.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.encoders.stain_planes import split_channels, stain_planes

Counts = npt.NDArray[np.uint32]
"""(N, HISTOGRAMS, 256)."""

PLANES = 2
"""Haematoxylin, eosin."""

LEVELS = 5
"""Octaves of the pyramid; the last one is described by the moments of its spots alone."""

PATTERN_LEVELS = 4
"""Octaves whose local patterns are counted."""

JOINT_LEVELS = (0, 2)
"""Octaves at which the two stains are counted together."""

GATE_EDGES = (20, 60)
"""Haematoxylin, in grey levels (100 = one unit of stain): lumen and fat | stroma and cytoplasm | nuclei."""

SPOT_EDGES = (-24, -8, -2, 3, 9, 25)
"""Laplacian, in grey levels: from the middle of a dense spot through flat to the middle of a pale one."""

JOINT_STEP, JOINT_BINS = 14, 6
"""Grey levels per bin, and bins, of each stain in the joint histogram."""

NEIGHBOURS = ((0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1))
"""Row and column steps round a pixel, in order of angle: bit k of a pattern is neighbour k."""

KINDS = 3
PATTERN, SPOT_BY_STAIN, SPOT = range(KINDS)
"""Kinds of histogram of a plane at one level."""

HISTOGRAMS = LEVELS * PLANES * KINDS + len(JOINT_LEVELS)

MIN_SIDE = 3
"""A level smaller than this has no pixel with eight neighbours, and counts nothing."""

_CHUNK_PIXELS = 1 << 16
"""Pixels per pass: one tile of 256 px; the working set stays in a core's second-level cache."""


def histogram_index(level: int, plane: int, kind: int) -> int:
    """Where a histogram of one plane lies along axis 1 of the counts."""
    return (level * PLANES + plane) * KINDS + kind


def joint_index(level: int) -> int:
    """Where the joint histogram of a level lies along axis 1 of the counts."""
    return LEVELS * PLANES * KINDS + JOINT_LEVELS.index(level)


@cache
def tables() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Look-up tables (256,): haematoxylin -> gate x 7; Laplacian + 128 -> spot bin; stain -> joint bin."""
    levels = np.arange(256)
    gate = np.digitize(levels, GATE_EDGES) * (len(SPOT_EDGES) + 1)
    spot = np.digitize(levels - 128, SPOT_EDGES)
    joint = np.minimum(levels // JOINT_STEP, JOINT_BINS - 1)
    return gate.astype(np.uint8), spot.astype(np.uint8), joint.astype(np.uint8)


def count_patterns(pixels: npt.NDArray[np.uint8]) -> Counts:
    """Counts of RGB tiles (N, H, W, 3) uint8 on the CPU."""
    n, height, width = pixels.shape[:3]
    counts = np.zeros((n, HISTOGRAMS, 256), np.uint32)
    step = max(1, _CHUNK_PIXELS // (height * width))
    memory = Workspace()
    for start in range(0, n, step):
        _count_chunk(pixels[start : start + step], counts[start : start + step], memory)
    return counts


class Workspace:
    """Arrays that are used again and again: fresh ones of this size cost more in page faults than the sums."""

    def __init__(self) -> None:
        self._arrays: dict[tuple[str, tuple[int, ...]], npt.NDArray[Any]] = {}

    def __call__(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike = np.uint8) -> npt.NDArray[Any]:
        """The array of that name and shape, with whatever it held before."""
        if (name, shape) not in self._arrays:
            self._arrays[name, shape] = np.zeros(shape, dtype)
        return self._arrays[name, shape]


def _count_chunk(tiles: npt.NDArray[np.uint8], counts: Counts, memory: Workspace) -> None:
    """Fill the counts (n, HISTOGRAMS, 256) of a few tiles (n, H, W, 3)."""
    n, height, width = tiles.shape[:3]
    # The tiles lie below one another: separation works on pixels, whatever their tile.
    channels = split_channels(tiles.reshape(-1, width, 3))
    stains = memory("stains 0", (PLANES, n, height, width))
    stain_planes(*channels, out=stains.reshape(PLANES, -1, width))
    for level in range(LEVELS):
        if level:
            stains = _half(stains, level, memory)
        if min(stains.shape[2:]) < MIN_SIDE:
            break
        _count_level(stains, level, counts, memory)


def _half(stains: npt.NDArray[np.uint8], level: int, memory: Workspace) -> npt.NDArray[np.uint8]:
    """The next octave: binomial 5 x 5 smoothing, mirrored at the border, every second pixel. (2, n, H, W)."""
    import cv2

    planes, n, height, width = stains.shape
    halves = memory(f"stains {level}", (planes, n, (height + 1) // 2, (width + 1) // 2))
    for target, source in zip(halves.reshape(-1, *halves.shape[2:]), stains.reshape(-1, height, width), strict=True):
        cv2.pyrDown(source, dst=target)
    return halves


def _count_level(stains: npt.NDArray[np.uint8], level: int, counts: Counts, memory: Workspace) -> None:
    """Fill in the histograms of one octave of the stains (2, n, H, W)."""
    import cv2

    gate_table, spot_table, joint_table = tables()
    bins = memory("bins", stains.shape)
    laplacian = _laplacian(stains, memory)
    _count(laplacian, level, SPOT, counts)
    if level < PATTERN_LEVELS:
        gate = memory("gate", stains.shape[1:])
        cv2.LUT(stains[0].reshape(1, -1), gate_table, dst=gate.reshape(1, -1))
        cv2.LUT(laplacian.reshape(1, -1), spot_table, dst=bins.reshape(1, -1))
        bins += gate
        _count(bins, level, SPOT_BY_STAIN, counts)
        _count(_patterns(stains, memory), level, PATTERN, counts)
    if level in JOINT_LEVELS:
        cv2.LUT(stains.reshape(1, -1), joint_table, dst=bins.reshape(1, -1))
        joint = memory("joint", stains.shape[1:])
        np.multiply(bins[0], np.uint8(JOINT_BINS), out=joint)
        joint += bins[1]
        for row, image in zip(counts, joint, strict=True):
            row[joint_index(level)] = _histogram(image)


def _count(values: npt.NDArray[np.uint8], level: int, kind: int, counts: Counts) -> None:
    """Histograms of (2, n, H, W) over the pixels that have eight neighbours."""
    for plane in range(PLANES):
        for row, image in zip(counts, values[plane], strict=True):
            row[histogram_index(level, plane, kind)] = _histogram(image[1:-1, 1:-1])


def _histogram(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    import cv2

    return np.asarray(cv2.calcHist([image], [0], None, [256], [0, 256]), np.float32).reshape(256)


def _laplacian(stains: npt.NDArray[np.uint8], memory: Workspace) -> npt.NDArray[np.uint8]:
    """Half of (the four diagonal neighbours' sum less four times the centre), + 128, clipped to 8 bits.

    Works on the flat array, where a neighbour is a fixed step away: contiguous, and so several times
    as fast as on a grid. On the rim the step leads to another row; the rim is not counted.
    """
    width, size = stains.shape[3], stains.size
    rim = width + 1
    wide = memory("wide", stains.shape, np.int16).reshape(-1)
    total = memory("total", stains.shape, np.int16).reshape(-1)[rim : size - rim]
    result = memory("laplacian", stains.shape)
    wide[...] = stains.reshape(-1)
    np.add(wide[: size - 2 * rim], wide[2 * rim :], out=total)
    total += wide[2 : size - 2 * width]
    total += wide[2 * width : size - 2]
    wide <<= 2
    total -= wide[rim : size - rim]
    total >>= 1
    total += 128
    np.clip(total, 0, 255, out=total)
    result.reshape(-1)[rim : size - rim] = total
    return result


def _patterns(stains: npt.NDArray[np.uint8], memory: Workspace) -> npt.NDArray[np.uint8]:
    """Local binary patterns: bit k is set where neighbour k >= centre; flat, as the Laplacian."""
    width, size = stains.shape[3], stains.size
    rim = width + 1
    pixels = stains.reshape(-1)
    centre = pixels[rim : size - rim]
    patterns = memory("patterns", stains.shape)
    code = patterns.reshape(-1)[rim : size - rim]
    bit = memory("bit", stains.shape, np.bool_).reshape(-1)[rim : size - rim]
    code[...] = 0
    for row, column in reversed(NEIGHBOURS):
        step = row * width + column
        np.greater_equal(pixels[rim + step : size - rim + step], centre, out=bit)
        code += code
        code |= bit.view(np.uint8)
    return patterns
