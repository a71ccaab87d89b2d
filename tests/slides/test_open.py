"""Slides open with the right reader, resolution and pixels, or say why not."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

import wsikit as wk
from wsikit.errors import (
    ConfigError,
    MissingMppError,
    NotBrightfieldError,
    SceneError,
    SlideOpenError,
    TileReadError,
    TruncatedSlideError,
    UnequalMppError,
)
from wsikit.testing.svs import write_svs


@pytest.fixture(scope="module")
def image():
    """A picture in which every place is different: position is written into the colours."""
    rows, cols = np.mgrid[0:700, 0:900]
    return np.stack([rows * 255 // 700, cols * 255 // 900, (rows + cols) // 8 % 256], axis=2).astype(np.uint8)


@pytest.fixture(scope="module")
def svs(tmp_path_factory, image):
    path = tmp_path_factory.mktemp("svs") / "a.svs"
    write_svs(path, image, mpp=0.5, levels=(1, 4), quality=95)
    return path


def test_facts_of_an_aperio_slide(svs):
    with wk.open_slide(svs) as slide:
        assert slide.reader == "direct_tiff"
        assert slide.vendor == "aperio"
        assert slide.size == (900, 700)
        assert slide.mpp == (0.5, 0.5)
        assert slide.mpp_source == "openslide.mpp-x, openslide.mpp-y"
        assert slide.level_downsamples == (1.0, 4.0)
        assert slide.level_mpps[1].x == pytest.approx(2.0)


def test_both_readers_give_the_same_pixels_at_the_right_place(svs, image):
    with wk.open_slide(svs, reader="openslide") as one, wk.open_slide(svs, reader="tiffslide") as two:
        a, b = one.read_region((300, 200), (256, 128)), two.read_region((300, 200), (256, 128))
    assert a.shape == (128, 256, 3)
    np.testing.assert_array_equal(a, b)
    assert np.abs(a.astype(int) - image[200:328, 300:556]).mean() < 4  # JPEG of quality 95


def test_outside_of_the_slide_is_white_and_the_inside_stays_in_place(svs):
    with wk.open_slide(svs) as slide:
        whole = slide.read_region((0, 0), (900, 700))
        corner = slide.read_region((-10, -20), (50, 60))
        far = slide.read_region((880, 690), (50, 60))
        assert (slide.read_region((2000, 2000), (5, 5)) == 255).all()
    assert (corner[:20] == 255).all()
    assert (corner[:, :10] == 255).all()
    np.testing.assert_array_equal(corner[20:, 10:], whole[:40, :40])
    np.testing.assert_array_equal(far[:10, :20], whole[690:, 880:])
    assert (far[10:] == 255).all()


def test_impossible_requests_are_named(svs):
    with wk.open_slide(svs) as slide:
        with pytest.raises(ConfigError, match=r"no level 2; it has levels 0 to 1"):
            slide.read_region((0, 0), (10, 10), 2)
        with pytest.raises(ConfigError, match="cannot read 0 x 10 px"):
            slide.read_region((0, 0), (0, 10))


def test_thumbnail_is_the_area_average(svs, image):
    import cv2

    with wk.open_slide(svs) as slide:
        thumb = slide.thumbnail(300)
    assert thumb.shape == (233, 300, 3)
    expected = cv2.resize(image, (300, 233), interpolation=cv2.INTER_AREA)
    assert np.abs(thumb.astype(int) - expected).mean() < 4


def test_missing_mpp_says_how_to_supply_it(tmp_path, image):
    path = tmp_path / "b.svs"
    write_svs(path, image, include_mpp=False)
    with pytest.raises(MissingMppError, match=r"no usable micrometres per pixel.*mpp=.*manifest.*never guessed"):
        wk.open_slide(path)
    with wk.open_slide(path, mpp=0.25) as slide:
        assert slide.mpp == (0.25, 0.25)
        assert slide.mpp_source == "given"


def test_given_mpp_that_contradicts_the_file_warns(svs, caplog):
    with wk.open_slide(svs, mpp=0.25) as slide:
        assert slide.mpp.x == 0.25
    assert "the given mpp 0.25 replaces the file's own 0.5" in caplog.text


@pytest.mark.parametrize("mpp", [0.0, -1.0, 352.8, float("nan")])
def test_impossible_mpp_is_refused(svs, mpp):
    with pytest.raises(MissingMppError, match="cannot be a scan's"):
        wk.open_slide(svs, mpp=mpp)


def test_screen_resolution_of_a_plain_tiff_is_not_a_scan_resolution(tmp_path, image):
    path = tmp_path / "screen.tif"
    tifffile.imwrite(path, image, photometric="rgb", tile=(256, 256), resolution=(72, 72), resolutionunit="INCH")
    with pytest.raises(MissingMppError, match="no usable micrometres per pixel"):
        wk.open_slide(path)


def test_unequal_mpp_is_refused_unless_allowed(tmp_path, image):
    path = tmp_path / "oblong.tif"
    per_cm = (1e4 / 0.5, 1e4 / 0.52)
    tifffile.imwrite(path, image, photometric="rgb", tile=(256, 256), resolution=per_cm, resolutionunit="CENTIMETER")
    with pytest.raises(UnequalMppError, match=r"mpp x 0\.5, y 0\.52.*more than 1 % apart"):
        wk.open_slide(path)
    with wk.open_slide(path, allow_unequal_mpp=True) as slide:
        assert slide.mpp == pytest.approx((0.5, 0.52))


def test_every_readers_reason_is_shown(tmp_path):
    path = tmp_path / "noise.svs"
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    with pytest.raises(SlideOpenError) as caught:
        wk.open_slide(path)
    text = str(caught.value)
    assert "5,000 bytes" in text
    assert "openslide: " in text
    assert "tiffslide: TiffFileError" in text


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(SlideOpenError, match=r"nowhere\.svs: no such file"):
        wk.open_slide(tmp_path / "nowhere.svs")
    with pytest.raises(SlideOpenError, match="this is a folder"):
        wk.open_slide(tmp_path)


def test_scenes_are_listed_and_never_chosen_silently(tmp_path, image):
    path = tmp_path / "two.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as tif:
        for name, pixels in (("left", image), ("right", 255 - image)):
            meta = {"Name": name, "axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
            tif.write(pixels, photometric="rgb", tile=(256, 256), metadata=meta)
    with pytest.raises(SceneError, match=r"2 scenes or focal planes \('left', 'right'\) and none was chosen.*--scene"):
        wk.open_slide(path)
    with pytest.raises(SceneError, match="'middle' is not one of them"):
        wk.open_slide(path, scene="middle")
    with wk.open_slide(path, scene="right") as slide:
        assert (slide.scene, slide.scenes, slide.mpp) == ("right", ("left", "right"), (0.5, 0.5))
        np.testing.assert_array_equal(slide.read_region((100, 50), (64, 32)), 255 - image[50:82, 100:164])


def test_focal_planes_are_listed(tmp_path, image):
    path = tmp_path / "z.ome.tif"
    stack = np.stack([image, image // 2, image // 4])
    meta = {"axes": "ZYXS", "Name": "stack", "PhysicalSizeX": 500, "PhysicalSizeXUnit": "nm",
            "PhysicalSizeY": 500, "PhysicalSizeYUnit": "nm"}  # fmt: skip
    tifffile.imwrite(path, stack, ome=True, photometric="rgb", tile=(256, 256), metadata=meta)
    with pytest.raises(SceneError, match="stack/z0.*stack/z1.*stack/z2"):
        wk.open_slide(path)
    with wk.open_slide(path, scene="stack/z1") as slide:
        assert slide.mpp == pytest.approx((0.5, 0.5))
        np.testing.assert_array_equal(slide.read_region((0, 0), (900, 700)), image // 2)


def test_a_scene_of_a_file_that_has_one_is_refused(svs):
    with pytest.raises(SlideOpenError, match="cannot choose a scene"):
        wk.open_slide(svs, scene="left")


def test_single_channel_tiff_is_not_brightfield(tmp_path, image):
    path = tmp_path / "dapi.ome.tif"
    channels = np.moveaxis(image, 2, 0)
    tifffile.imwrite(path, channels, ome=True, photometric="minisblack", metadata={"axes": "CYX"})
    with pytest.raises(NotBrightfieldError, match=r"not a bright-field RGB scan.*MINISBLACK"):
        wk.open_slide(path)


def test_one_corrupt_tile_does_not_take_the_slide_with_it(tmp_path, svs):
    path = tmp_path / "torn.svs"
    data = bytearray(svs.read_bytes())
    with tifffile.TiffFile(svs) as tif:
        page = tif.pages[0]
        offset, count = page.dataoffsets[0], page.databytecounts[0]
    data[offset : offset + count] = bytes(count)
    path.write_bytes(data)
    with wk.open_slide(path) as slide, wk.open_slide(svs) as whole:
        for _ in range(2):  # the error state of OpenSlide must not stay
            with pytest.raises(TileReadError, match="level 0"):
                slide.read_region((0, 0), (256, 256))
            good = slide.read_region((256, 0), (256, 256))
        np.testing.assert_array_equal(good, whole.read_region((256, 0), (256, 256)))


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9, 0.999])
def test_a_file_that_was_cut_off_is_never_read(tmp_path, svs, image, share):
    """Whatever part is missing: lower levels, the last tiles, or the directories."""
    plain = tmp_path / "plain.tif"
    tifffile.imwrite(plain, image, photometric="rgb", tile=(256, 256), compression="jpeg")
    front = tmp_path / "front.tif"  # all directories before all pixels
    tifffile.imwrite(front, image, photometric="rgb", rowsperstrip=64, bigtiff=True)
    for whole in (svs, plain, front):
        data = whole.read_bytes()
        cut = tmp_path / f"cut{whole.suffix}"
        cut.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(TruncatedSlideError, match=r"cut off: the file has [\d,]+ bytes, and .*copy it again"):
            wk.open_slide(cut, mpp=0.5)


def test_a_whole_file_is_never_called_cut_off(slides_dir):
    from wsikit.slides.truncation import refuse_truncated

    files = [path for path in slides_dir.iterdir() if path.is_file()] if slides_dir.is_dir() else []
    if not files:
        pytest.skip(f"no slides in {slides_dir}")
    for path in files:
        refuse_truncated(path)


REAL = {
    "CMU-1-Small-Region.svs": ("direct_tiff", "aperio", (2220, 2967), 0.499),
    "tubularadenoma-flat_HE_L15.svs": ("direct_tiff", "aperio", (16528, 16568), 0.504),
    "gcp_jpeg.dcm": ("openslide", "dicom", (957, 715), 16.783),
    "gcp_jpeg2000.dcm": ("openslide", "dicom", (957, 715), 16.783),
}


@pytest.mark.parametrize("name", REAL)
def test_real_slides(slides_dir, name):
    reader, vendor, size, mpp = REAL[name]
    with wk.open_slide(slides_dir / name) as slide:
        assert (slide.reader, slide.vendor, slide.size) == (reader, vendor, size)
        assert slide.mpp == pytest.approx((mpp, mpp))


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("TCGA-CR-7395-01A-01-TS1.svs", MissingMppError, "no usable micrometres"),
        ("kidney-48-5.tif", MissingMppError, "no usable micrometres"),
        ("pathml_small_dicom.dcm", SlideOpenError, "Couldn't get image flavor"),
        ("pathml_small_vectra.qptiff", NotBrightfieldError, "MINISBLACK"),
    ],
)
def test_real_slides_that_are_refused(slides_dir, name, error, words):
    with pytest.raises(error, match=words):
        wk.open_slide(slides_dir / name)


def test_plain_tiff_is_read_where_openslide_refuses(slides_dir):
    with wk.open_slide(slides_dir / "kidney-48-5.tif", mpp=4.0) as slide:
        assert slide.reader == "tiffslide"
        assert "Unsupported or missing image file" in slide.refused["openslide"]
        assert slide.read_region((0, 0), (100, 50)).shape == (50, 100, 3)
