"""The counts of ``texture_counts``, in torch for a GPU: the same whole numbers by other instructions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from wsikit.encoders import texture_counts as cpu
from wsikit.encoders.stain_planes import FRACTION_BITS, stain_tables

if TYPE_CHECKING:
    import torch

_CHUNK_PIXELS = 1 << 24
"""Pixels per pass: 256 tiles of 256 px, about 2 GB of int32 and int64 at the peak."""


def count_patterns_torch(pixels: npt.NDArray[np.uint8], device: torch.device) -> cpu.Counts:
    """Counts of RGB tiles (N, H, W, 3) uint8, computed on ``device``: (N, HISTOGRAMS, 256)."""
    import torch

    n, height, width = pixels.shape[:3]
    step = max(1, _CHUNK_PIXELS // (height * width))
    counts = np.zeros((n, cpu.HISTOGRAMS, 256), np.uint32)
    with torch.inference_mode():
        for start in range(0, n, step):
            tiles = pixels[start : start + step]
            host = torch.empty(tiles.shape, dtype=torch.uint8, pin_memory=device.type == "cuda")
            host.numpy()[...] = tiles
            counts[start : start + step] = _count_chunk(host.to(device, non_blocking=True)).cpu().numpy()
    return counts


def _count_chunk(tiles: torch.Tensor) -> torch.Tensor:
    """(n, H, W, 3) uint8 -> counts (n, HISTOGRAMS, 256) int64."""
    import torch

    device = tiles.device
    gate_table, spot_table, joint_table = (
        torch.from_numpy(table.astype(np.int32)).to(device) for table in cpu.tables()
    )
    counts = torch.zeros((len(tiles), cpu.HISTOGRAMS, 256), dtype=torch.int64, device=device)

    def count(values: torch.Tensor, index: int) -> None:
        """Histogram of (n, h, w) int32 per tile, put in place ``index``."""
        rows = torch.arange(len(values), device=device).view(-1, 1, 1) * 256
        counts[:, index] = torch.bincount((values + rows).flatten(), minlength=256 * len(values)).view(-1, 256)

    stains = _stains(tiles)  # (2, n, H, W) int32
    for level in range(cpu.LEVELS):
        if level:
            stains = _half(stains)
        if min(stains.shape[2:]) < cpu.MIN_SIDE:
            break
        gate = gate_table[stains[0, :, 1:-1, 1:-1]]
        for plane, stain in enumerate(stains):
            laplacian = _laplacian(stain)
            count(laplacian, cpu.histogram_index(level, plane, cpu.SPOT))
            if level < cpu.PATTERN_LEVELS:
                count(spot_table[laplacian] + gate, cpu.histogram_index(level, plane, cpu.SPOT_BY_STAIN))
                count(_patterns(stain), cpu.histogram_index(level, plane, cpu.PATTERN))
        if level in cpu.JOINT_LEVELS:
            count(joint_table[stains[0]] * cpu.JOINT_BINS + joint_table[stains[1]], cpu.joint_index(level))
    return counts


def _stains(tiles: torch.Tensor) -> torch.Tensor:
    """(n, H, W, 3) uint8 -> haematoxylin and eosin (2, n, H, W) int32."""
    import torch

    tables = torch.from_numpy(stain_tables().astype(np.int32)).to(tiles.device)
    levels = tiles.int()
    planes = [sum(table[channel][levels[..., channel]] for channel in range(3)) for table in tables]
    return (torch.stack(planes) >> FRACTION_BITS).clamp_(0, 255)


def _half(stains: torch.Tensor) -> torch.Tensor:
    """The next octave of (2, n, H, W); a convolution would do, but TF32 would round it."""
    for axis in (3, 2):
        size = stains.shape[axis]
        total = sum(
            weight * stains.index_select(axis, _mirrored(size, shift, stains.device))
            for shift, weight in zip(range(-2, 3), (1, 4, 6, 4, 1), strict=True)
        )
        assert not isinstance(total, int)
        stains = total
    return (stains + 128) >> 8


def _mirrored(size: int, shift: int, device: torch.device) -> torch.Tensor:
    """Every second index from ``shift`` on, mirrored at both ends without repeating the last pixel."""
    import torch

    period = max(2 * (size - 1), 1)
    index = np.arange(shift, size + shift, 2) % period
    return torch.from_numpy(np.minimum(index, period - index) if size > 1 else 0 * index).to(device)


def _laplacian(stain: torch.Tensor) -> torch.Tensor:
    """(n, H, W) int32 -> (n, H - 2, W - 2), + 128, clipped to 8 bits."""
    corners = stain[:, :-2, :-2] + stain[:, :-2, 2:] + stain[:, 2:, :-2] + stain[:, 2:, 2:]
    return (((corners - 4 * stain[:, 1:-1, 1:-1]) >> 1) + 128).clamp_(0, 255)


def _patterns(stain: torch.Tensor) -> torch.Tensor:
    """(n, H, W) int32 -> local binary patterns (n, H - 2, W - 2)."""
    import torch

    height, width = stain.shape[1:]
    centre = stain[:, 1:-1, 1:-1]
    code = torch.zeros_like(centre)
    for bit, (row, column) in enumerate(cpu.NEIGHBOURS):
        neighbour = stain[:, 1 + row : height - 1 + row, 1 + column : width - 1 + column]
        code |= (neighbour >= centre).int() << bit
    return code
