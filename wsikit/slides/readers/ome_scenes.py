"""One scene or focal plane of an OME-TIFF that holds several, through tifffile."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wsikit.errors import NotBrightfieldError, SceneError, TileReadError
from wsikit.geometry import Mpp
from wsikit.slides.base import BACKGROUND, Pixels, plausible_mpp, register_reader

_UM_PER_UNIT = {"nm": 1e-3, "µm": 1.0, "μm": 1.0, "um": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6}


@dataclass(frozen=True)
class _Scene:
    name: str
    series: int
    plane: int | None


@register_reader(
    "ome_scenes",
    priority=5,  # before OpenSlide, which would show the first scene of several without a word
    formats="OME-TIFF with several scenes or focal planes",
    source="https://github.com/cgohlke/tifffile",
    licence="BSD-3-Clause",
)
class OmeScenesReader:
    """The chosen scene of an OME-TIFF; files with a single scene are left to the other readers.

    Raises:
        SceneError: Several scenes and none chosen, or no such scene; the message lists them.
        ValueError: Not an OME-TIFF with several scenes.
    """

    thread_safe = False
    vendor = "ome-tiff"
    several = True

    def __init__(self, path: Path, *, scene: str | int | None = None) -> None:
        import tifffile

        self._path = path
        self._tif = tifffile.TiffFile(path)
        try:
            self._open(scene)
        except BaseException:
            self._tif.close()
            raise

    def _open(self, wanted: str | int | None) -> None:
        scenes = _list_scenes(self._tif)
        if (len(scenes) > 1) is not self.several or not scenes:
            raise ValueError(
                f"not an OME-TIFF with {'several scenes or focal planes' if self.several else 'one image'}"
            )
        self.scenes = tuple(s.name for s in scenes) if self.several else ()
        if self.several:
            chosen = self._choose(scenes, wanted)
        elif wanted is None:
            chosen = scenes[0]
        else:
            raise SceneError(f"slide {self._path}: an OME-TIFF with one image has no scenes (asked for {wanted!r})")
        series = self._tif.series[chosen.series]
        axes = series.axes
        rgb = axes.endswith("YXS") and series.dtype == np.uint8 and series.shape[-1] in (3, 4)
        self.recorded_mpp = _ome_mpp(self._tif, chosen.series)
        if not self.several and (not rgb or series.ndim != 3 or self.recorded_mpp is None):
            raise ValueError(
                f"axes {axes}, {series.dtype}, mpp {self.recorded_mpp}; expected 8-bit RGB with a resolution"
            )
        if not rgb:
            raise NotBrightfieldError(
                f"slide {self._path}, scene {chosen.name!r}: axes {axes}, {series.dtype}; wsikit reads 8-bit RGB"
            )
        import zarr

        self._levels: list[Any] = [
            zarr.open_array(store=series.aszarr(level=number, fillvalue=BACKGROUND), mode="r")
            for number in range(len(series.levels))
        ]
        self._plane = chosen.plane
        sizes = [(int(a.shape[-2]), int(a.shape[-3])) for a in self._levels]
        self.level_sizes = tuple(sizes)
        self.level_downsamples = tuple((sizes[0][0] / w + sizes[0][1] / h) / 2 for w, h in sizes)
        self.mpp_source = "OME PhysicalSizeX, PhysicalSizeY"

    def _choose(self, scenes: list[_Scene], wanted: str | int | None) -> _Scene:
        chosen = next((s for i, s in enumerate(scenes) if wanted in (s.name, i)), None)
        if chosen is None:
            found = "none was chosen" if wanted is None else f"{wanted!r} is not one of them"
            raise SceneError(
                f"slide {self._path}: {len(scenes)} scenes or focal planes ({', '.join(map(repr, self.scenes))}) "
                f"and {found}; choose with scene=, --scene or the manifest column 'scene'"
            )
        return chosen

    def read(self, xy_level0: tuple[int, int], size_px: tuple[int, int], level: int) -> Pixels:
        """RGB of a region of the chosen scene."""
        down = self.level_downsamples[level]
        x, y = round(xy_level0[0] / down), round(xy_level0[1] / down)
        rows, cols = slice(y, y + size_px[1]), slice(x, x + size_px[0])
        try:
            array = self._levels[level]
            region = np.asarray(array[rows, cols] if self._plane is None else array[self._plane, rows, cols])
        except Exception as error:  # tifffile, imagecodecs and zarr each raise kinds of their own
            raise TileReadError(f"slide {self._path}: level {level} at {xy_level0}: {error}") from error
        return np.ascontiguousarray(region[..., :3])

    def close(self) -> None:
        """Give back the file handle."""
        self._tif.close()


def _list_scenes(tif: Any) -> list[_Scene]:
    if not tif.is_ome:
        return []
    scenes = []
    for i, series in enumerate(tif.series):
        name = series.name or f"scene {i}"
        if name.lower() in ("label", "label image", "macro", "macro image", "thumbnail", "overview"):
            continue
        if series.axes == "ZYXS" and series.shape[0] > 1:
            scenes += [_Scene(f"{name}/z{z}", i, z) for z in range(series.shape[0])]
        else:
            scenes.append(_Scene(name, i, None))
    names = [s.name for s in scenes]
    return [s if names.count(s.name) == 1 else _Scene(f"{s.name} #{s.series}", s.series, s.plane) for s in scenes]


def _ome_mpp(tif: Any, series: int) -> Mpp | None:
    from xml.etree import ElementTree

    images = [e for e in ElementTree.fromstring(tif.ome_metadata).iter() if e.tag.endswith("}Image")]
    if series >= len(images):
        return None
    pixels = next((e for e in images[series] if e.tag.endswith("}Pixels")), None)
    if pixels is None or "PhysicalSizeX" not in pixels.attrib or "PhysicalSizeY" not in pixels.attrib:
        return None
    unit_x = _UM_PER_UNIT.get(pixels.attrib.get("PhysicalSizeXUnit", "µm"))
    unit_y = _UM_PER_UNIT.get(pixels.attrib.get("PhysicalSizeYUnit", "µm"))
    if unit_x is None or unit_y is None:
        return None
    return plausible_mpp(float(pixels.attrib["PhysicalSizeX"]) * unit_x, float(pixels.attrib["PhysicalSizeY"]) * unit_y)
