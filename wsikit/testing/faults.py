"""Slides that go wrong on purpose: broken tiles in a copy, and files that no run should trip over."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.testing.planted import MPP, plant_slide
from wsikit.testing.svs import Pixels

Box = tuple[int, int, int, int]
"""x, y, width, height in level-0 px."""


def corrupt_tiles(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    n: int = 4,
    seed: int = 0,
    *,
    tiles: Sequence[tuple[int, int]] | None = None,
) -> list[Box]:
    """Copy a JPEG-tiled TIFF and break some level-0 tiles of the copy.

    From a third of its entropy-coded data on, a broken tile repeats a marker that cannot stand
    there. Byte counts and offsets stay as they were, so the file opens and every other tile reads;
    OpenSlide, tiffslide and libjpeg fail on the broken ones. (An OpenSlide handle that failed
    once refuses all later reads: open the file again.)

    Args:
        path: A slide as :func:`~wsikit.testing.svs.write_svs` writes it.
        out: The broken copy.
        n: How many tiles to break.
        seed: Of their choice.
        tiles: (column, row) of the tiles to break, in place of ``n`` and ``seed``.

    Returns:
        The broken tiles' boxes, cut to the slide, in row order.
    """
    import tifffile

    with tifffile.TiffFile(path) as tif:
        page: Any = tif.pages[0]
        offsets, counts = page.dataoffsets, page.databytecounts
        width, height, side = page.imagewidth, page.imagelength, page.tilewidth
    columns = -(-width // side)
    if tiles is None:
        if n > len(offsets):
            raise ValueError(f"{Path(path).name}: {n} tiles to break, but level 0 has {len(offsets)}")
        chosen = np.random.default_rng(seed).choice(len(offsets), n, replace=False).tolist()
    else:
        chosen = [row * columns + column for column, row in tiles]
    shutil.copyfile(path, out)
    with Path(out).open("r+b") as file:
        for i in chosen:
            file.seek(offsets[i])
            data = file.read(counts[i])
            scan = data.index(b"\xff\xda")
            begin = scan + 2 + int.from_bytes(data[scan + 2 : scan + 4], "big")
            begin += (len(data) - begin) // 3
            file.seek(offsets[i] + begin)
            file.write((b"\xff\xc1" * len(data))[: len(data) - begin])
    corners = [(i % columns * side, i // columns * side) for i in sorted(chosen)]
    return [(x, y, min(side, width - x), min(side, height - y)) for x, y in corners]


def plain_tissue(size_px: int = 512, *, seed: int = 0) -> Pixels:
    """RGB (size_px, size_px, 3) of planted tissue, for files of other formats."""
    from wsikit.testing.planted import Recipe, scene_of
    from wsikit.testing.render import render
    from wsikit.testing.stains import site

    scene = scene_of(Recipe(seed, size_px, site(0), 0.5, 0.2, 0.5, ()))
    return render(scene, 0, 0, size_px, size_px)


def bad_slides(out_dir: str | os.PathLike[str], *, size_px: int = 768, seed: int = 0) -> dict[str, Path]:
    """Write one file of every kind that a run must name instead of fall over.

    Args:
        out_dir: Created where missing.
        size_px: Side of the slides.
        seed: Of what is on them.

    Returns:
        Path by fault: "not-a-slide" (random bytes), "truncated" (the first 60 % of a good file), "no-mpp",
        "unequal-mpp" (0.5 and 0.6 um per px), "glass" (no tissue), "corrupt-tiles", "fluorescence"
        (grey 16-bit OME-TIFF of two channels), "two-scenes" (OME-TIFF of two images), and "good".
    """
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, 0xBAD])
    good = folder / "good.svs"
    plant_slide(good, seed=seed, size_px=size_px, tissue_fraction=0.5, artefacts=())
    data = good.read_bytes()
    paths = {"good": good}

    def path(fault: str, suffix: str = ".svs") -> Path:
        paths[fault] = folder / f"{fault}{suffix}"
        return paths[fault]

    path("not-a-slide").write_bytes(rng.integers(0, 256, 20_000, np.uint8).tobytes())
    path("truncated").write_bytes(data[: len(data) * 6 // 10])
    plant_slide(path("no-mpp"), seed=seed, size_px=size_px, tissue_fraction=0.5, artefacts=(), include_mpp=False)
    plant_slide(path("glass"), seed=seed, size_px=size_px, tissue_fraction=0.0, artefacts=())
    corrupt_tiles(good, path("corrupt-tiles"), n=2, seed=seed)
    rgb = plain_tissue(size_px, seed=seed)
    _unequal_mpp(path("unequal-mpp", ".tif"), rgb)
    _fluorescence(path("fluorescence", ".ome.tif"), rng, size_px)
    _two_scenes(path("two-scenes", ".ome.tif"), rgb)
    return paths


def _unequal_mpp(path: Path, rgb: Pixels) -> None:
    import tifffile

    with tifffile.TiffWriter(path) as tif:
        tif.write(
            rgb, tile=(256, 256), photometric="rgb", compression="jpeg", software=False, metadata=None,
            resolution=(1e4 / MPP, 1e4 / 0.6), resolutionunit="CENTIMETER",
        )  # fmt: skip


def _ome(path: Path, planes: list[npt.NDArray[Any]], photometric: str, images: str) -> None:
    """Write OME-TIFF with hand-made XML: tifffile's own carries a random id, and equal calls must give equal bytes."""
    import tifffile

    xml = (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
        'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:schemaLocation='
        '"http://www.openmicroscopy.org/Schemas/OME/2016-06 http://www.openmicroscopy.org/Schemas/OME/2016-06/ome.xsd">'
        f"{images}</OME>"
    )
    with tifffile.TiffWriter(path) as tif:
        for i, plane in enumerate(planes):
            tif.write(
                plane, photometric=photometric, tile=(256, 256), compression="zlib", software=False, metadata=None,
                description=xml if i == 0 else None, contiguous=False,
                resolution=(1e4 / MPP, 1e4 / MPP), resolutionunit="CENTIMETER",
            )  # fmt: skip


def _pixels(index: int, name: str, size: tuple[int, int], kind: str, channels: str, planes: int, samples: int) -> str:
    width, height = size
    data = "".join(f'<TiffData IFD="{index + c}" FirstC="{c}" PlaneCount="1"/>' for c in range(planes))
    return (
        f'<Image ID="Image:{index}" Name="{name}"><Pixels ID="Pixels:{index}" DimensionOrder="XYCZT" Type="{kind}" '
        f'SizeX="{width}" SizeY="{height}" SizeC="{planes * samples}" SizeZ="1" SizeT="1" Interleaved="true" '
        f'PhysicalSizeX="{MPP}" PhysicalSizeXUnit="&#181;m" PhysicalSizeY="{MPP}" PhysicalSizeYUnit="&#181;m">'
        f"{channels}{data}</Pixels></Image>"
    )


def _fluorescence(path: Path, rng: np.random.Generator, size_px: int) -> None:
    import cv2

    spots = (rng.random((2, size_px, size_px)) > 0.999).astype(np.float32)
    glow = np.stack([cv2.GaussianBlur(plane, (0, 0), 5) for plane in spots])
    grey = (200 + 54_000 * glow / glow.max()).astype(np.uint16)
    names = "".join(
        f'<Channel ID="Channel:0:{c}" Name="{name}" SamplesPerPixel="1"/>' for c, name in enumerate(("DAPI", "CK"))
    )
    _ome(path, list(grey), "minisblack", _pixels(0, "stained", (size_px, size_px), "uint16", names, 2, 1))


def _two_scenes(path: Path, rgb: Pixels) -> None:
    half = len(rgb) // 2
    images = "".join(
        _pixels(i, name, (rgb.shape[1], half), "uint8", f'<Channel ID="Channel:{i}:0" SamplesPerPixel="3"/>', 1, 3)
        for i, name in enumerate(("upper", "lower"))
    )
    _ome(path, [rgb[:half], rgb[half : 2 * half]], "rgb", images)
