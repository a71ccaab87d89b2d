"""JPEG and JPEG 2000 tiles of a TIFF, read and decoded without a library between: at the decoder's own speed."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wsikit.errors import TileReadError
from wsikit.slides.agreement import check_agreement
from wsikit.slides.base import BACKGROUND, OK, UNREADABLE, Pixels, register_reader
from wsikit.slides.cell_decoder import CellDecoder
from wsikit.slides.cells import CellCache
from wsikit.slides.level import LevelChoice, shrink_of
from wsikit.slides.readers.ome import OmeReader
from wsikit.slides.readers.openslide import OpenSlideReader
from wsikit.slides.tiff_levels import TiffLevel, index_levels
from wsikit.slides.truncation import TIFF_STARTS

MOST_THREADS = 128
"""Of one slide; they start as they are needed. More than cores, where a disk answers slowly."""


@register_reader(
    "direct_tiff",
    priority=7,  # before OpenSlide, with which it has to agree; after ome_scenes, which knows of other scenes
    formats="Aperio SVS, Philips, OME-TIFF with one image and tiled TIFF whose tiles are JPEG or JPEG 2000",
    source="https://github.com/cgohlke/tifffile, https://gitlab.com/jfolz/simplejpeg",
    licence="BSD-3-Clause, MIT",
)
class DirectTiffReader:
    """A TIFF whose tiles are indexed once, then read with ``pread`` and decoded where they are wanted.

    Sizes, resolution and vendor are OpenSlide's (for OME-TIFF with one image: the reader ``ome``'s), and a few
    regions of every level are compared with it when the file is opened: a file that it does not open, or shows
    otherwise, is left to the other readers.

    Regions of coarser levels begin at the level's nearest pixel. (OpenSlide interpolates where a level-0
    position lies between pixels of the level.) A tile whose decoder has a warning is unreadable.

    Raises:
        ValueError: Not such a TIFF, or its pixels are not those that the other reader shows.
    """

    thread_safe = True
    scenes: tuple[str, ...] = ()

    def __init__(self, path: Path, *, scene: str | None = None) -> None:
        self._path = path
        with path.open("rb") as file:
            if file.read(4) not in TIFF_STARTS:
                raise ValueError("not a TIFF file")
        model, name = _model_of(path, scene)
        try:
            self.vendor, self.level_sizes = model.vendor, model.level_sizes
            self.level_downsamples = model.level_downsamples
            self.recorded_mpp, self.mpp_source = model.recorded_mpp, model.mpp_source
            self._levels: tuple[TiffLevel, ...] = index_levels(path, self.level_sizes)
            self.can_shrink = all(level.can_shrink for level in self._levels)
            self._decoder = CellDecoder(path, getattr(model, "background", (BACKGROUND,) * 3))
            try:
                check_agreement(self, model, self._levels, name)
            except BaseException:
                self._decoder.close()
                raise
        finally:
            model.close()
        self._lock = threading.Lock()
        self._cells: CellCache | None = None
        self._pool: ThreadPoolExecutor | None = None

    def read(self, xy_level0: tuple[int, int], size_px: tuple[int, int], level: int) -> Pixels:
        """RGB of a region that lies inside the level."""
        down, at, (width, height) = self.level_downsamples[level], self._levels[level], size_px
        x, y = round(xy_level0[0] / down), round(xy_level0[1] / down)
        (cell_w, cell_h), columns = at.cell_px, at.grid[0]
        out, pixels = np.empty((height, width, 3), np.uint8), np.empty((cell_h, cell_w, 3), np.uint8)
        for row in range(y // cell_h, (y + height - 1) // cell_h + 1):
            for column in range(x // cell_w, (x + width - 1) // cell_w + 1):
                try:
                    self._decoder.decode(at, row * columns + column, pixels)
                except (OSError, ValueError) as error:
                    raise TileReadError(
                        f"slide {self._path}: level {level}, {width} x {height} px at {xy_level0}: "
                        f"the file's tile in column {column}, row {row}: {error}"
                    ) from error
                cell_x, cell_y = column * cell_w, row * cell_h
                left, top = max(x, cell_x), max(y, cell_y)
                right, bottom = min(x + width, cell_x + cell_w), min(y + height, cell_y + cell_h)
                out[top - y : bottom - y, left - x : right - x] = pixels[
                    top - cell_y : bottom - cell_y, left - cell_x : right - cell_x
                ]
        return out

    def read_tiles(
        self,
        xy_level0: npt.NDArray[np.int32],
        choice: LevelChoice,
        out: Pixels,
        *,
        threads: int = 1,
    ) -> npt.NDArray[np.uint8]:
        """Finished tiles; see :func:`wsikit.slides.tiling.read_tiles`."""
        level, tile_px = self._levels[choice.level], out.shape[1]
        shrink = shrink_of(choice, tile_px)
        width, height = (round(side / shrink) for side in choice.read_px)
        origins = np.rint(xy_level0 / (self.level_downsamples[choice.level] * shrink)).astype(np.int64)
        with self._lock:
            if threads > 1 and self._pool is None:
                self._pool = ThreadPoolExecutor(MOST_THREADS, thread_name_prefix="wsikit-read")
            if shrink == 1 and (width, height) == (tile_px, tile_px) == level.cell_px and _whole(origins, level):
                read = self._read_whole(origins, level, out, threads)
            else:
                cells = self._cells_of(level, shrink, (width, height))
                read = cells.cut(origins, out, choice.resampler, self._pool, threads)
        return np.where(read, OK, UNREADABLE).astype(np.uint8)

    def _read_whole(
        self, origins: npt.NDArray[np.int64], level: TiffLevel, out: Pixels, threads: int
    ) -> npt.NDArray[np.bool_]:
        """Tiles that are the file's own: decoded into their places."""
        columns, rows = (origins // level.cell_px).T
        numbers: list[int] = (rows * level.grid[0] + columns).tolist()
        read = self._decoder.decode_all(level, numbers, list(out), self._pool, threads)
        out[~read] = 0
        return read

    def _cells_of(self, level: TiffLevel, shrink: int, size: tuple[int, int]) -> CellCache:
        cells = self._cells
        if cells is None or (cells.level, cells.shrink, cells.size) != (level, shrink, size):
            cells = self._cells = CellCache(self._decoder, level, shrink=shrink, size=size)
        return cells

    def close(self) -> None:
        """Give back the file handle, the threads and the memory."""
        if self._pool is not None:
            self._pool.shutdown()
        self._pool = self._cells = None
        self._decoder.close()


def _model_of(path: Path, scene: str | None) -> tuple[OpenSlideReader | OmeReader, str]:
    try:
        return OmeReader(path, scene=scene), "the reader 'ome'"
    except ValueError:
        return OpenSlideReader(path, scene=scene), "OpenSlide"


def _whole(origins: npt.NDArray[np.int64], level: TiffLevel) -> bool:
    """Whether every origin is a cell's, and the cell lies inside the level."""
    inside = (origins >= 0) & (origins + level.cell_px <= level.size)
    return bool((inside & (origins % level.cell_px == 0)).all())
