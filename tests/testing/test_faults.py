"""Broken tiles fail where they should and nowhere else; every bad slide is bad in its own way only."""

from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
import tiffslide

from wsikit.testing import SlideTruth, bad_slides, corrupt_tiles


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return bad_slides(tmp_path_factory.mktemp("bad"), size_px=600)


def fails(path: Path, box: tuple[int, int, int, int], library: str) -> bool:
    x, y, w, h = box
    # opened each time: an OpenSlide handle that failed once refuses all later reads
    if library == "openslide":
        with openslide.OpenSlide(path) as slide:
            try:
                slide.read_region((x, y), 0, (w, h))
            except openslide.OpenSlideError:
                return True
        return False
    with tiffslide.TiffSlide(path) as slide:
        try:
            slide.read_region((x, y), 0, (w, h))
        except Exception:
            return True
    return False


@pytest.mark.parametrize("library", ["openslide", "tiffslide"])
def test_corrupt_tiles_fail_and_no_others(planted: tuple[Path, SlideTruth], tmp_path: Path, library: str) -> None:
    path, _ = planted
    out = tmp_path / "broken.svs"
    boxes = corrupt_tiles(path, out, n=3, seed=1)
    assert len(set(boxes)) == 3
    assert out.stat().st_size == path.stat().st_size
    every = [(x, y, 256, 256) for y in range(0, 1536, 256) for x in range(0, 1536, 256)]
    assert [box for box in every if fails(out, box, library)] == boxes
    with openslide.OpenSlide(out) as slide:
        slide.read_region((0, 0), 1, slide.level_dimensions[1])
        slide.get_thumbnail((100, 100))


def test_chosen_tiles_are_cut_to_the_slide(bad: dict[str, Path], tmp_path: Path) -> None:
    assert corrupt_tiles(bad["good"], tmp_path / "b.svs", tiles=[(2, 2), (0, 1)]) == [
        (0, 256, 256, 256), (512, 512, 88, 88)
    ]  # fmt: skip
    with pytest.raises(ValueError, match="100 tiles to break, but level 0 has 9"):
        corrupt_tiles(bad["good"], tmp_path / "b.svs", n=100)


def test_each_file_has_its_fault(bad: dict[str, Path]) -> None:
    for fault in ("not-a-slide", "truncated"):
        with pytest.raises(openslide.OpenSlideError):
            openslide.OpenSlide(bad[fault])
    with openslide.OpenSlide(bad["no-mpp"]) as slide:
        assert "openslide.mpp-x" not in slide.properties
    with openslide.OpenSlide(bad["unequal-mpp"]) as slide:
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.5)
        assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(0.6)
    with openslide.OpenSlide(bad["glass"]) as slide:
        assert np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., :3].min() > 150
    with tifffile.TiffFile(bad["fluorescence"]) as tif:
        assert tif.is_ome
        assert tif.series[0].axes == "CYX"
        assert tif.series[0].dtype == np.uint16
    with tifffile.TiffFile(bad["two-scenes"]) as tif:
        assert [series.name for series in tif.series] == ["upper", "lower"]


def test_equal_calls_write_equal_bytes(bad: dict[str, Path], tmp_path: Path) -> None:
    again = bad_slides(tmp_path, size_px=600)
    assert set(again) == set(bad)
    for fault, path in again.items():
        assert path.read_bytes() == bad[fault].read_bytes(), fault
