"""What write_svs writes is what every reader of the field reads, and it never needs the whole image."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
import tiffslide

from wsikit.testing import write_svs

Rgb = np.ndarray


@pytest.fixture(scope="module")
def image() -> Rgb:
    """A smooth image with some grain, of a size that fills neither tiles nor levels."""
    y, x = np.mgrid[:700, :1030]
    rgb = np.stack([200 + 40 * np.sin(x / 60), 150 + 60 * np.cos(y / 45), 180 + 30 * np.sin((x + y) / 80)], -1)
    return np.clip(rgb + np.random.default_rng(0).normal(0, 4, rgb.shape), 0, 255).astype(np.uint8)


def read(slide: openslide.OpenSlide | tiffslide.TiffSlide, level: int) -> Rgb:
    return np.asarray(slide.read_region((0, 0), level, slide.level_dimensions[level]))[..., :3]


@pytest.mark.parametrize("subsampling", ["444", "422", "420"])
def test_three_libraries_read_the_same_pixels(tmp_path: Path, image: Rgb, subsampling: str) -> None:
    path = write_svs(tmp_path / "a.svs", image, subsampling=subsampling)  # type: ignore[arg-type]
    with openslide.OpenSlide(path) as slide, tiffslide.TiffSlide(path) as other, tifffile.TiffFile(path) as tif:
        assert slide.properties["openslide.vendor"] == other.properties["tiffslide.vendor"] == "aperio"
        assert tif.is_svs
        assert slide.level_dimensions == other.level_dimensions == ((1030, 700), (257, 175), (64, 43))
        assert float(slide.properties["openslide.mpp-x"]) == other.properties["tiffslide.mpp-x"] == 0.5
        assert slide.properties["openslide.objective-power"] == "20"
        for level in range(3):
            pixels = read(slide, level)
            np.testing.assert_array_equal(pixels, read(other, level))
            np.testing.assert_array_equal(pixels, tif.series[0].levels[level].asarray())
        assert np.abs(read(slide, 0).astype(int) - image).mean() < 4


def test_levels_are_area_averages_of_level_0(tmp_path: Path, image: Rgb) -> None:
    path = write_svs(tmp_path / "a.svs", image, quality=98, subsampling="444")
    with openslide.OpenSlide(path) as slide:
        for level, down in ((1, 4), (2, 16)):
            w, h = slide.level_dimensions[level]
            mean = image[: h * down, : w * down].reshape(h, down, w, down, 3).mean((1, 3))
            assert np.abs(read(slide, level) - mean).max() < 12
            assert np.abs(read(slide, level) - mean).mean() < 1


def test_rows_from_an_array_a_function_or_an_iterator_give_the_same_bytes(tmp_path: Path, image: Rgb) -> None:
    def uneven() -> Iterator[Rgb]:
        yield from np.split(image, [1, 90, 91, 400, 657])

    size = (1030, 700)
    digests = {
        hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (
            write_svs(tmp_path / "array.svs", image),
            write_svs(tmp_path / "function.svs", lambda y0, y1: image[y0:y1], size_px=size),
            write_svs(tmp_path / "iterator.svs", uneven(), size_px=size),
        )
    }
    assert len(digests) == 1


def test_label_macro_and_thumbnail_come_back(tmp_path: Path, image: Rgb) -> None:
    label, macro = np.full((60, 80, 3), 200, np.uint8), np.full((50, 160, 3), 90, np.uint8)
    path = write_svs(tmp_path / "a.svs", image, label=label, macro=macro)
    with openslide.OpenSlide(path) as slide:
        found = {name: picture.size for name, picture in slide.associated_images.items()}
    assert found == {"label": (80, 60), "macro": (160, 50), "thumbnail": (768, 522)}


def test_a_slide_without_mpp_records_none(tmp_path: Path, image: Rgb) -> None:
    path = write_svs(tmp_path / "a.svs", image, include_mpp=False)
    with openslide.OpenSlide(path) as slide:
        assert "openslide.mpp-x" not in slide.properties


def test_a_source_of_wrong_size_is_refused_and_leaves_no_file(tmp_path: Path, image: Rgb) -> None:
    with pytest.raises(ValueError, match="gave 699 rows, expected 700"):
        write_svs(tmp_path / "a.svs", iter([image[:699]]), size_px=(1030, 700))
    with pytest.raises(ValueError, match="expected uint8"):
        write_svs(tmp_path / "a.svs", image.astype(np.float32))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="whole multiple"):
        write_svs(tmp_path / "a.svs", image, levels=(1, 4, 6))
    with pytest.raises(ValueError, match="size_px"):
        write_svs(tmp_path / "a.svs", lambda y0, y1: image[y0:y1])
    assert not list(tmp_path.iterdir())
