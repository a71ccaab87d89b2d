"""wsidicom: DICOM slides that OpenSlide refuses (several focal planes, other codecs)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from wsikit.errors import NotBrightfieldError, SceneError, TileReadError
from wsikit.geometry import Mpp
from wsikit.slides.base import Pixels, plausible_mpp, register_reader


@register_reader(
    "wsidicom",
    priority=15,  # after OpenSlide, whose pixels it gives where both read a file
    formats="DICOM with several focal planes, or in codecs that OpenSlide lacks; needs the extra 'dicom'",
    source="https://github.com/imi-bigpicture/wsidicom",
    licence="Apache-2.0",
)
class WsiDicomReader:
    """A DICOM slide through ``wsidicom``: the file and all others of its series in the same folder.

    A damaged JPEG frame of which the decoder only warns is shown as decoded, where OpenSlide refuses it.

    Raises:
        ImportError: wsidicom is not installed.
        NotBrightfieldError: Not 8-bit RGB.
        SceneError: Several pyramids, optical paths or focal planes and none chosen, or no such one.
        ValueError: Not a DICOM file.
    """

    thread_safe = True
    vendor = "dicom"

    def __init__(self, path: Path, *, scene: str | int | None = None) -> None:
        if not _is_dicom(path):
            raise ValueError("not a DICOM file")
        try:
            import wsidicom
        except ImportError as error:
            raise ImportError("wsidicom is not installed: pip install 'wsikit[dicom]'") from error
        self._path = path
        self._slide = wsidicom.WsiDicom.open(_series_of(path))
        try:
            self._open(scene)
        except BaseException:
            self._slide.close()
            raise

    def _open(self, wanted: str | int | None) -> None:
        scenes = _list_scenes(self._slide)
        self.scenes: tuple[str, ...] = tuple(scenes) if len(scenes) > 1 else ()
        if wanted is None and self.scenes:
            raise SceneError(
                f"slide {self._path}: {len(scenes)} scenes or focal planes ({', '.join(map(repr, scenes))}) "
                "and none was chosen; choose with scene=, --scene or the manifest column 'scene'"
            )
        name = next((n for i, n in enumerate(scenes) if wanted in (None, n, i)), None)
        if name is None:
            raise SceneError(f"slide {self._path}: no scene {wanted!r}; it has {', '.join(map(repr, scenes))}")
        self._pyramid, self._optical_path, self._z = scenes[name]
        pyramid = self._slide.pyramids[self._pyramid]
        at = (self._optical_path, self._z)
        self._levels: list[Any] = [level for level in pyramid if at in level.image_data_map]
        for level in self._levels:
            image = level.image_data_map[at]
            if image.samples_per_pixel != 3 or image.bits != 8:
                raise NotBrightfieldError(
                    f"slide {self._path}: {image.samples_per_pixel} samples of {image.bits} bits per pixel; "
                    "wsikit reads 8-bit RGB"
                )
        sizes = [(level.size.width, level.size.height) for level in self._levels]
        self.level_sizes = tuple(sizes)
        self.level_downsamples = tuple((sizes[0][0] / w + sizes[0][1] / h) / 2 for w, h in sizes)
        self.recorded_mpp: Mpp | None = plausible_mpp(pyramid.mpp.width, pyramid.mpp.height)
        self.mpp_source = "DICOM PixelSpacing"

    def read(self, xy_level0: tuple[int, int], size_px: tuple[int, int], level: int) -> Pixels:
        """RGB of a region; what was never scanned is white."""
        down = self.level_downsamples[level]
        x, y = round(xy_level0[0] / down), round(xy_level0[1] / down)
        try:
            region = self._slide.read_region(
                (x, y), self._levels[level].level, size_px, self._z, self._optical_path, self._pyramid, as_array=True
            )
        except Exception as error:  # wsidicom, pydicom, imagecodecs and Pillow each raise kinds of their own
            raise TileReadError(
                f"slide {self._path}: level {level}, {size_px[0]} x {size_px[1]} px at {xy_level0}: {error}"
            ) from error
        return np.ascontiguousarray(region)

    def close(self) -> None:
        """Give back the file handles."""
        self._slide.close()


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _series_of(path: Path) -> list[Path]:
    """The DICOM files in the folder that belong to the same series: one for each level, or more."""
    import pydicom

    def series(file: Path) -> object:
        tag = "SeriesInstanceUID"
        header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=[tag])
        return header.get_item(tag).value if tag in header else None  # as it stands: unchecked, so without warnings

    mine = series(path)
    others = (file for file in sorted(path.parent.iterdir()) if file != path and file.is_file() and _is_dicom(file))
    return [path, *(file for file in others if series(file) == mine)]


def _list_scenes(slide: Any) -> dict[str, tuple[int, str, float]]:
    """Name -> number of the pyramid, optical path, focal plane (um); a name has only the parts that vary."""
    found = [
        (number, path, z)
        for number, pyramid in enumerate(slide.pyramids)
        for path, planes in pyramid.base_level.focal_planes_by_optical_path.items()
        for z in planes
    ]
    parts = zip(*((f"pyramid {number}", f"path {path}", f"z {z:g}") for number, path, z in found), strict=True)
    varying = [part for part in parts if len(set(part)) > 1]
    names = ["/".join(name) for name in zip(*varying, strict=True)] if varying else [""]
    return dict(zip(names, found, strict=True))
