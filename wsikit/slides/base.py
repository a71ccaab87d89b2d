"""What a reader of slide files promises, and the table of readers.

A reader is one file in ``wsikit/slides/readers``: a class with the attributes and methods of
:class:`Reader`, entered with :func:`register_reader`. ``open_slide`` tries them by priority.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from wsikit.geometry import Mpp
from wsikit.registry import Registry

if TYPE_CHECKING:
    from wsikit.slides.level import LevelChoice

Pixels = npt.NDArray[np.uint8]
"""RGB, (height, width, 3) or (N, height, width, 3), uint8."""

BACKGROUND = 255
"""Value of the glass: what lies outside the scanned area, or was never scanned, is white."""

OK, UNREADABLE = 0, 1
"""Status of a tile that was read, and of one that could not be; as the feature store has them."""


@dataclass(frozen=True)
class ReaderCard:
    """What is true of a reader before it opens anything.

    Args:
        name: As it stands in ``slide.reader`` and in the store.
        priority: Lower is tried first.
        formats: What it reads, for the table in the docs.
        source: The library behind it.
        licence: That library's licence.
    """

    name: str
    priority: int
    formats: str
    source: str
    licence: str


class Reader(Protocol):
    """One open file. Built as ``reader(path, scene=None)``; raises any error if it cannot read it.

    Attributes:
        vendor: Scanner family ("aperio", "generic-tiff", ...).
        level_sizes: (width, height) of each level, level 0 first.
        level_downsamples: Level-0 px per level px, >= 1.
        recorded_mpp: Micrometres per level-0 pixel as the file has it, or None.
        mpp_source: Where ``recorded_mpp`` stands in the file ("openslide.mpp-x").
        scenes: Names of all scenes / focal planes when there is more than one, else empty.
        thread_safe: Whether ``read`` may be called from several threads at once.
    """

    vendor: str
    level_sizes: tuple[tuple[int, int], ...]
    level_downsamples: tuple[float, ...]
    recorded_mpp: Mpp | None
    mpp_source: str
    scenes: tuple[str, ...]
    thread_safe: bool

    def read(self, xy_level0: tuple[int, int], size_px: tuple[int, int], level: int) -> Pixels:
        """RGB (height, width, 3) of a region that lies inside the level.

        Raises:
            TileReadError: The decoder failed. The reader stays usable for other regions.
        """
        ...

    def close(self) -> None:
        """Give back the file handle."""
        ...


class BatchReader(Reader, Protocol):
    """A reader that can also read many tiles at once, each of the file's own tiles decoded once.

    Attributes:
        can_shrink: Whether it can scale in the JPEG decoder ("dct").
    """

    can_shrink: bool

    def read_tiles(
        self, xy_level0: npt.NDArray[np.int32], choice: LevelChoice, out: Pixels, *, threads: int = 1
    ) -> npt.NDArray[np.uint8]:
        """Finished tiles at ``xy_level0`` (n, 2) into ``out`` (n, tile_px, tile_px, 3); returns status (n,).

        The pixels are those of ``read`` with the same resampler, whatever the threads and whatever was read
        before; what lies off the slide is white. A tile that cannot be read is zeros, with status UNREADABLE.
        """
        ...


READERS: Registry[ReaderCard] = Registry("reader", package="wsikit.slides.readers", group="wsikit.readers")


def register_reader(
    name: str, *, priority: int, formats: str, source: str, licence: str
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Enter a reader class: ``@register_reader("openslide", priority=10, ...)``."""
    return READERS.register(ReaderCard(name, priority, formats, source, licence))


def plausible_mpp(x: object, y: object) -> Mpp | None:
    """Micrometres per pixel from two recorded values, or None where they cannot be a scan's.

    A screen's 72 dpi is 353 um per pixel: such values are in many plain TIFF files and mean
    nothing. What a microscope scans lies between 0.02 and 40 um per pixel.
    """
    try:
        mpp = Mpp(float(str(x)), float(str(y)))
    except ValueError:
        return None
    return mpp if all(0.02 <= v <= 40 for v in mpp) else None


SLIDE_SUFFIXES = (
    ".svs", ".tif", ".tiff", ".ndpi", ".scn", ".mrxs", ".vms", ".vmu", ".bif", ".svslide", ".dcm", ".qptiff", ".czi"
)  # fmt: skip
"""File endings that a search through a folder takes for slides (a file named outright is always tried)."""


def slide_id_of(path: Path) -> str:
    """The default slide id: the file name without its slide endings (``a.ome.tiff`` -> ``a``)."""
    name = path.name
    for suffix in (".ome.tif", ".ome.tiff", *SLIDE_SUFFIXES):
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return name
