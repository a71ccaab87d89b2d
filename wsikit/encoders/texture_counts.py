"""Counts of local patterns in tiles, on the CPU: integer arithmetic from the pixels to the histograms.

``texture_counts_torch`` counts the same on any torch device. Because both only add, compare and
shift whole numbers, they agree to the last count, whatever the device, the number of threads or
the batch; what is made of the counts is in ``families.texture``.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from wsikit.encoders.stain_planes import split_channels, stain_planes

Counts = npt.NDArray[np.float64]
"""(N, HISTOGRAMS, 256): whole numbers, exact in float64."""

PLANES = 2
"""Haematoxylin, eosin."""

LEVELS = 5
"""Octaves of the pyramid; the last one is described by its spots alone."""

PATTERN_LEVELS = 4
"""Octaves whose local patterns are counted."""

JOINT_LEVELS = (0, 2)
"""Octaves at which the two stains are counted together."""

MARGIN = 4
"""Grey levels by which a neighbour must exceed the centre in the second, noise-proof pattern."""

GATE_EDGES = (20, 50, 90)
"""Haematoxylin of: background and lumen | stroma | pale nucleus | dark nucleus (100 = one unit of stain)."""

SPOT_EDGES = (-24, -8, -2, 3, 9, 25)
"""Laplacian, in grey levels, from bright spot through flat to dark spot."""

JOINT_STEP, JOINT_BINS = 14, 6
"""Grey levels per bin, and bins, of each stain in the joint histogram."""

NEIGHBOURS = ((0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1))
"""Row and column steps round a pixel, in order of angle: bit k of a pattern is neighbour k."""

PATTERN, MARGIN_PATTERN, SPOT_BY_STAIN, SPOT = range(4)
"""Kinds of histogram of a plane at one level."""

MIN_SIDE = 3
"""A level smaller than this has no pixel with eight neighbours, and counts nothing."""

_CHUNK_PIXELS = 1 << 16
"""Pixels per pass: a 256 px tile; the working set stays in a core's second-level cache."""


def histogram_index(kind: int, plane: int, level: int) -> int:
    """Where a histogram of one plane lies along axis 1 of the counts."""
    return (level * PLANES + plane) * 4 + kind


def joint_index(which: int) -> int:
    """Where the joint histogram of ``JOINT_LEVELS[which]`` lies along axis 1 of the counts."""
    return LEVELS * PLANES * 4 + which


HISTOGRAMS = LEVELS * PLANES * 4 + len(JOINT_LEVELS)


def tables() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Look-up tables (256,): level -> gate x 7; Laplacian + 128 -> spot bin; level -> bin of the joint histogram."""
    levels = np.arange(256)
    gate = np.digitize(levels, GATE_EDGES) * (len(SPOT_EDGES) + 1)
    spot = np.digitize(levels - 128, SPOT_EDGES)
    joint = np.minimum(levels // JOINT_STEP, JOINT_BINS - 1)
    return gate.astype(np.uint8), spot.astype(np.uint8), joint.astype(np.uint8)


def count_patterns(pixels: npt.NDArray[np.uint8]) -> Iterator[tuple[slice, Counts]]:
    """Counts of RGB tiles (N, H, W, 3) uint8, a few tiles at a time: (rows, counts of those rows)."""
    n, height, width = pixels.shape[:3]
    step = max(1, _CHUNK_PIXELS // (height * width))
    for start in range(0, n, step):
        tiles = pixels[start : start + step]
        counts = np.zeros((len(tiles), HISTOGRAMS, 256))
        # The tiles of a chunk lie below one another: separation works on pixels, whatever their tile.
        tall = split_channels(tiles.reshape(-1, width, 3))
        stains = np.stack([plane.reshape(-1, height, width) for plane in stain_planes(*tall)])  # (2, n, H, W)
        for level in range(LEVELS):
            if level:
                stains = _half(stains)
            if min(stains.shape[2:]) < MIN_SIDE:
                break
            _count_level(stains, level, counts)
        yield slice(start, start + len(tiles)), counts


def _half(stains: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The next octave: binomial 5 x 5 smoothing, mirrored at the border, every second pixel. (2, n, H, W)."""
    import cv2

    planes, n, height, width = stains.shape
    halves = np.empty((planes, n, (height + 1) // 2, (width + 1) // 2), np.uint8)
    for target, source in zip(halves.reshape(-1, *halves.shape[2:]), stains.reshape(-1, height, width), strict=True):
        cv2.pyrDown(source, dst=target)
    return halves


def _count_level(stains: npt.NDArray[np.uint8], level: int, counts: Counts) -> None:
    """Add the histograms of one octave of the stains (2, n, H, W)."""
    import cv2

    gate_table, spot_table, joint_table = tables()
    laplacian = _laplacian(stains)  # (2, n, H - 2, W - 2), as level - 128
    spots = cv2.LUT(laplacian.reshape(1, -1), spot_table).reshape(laplacian.shape) if level < PATTERN_LEVELS else None
    kinds = {SPOT: laplacian}
    if level < PATTERN_LEVELS:
        gate = cv2.LUT(np.ascontiguousarray(stains[0, :, 1:-1, 1:-1]).reshape(1, -1), gate_table)
        kinds[SPOT_BY_STAIN] = spots + gate.reshape(laplacian.shape[1:])
        kinds[PATTERN] = _pattern(stains, 0)
        kinds[MARGIN_PATTERN] = _pattern(stains, MARGIN)
    for kind, values in kinds.items():
        for plane in range(PLANES):
            for row, image in enumerate(values[plane]):
                counts[row, histogram_index(kind, plane, level)] = _histogram(image)
    if level in JOINT_LEVELS:
        bins = cv2.LUT(stains.reshape(1, -1), joint_table).reshape(stains.shape)
        joint = bins[0] * np.uint8(JOINT_BINS) + bins[1]
        for row, image in enumerate(joint):
            counts[row, joint_index(JOINT_LEVELS.index(level))] = _histogram(image)


def _laplacian(stains: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Half the sum of the four diagonal neighbours less four times the centre, + 128, clipped to 8 bits."""
    wide = stains.astype(np.int16)
    total = wide[..., :-2, :-2] + wide[..., :-2, 2:]
    total += wide[..., 2:, :-2]
    total += wide[..., 2:, 2:]
    total -= wide[..., 1:-1, 1:-1] << 2
    total >>= 1
    total += 128
    return np.clip(total, 0, 255, out=total).astype(np.uint8)


def _pattern(stains: npt.NDArray[np.uint8], margin: int) -> npt.NDArray[np.uint8]:
    """Local binary patterns: bit k is set where neighbour k >= centre + margin (at most 255)."""
    height, width = stains.shape[2:]
    centre = stains[..., 1:-1, 1:-1]
    if margin:
        centre = np.minimum(centre, 255 - margin) + np.uint8(margin)
    code = np.zeros((*stains.shape[:2], height - 2, width - 2), np.uint8)
    bit = np.empty(code.shape, np.bool_)
    for row, column in reversed(NEIGHBOURS):
        neighbour = stains[..., 1 + row : height - 1 + row, 1 + column : width - 1 + column]
        np.greater_equal(neighbour, centre, out=bit)
        code += code
        code |= bit.view(np.uint8)
    return code


def _histogram(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    import cv2

    return np.asarray(cv2.calcHist([image], [0], None, [256], [0, 256]), np.float32).reshape(256)
