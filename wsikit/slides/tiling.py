"""The grid of tiles over a slide, and the reading of tiles."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from wsikit.errors import ConfigError, TileReadError
from wsikit.geometry import Mpp, grid_origins
from wsikit.slides.base import OK, UNREADABLE, Pixels
from wsikit.slides.level import LevelChoice, choose_level
from wsikit.slides.resample import resample
from wsikit.slides.tissue_mask import TissueMask

if TYPE_CHECKING:
    from wsikit.slides.slide import Slide


@dataclass(frozen=True)
class TilingSpec:
    """How slides are cut into tiles.

    Args:
        tile_px: Side of a tile, px at ``target_mpp``.
        target_mpp: Micrometres per pixel of the tiles.
        stride_px: Distance between tile origins, px at ``target_mpp``; default: ``tile_px``.
        min_tissue: Keep a tile if at least this fraction of its area is tissue, 0 to 1.
        resampler: How pixels of a finer level become coarser ones: "area" averages exactly; "dct" lets the JPEG
            decoder halve them (once to three times) before that, which is faster and differs by a few grey
            levels (about 43 dB), and for which the slide has to be one that the direct reader reads.

    Raises:
        ConfigError: A value out of range.
    """

    tile_px: int = 256
    target_mpp: float = 0.5
    stride_px: int | None = None
    min_tissue: float = 0.25
    resampler: str = "area"

    def __post_init__(self) -> None:
        for field, value, good in (
            ("tile_px", self.tile_px, 8 <= self.tile_px <= 8192),
            ("target_mpp", self.target_mpp, 0.02 <= self.target_mpp <= 100),
            ("stride_px", self.stride_px, self.stride_px is None or 1 <= self.stride_px <= 65536),
            ("min_tissue", self.min_tissue, 0 <= self.min_tissue <= 1),
            ("resampler", self.resampler, self.resampler in ("area", "dct")),
        ):
            if not good:
                ranges = {"tile_px": "8 to 8192 px", "target_mpp": "0.02 to 100 um per pixel",
                          "stride_px": "1 to 65536 px", "min_tissue": "0 to 1",
                          "resampler": "'area' or 'dct'"}  # fmt: skip
                raise ConfigError(f"TilingSpec: {field}={value}; expected {ranges[field]}")

    @property
    def effective_stride_px(self) -> int:
        """The stride with its default filled in, px at ``target_mpp``."""
        return self.tile_px if self.stride_px is None else self.stride_px


@dataclass(frozen=True)
class TileCounts:
    """What became of every position of the grid.

    Attributes:
        kept: Tiles to read.
        glass: Whole tiles with less than ``min_tissue``.
        edge: Positions whose tile would stick out of the slide; none of them is read.
        edge_tissue: Those among them with tissue on at least ``min_tissue`` of the tile's area: what is lost.
    """

    kept: int
    glass: int
    edge: int
    edge_tissue: int


@dataclass(frozen=True)
class TileSet:
    """The tiles of one slide, in row-major order.

    Attributes:
        coords: (N, 2) int32, x then y of the top-left corner, level-0 px.
        tissue_fraction: (N,) float32, share of the tile's area that is tissue.
        choice: The level read and how its pixels become a tile.
        tile_px: Side of the finished tile, px.
        tile_level0_px: (width, height) that a tile covers, level-0 px.
        stride_level0_px: (x, y) distance of origins, level-0 px.
        counts: What became of every grid position.
    """

    coords: npt.NDArray[np.int32]
    tissue_fraction: npt.NDArray[np.float32]
    choice: LevelChoice
    tile_px: int
    tile_level0_px: tuple[float, float]
    stride_level0_px: tuple[float, float]
    counts: TileCounts

    @property
    def achieved_mpp(self) -> Mpp:
        """Micrometres per pixel of the finished tiles."""
        return self.choice.achieved_mpp

    def __len__(self) -> int:
        return len(self.coords)


def tile_slide(slide: Slide, tissue: TissueMask, spec: TilingSpec | None = None) -> TileSet:
    """Lay the grid of tiles over a slide and keep those on tissue.

    Origin (i, j) is ``round(i * stride_um / mpp)``, never a running sum. Where a level is read as
    it was scanned (within 1 % of the target) the stride is counted in that level's own pixels, so
    that neighbouring tiles share no pixel and miss none; the achieved resolution says by how much
    the tile differs from the target.

    Args:
        slide: An open slide.
        tissue: Its tissue mask.
        spec: Size, resolution, stride, tissue fraction.

    Returns:
        The tiles, possibly none.

    Raises:
        UpsamplingError: The slide is more than 5 % coarser than ``spec.target_mpp``.
        ConfigError: ``spec.resampler`` is "dct" and the slide's reader cannot.

    Example:
        >>> tiles = wk.tile_slide(slide, tissue, wk.TilingSpec(tile_px=256, target_mpp=0.5))  # doctest: +SKIP
        >>> tiles.coords[:2]                                                                # doctest: +SKIP
        array([[1024,    0], [1280,    0]], dtype=int32)
    """
    spec = spec or TilingSpec()
    choice = choose_level(
        slide.mpp, slide.level_downsamples, target_mpp=spec.target_mpp, tile_px=spec.tile_px, name=str(slide.path)
    )
    if spec.resampler == "dct" and choice.resampler == "area":
        batch = slide.batch_reader
        if batch is None or not batch.can_shrink:
            raise ConfigError(
                f"slide {slide.path}: resampler 'dct' needs JPEG tiles read by the reader 'direct_tiff', this slide "
                f"is read by {slide.reader!r}{_why_not_direct(slide)}; use resampler 'area' for all slides of a store"
            )
        choice = replace(choice, resampler="dct")
    tile = (choice.read_px[0] * choice.downsample, choice.read_px[1] * choice.downsample)
    if choice.resampler == "none":
        stride = (spec.effective_stride_px * choice.downsample, spec.effective_stride_px * choice.downsample)
    else:
        stride = (
            spec.effective_stride_px * spec.target_mpp / slide.mpp.x,
            spec.effective_stride_px * spec.target_mpp / slide.mpp.y,
        )
    width, height = slide.size
    # The last pixel row of a coarser level may start a fraction of a pixel before the end of level 0.
    level_w, level_h = slide.level_sizes[choice.level]
    extent = (max(width, math.floor(level_w * choice.downsample)), max(height, math.floor(level_h * choice.downsample)))
    (xs, edge_x), (ys, edge_y) = (
        grid_origins(extent[0], tile[0], stride[0]),
        grid_origins(extent[1], tile[1], stride[1]),
    )
    all_xs = np.concatenate([xs, np.rint((len(xs) + np.arange(edge_x)) * stride[0]).astype(np.int32)])
    all_ys = np.concatenate([ys, np.rint((len(ys) + np.arange(edge_y)) * stride[1]).astype(np.int32)])
    fraction = area_fractions(tissue, all_xs, all_ys, tile)  # (len all_ys, len all_xs)
    enough = fraction >= spec.min_tissue - 1e-9
    whole = np.zeros_like(enough)
    whole[: len(ys), : len(xs)] = True
    rows, cols = np.nonzero(whole & enough)  # row-major
    coords = np.stack([all_xs[cols], all_ys[rows]], axis=1).astype(np.int32)
    counts = TileCounts(
        kept=len(coords),
        glass=int((whole & ~enough).sum()),
        edge=int((~whole).sum()),
        edge_tissue=int((~whole & enough & (fraction > 0)).sum()),
    )
    return TileSet(coords, fraction[rows, cols].astype(np.float32), choice, spec.tile_px, tile, stride, counts)


def area_fractions(
    tissue: TissueMask, xs: npt.NDArray[np.int32], ys: npt.NDArray[np.int32], tile: tuple[float, float]
) -> npt.NDArray[np.float64]:
    """Share of each tile's area that is tissue, exact for a mask of square pixels.

    Args:
        tissue: The mask.
        xs: (n,) left edges, level-0 px.
        ys: (m,) top edges, level-0 px.
        tile: (width, height), level-0 px. What lies outside the slide counts as glass.

    Returns:
        (m, n), 0 to 1.
    """
    sums = np.zeros((tissue.mask.shape[0] + 1, tissue.mask.shape[1] + 1))
    sums[1:, 1:] = tissue.mask.cumsum(0, dtype=np.int64).cumsum(1)
    down_x, down_y = tissue.downsample
    left, right = _at(sums, xs / down_x, 1), _at(sums, (xs + tile[0]) / down_x, 1)
    bands = right - left  # (h + 1, n): tissue area left of each row edge, inside each column of tiles
    area = _at(bands, (ys + tile[1]) / down_y, 0) - _at(bands, ys / down_y, 0)  # (m, n)
    return np.clip(area / (tile[0] / down_x * tile[1] / down_y), 0, 1)


def _at(values: npt.NDArray[np.float64], where: npt.NDArray[np.floating[Any]], axis: int) -> npt.NDArray[np.float64]:
    """Values along an axis at fractional positions, linear between neighbours."""
    position = np.clip(where, 0, values.shape[axis] - 1)
    low = np.minimum(position.astype(np.int64), values.shape[axis] - 2)
    share = (position - low).reshape((-1, 1) if axis == 0 else (1, -1))
    below, above = np.take(values, low, axis), np.take(values, low + 1, axis)
    return np.asarray(below * (1 - share) + above * share)


def _why_not_direct(slide: Slide) -> str:
    return f" ({slide.refused['direct_tiff']})" if "direct_tiff" in slide.refused else ""


def read_tile(slide: Slide, choice: LevelChoice, tile_px: int, xy_level0: tuple[int, int]) -> Pixels:
    """One finished tile: RGB (tile_px, tile_px, 3) uint8.

    Raises:
        TileReadError: The decoder failed.
    """
    if choice.resampler == "none":
        return slide.read_region(xy_level0, choice.read_px, choice.level)
    out = np.empty((tile_px, tile_px, 3), np.uint8)
    if choice.resampler != "dct":
        resample(slide.read_region(xy_level0, choice.read_px, choice.level), out, choice.resampler)
    elif read_tiles(slide, choice, tile_px, np.array([xy_level0], np.int32), out[None])[0] != OK:
        raise TileReadError(f"slide {slide.path}: level {choice.level}, tile at {xy_level0}: cannot be decoded")
    return out


def read_tiles(
    slide: Slide,
    choice: LevelChoice,
    tile_px: int,
    coords: npt.NDArray[np.int32],
    out: Pixels,
    *,
    threads: int = 1,
) -> npt.NDArray[np.uint8]:
    """Read many finished tiles into an array that can be used again.

    The pixels are those of :func:`read_tile`, one by one; they depend neither on ``threads`` nor on how tiles
    are divided into calls. Row-major order is fast: what neighbouring tiles share is decoded once, within a
    call and from one call to the next, as long as it fits :data:`wsikit.slides.cells.BUDGET_BYTES`.

    Args:
        slide: An open slide.
        choice: The level, and how its pixels become a tile.
        tile_px: Side of a finished tile, px.
        coords: (n, 2) int32, (x, y) of the top-left corners, level-0 px.
        out: (n, tile_px, tile_px, 3) uint8, written in place.
        threads: How many decode at once, where the slide's reader can.

    Returns:
        (n,) uint8: 0 for a tile that was read, 1 for one that could not be, after a second try (network disks
        fail for a moment). Such a tile is zeros.

    Raises:
        ConfigError: ``out`` has another shape than the tiles.

    Example:
        >>> out = np.empty((64, 256, 256, 3), np.uint8)                                       # doctest: +SKIP
        >>> status = read_tiles(slide, tiles.choice, tiles.tile_px, tiles.coords[:64], out)  # doctest: +SKIP
    """
    if out.shape != (len(coords), tile_px, tile_px, 3) or out.dtype != np.uint8 or not out.flags.c_contiguous:
        raise ConfigError(
            f"slide {slide.path}: out is {out.dtype} {out.shape}, expected contiguous uint8 "
            f"{(len(coords), tile_px, tile_px, 3)} for {len(coords)} tiles"
        )
    batch = slide.batch_reader
    if batch is not None:
        return batch.read_tiles(coords, choice, out, threads=threads)
    status = np.full(len(coords), OK, np.uint8)
    for i, (x, y) in enumerate(coords.tolist()):
        for attempt in (1, 2):
            try:
                out[i] = read_tile(slide, choice, tile_px, (x, y))
                break
            except TileReadError:
                if attempt == 2:
                    out[i], status[i] = 0, UNREADABLE
    return status
