"""DICOM slides made from real SVS files, their JPEG frames copied: wsidicom shows what OpenSlide shows, and more."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import wsikit as wk
from wsikit.errors import NotBrightfieldError, SceneError, SlideOpenError, TileReadError
from wsikit.slides.cell_decoder import CellDecoder
from wsikit.slides.tiff_levels import index_levels

pydicom = pytest.importorskip("pydicom", reason="needs the extra 'dicom'")
pytest.importorskip("wsidicom", reason="needs the extra 'dicom'")

JPEG, JPEG_LS = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.80"


def frames_of(svs, level, syntax):
    """The cells of a level as frames: whole JPEG images, or JPEG-LS of their pixels."""
    if syntax == JPEG:
        data = svs.read_bytes()
        cells = zip(level.offsets.tolist(), level.counts.tolist(), strict=True)
        return [level.head + data[offset + 2 : offset + count] for offset, count in cells]
    import imagecodecs

    decoder, frames = CellDecoder(svs, (255, 255, 255)), []
    pixels = np.empty((*level.cell_px[::-1], 3), np.uint8)
    for cell in range(len(level.offsets)):
        decoder.decode(level, cell, pixels)
        frames.append(imagecodecs.jpegls_encode(pixels))
    decoder.close()
    return frames


def write_dicom(folder, svs, *, mpp, planes=1, syntax=JPEG, skip=(), **attributes):
    """One file for each level, named level0.dcm, level1.dcm ...: tiled in full, or sparse where frames are skipped.

    Args:
        folder: Where to.
        svs: An Aperio slide with JPEG cells.
        mpp: Micrometres per level-0 pixel.
        planes: How many focal planes, 2 um apart. The first is the slide's; in each further one
            the frames are one place later.
        syntax: JPEG copies the cells; JPEG_LS encodes their pixels again, without loss.
        skip: Numbers of cells to leave out at level 0.
        **attributes: Put into every file.
    """
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import generate_uid

    def item(**values):
        found = Dataset()
        found.update(values)
        return found

    folder.mkdir(exist_ok=True)
    with wk.open_slide(svs, mpp=mpp) as slide:
        levels = index_levels(svs, slide.level_sizes)
        colour = "RGB" if syntax == JPEG_LS or not levels[0].head[17] else "YBR_FULL_422"
    shared = {f"{kind}InstanceUID": generate_uid() for kind in ("Study", "Series")}
    shared |= {"FrameOfReferenceUID": generate_uid()}
    for number, level in enumerate(levels):
        file = Dataset()
        file.file_meta = FileMetaDataset()
        file.file_meta.TransferSyntaxUID = syntax
        frames = frames_of(svs, level, syntax)
        kept = [i for i in range(len(frames)) if number or i not in skip]
        columns, (width, height) = level.grid[0], level.cell_px
        downs = [full / part for full, part in zip(levels[0].size, level.size, strict=True)]
        spacing = [f"{mpp * down / 1000:.10f}" for down in downs[::-1]]
        measures = item(PixelSpacing=spacing, SliceThickness=0.001)
        if planes > 1:
            measures.SpacingBetweenSlices = 0.002
        file.update(shared | {
            "SOPClassUID": "1.2.840.10008.5.1.4.1.1.77.1.6", "SOPInstanceUID": generate_uid(), "Modality": "SM",
            "ImageType": ["DERIVED" if number else "ORIGINAL", "PRIMARY", "VOLUME", "RESAMPLED" if number else "NONE"],
            "SamplesPerPixel": 3, "PhotometricInterpretation": colour, "PlanarConfiguration": 0, "BitsAllocated": 8,
            "BitsStored": 8, "HighBit": 7, "PixelRepresentation": 0, "Columns": width, "Rows": height,
            "TotalPixelMatrixColumns": level.size[0], "TotalPixelMatrixRows": level.size[1],
            "TotalPixelMatrixFocalPlanes": planes, "NumberOfOpticalPaths": 1, "NumberOfFrames": len(kept) * planes,
            "DimensionOrganizationType": "TILED_SPARSE" if skip else "TILED_FULL",
            "ImagedVolumeWidth": level.size[0] * mpp * downs[0] / 1000, "ImagedVolumeDepth": 0.001,
            "ImagedVolumeHeight": level.size[1] * mpp * downs[1] / 1000, "ImageOrientationSlide": [0, -1, 0, -1, 0, 0],
            "TotalPixelMatrixOriginSequence": [
                item(XOffsetInSlideCoordinateSystem=0, YOffsetInSlideCoordinateSystem=0)
            ],
            "OpticalPathSequence": [item(OpticalPathIdentifier="0")],
            "SharedFunctionalGroupsSequence": [item(PixelMeasuresSequence=[measures])],
        } | attributes)  # fmt: skip
        if skip:
            file.PerFrameFunctionalGroupsSequence = [
                item(PlanePositionSlideSequence=[item(
                    ColumnPositionInTotalImagePixelMatrix=i % columns * width + 1,
                    RowPositionInTotalImagePixelMatrix=i // columns * height + 1,
                    XOffsetInSlideCoordinateSystem=0, YOffsetInSlideCoordinateSystem=0,
                    ZOffsetInSlideCoordinateSystem=0,
                )])
                for i in kept
            ]  # fmt: skip
        file.file_meta.MediaStorageSOPClassUID = file.SOPClassUID
        file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID
        file.add_new("PixelData", "OB", encapsulate([frames[i - plane] for plane in range(planes) for i in kept]))
        file["PixelData"].is_undefined_length = True
        file.save_as(folder / f"level{number}.dcm", enforce_file_format=True)
    return folder / "level0.dcm"


REAL = {"helicobacterpylori_HE_L13.svs": 2.016, "CMU-1-Small-Region.svs": 0.499}
"""YCbCr with three levels, whose sizes are no multiples of a cell; RGB."""


@pytest.fixture(scope="module")
def dicom(tmp_path_factory, test_data):
    folder = tmp_path_factory.mktemp("dicom")
    return {name: write_dicom(folder / name, test_data / "slides" / name, mpp=mpp) for name, mpp in REAL.items()}


@pytest.mark.parametrize("name", REAL)
def test_wsidicom_has_openslides_sizes_resolution_and_pixels(dicom, slides_dir, name):
    with (
        wk.open_slide(dicom[name]) as model,
        wk.open_slide(dicom[name].with_name("level0.dcm"), reader="wsidicom") as ours,
        wk.open_slide(slides_dir / name) as svs,
    ):
        assert (model.reader, ours.reader, ours.vendor) == ("openslide", "wsidicom", model.vendor)
        assert ours.level_sizes == model.level_sizes == svs.level_sizes
        assert ours.level_downsamples == model.level_downsamples
        assert ours.mpp == model.mpp == (REAL[name], REAL[name])
        rng = np.random.default_rng(0)
        last = tuple(extent - 256 for extent in ours.size)
        for xy in [(0, 0), (240, 256), last, *(tuple(rng.integers(0, last).tolist()) for _ in range(20))]:
            shown = ours.read_region(xy, (256, 256))
            np.testing.assert_array_equal(shown, model.read_region(xy, (256, 256)))
            np.testing.assert_array_equal(shown, svs.read_region(xy, (256, 256)))
        for level, size in enumerate(ours.level_sizes):
            part = (min(900, size[0]), min(900, size[1]))
            np.testing.assert_array_equal(ours.read_region((0, 0), part, level), model.read_region((0, 0), part, level))


def test_any_file_of_the_series_opens_all_of_it_and_no_other(dicom, tmp_path):
    one, other = dicom.values()
    for number, file in enumerate([*sorted(one.parent.iterdir()), other]):
        (tmp_path / f"{number}.dcm").write_bytes(file.read_bytes())
    (tmp_path / "notes.txt").write_text("not a slide")
    for file, levels in (("2.dcm", 3), ("3.dcm", 1)):
        with wk.open_slide(tmp_path / file, reader="wsidicom") as ours, wk.open_slide(tmp_path / file) as model:
            assert ours.level_sizes == model.level_sizes
            assert len(ours.level_sizes) == levels


def test_several_threads_see_the_same_pixels(dicom):
    with wk.open_slide(dicom["helicobacterpylori_HE_L13.svs"], reader="wsidicom") as slide:
        origins = np.random.default_rng(1).integers(0, 4700, (64, 2)).tolist()
        expected = [slide.read_region(tuple(xy), (256, 256)) for xy in origins]
    path = dicom["helicobacterpylori_HE_L13.svs"]
    with wk.open_slide(path, reader="wsidicom") as slide, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda xy: slide.read_region(tuple(xy), (256, 256)), origins))
    np.testing.assert_array_equal(found, expected)


def test_focal_planes_are_listed_and_never_chosen_silently(tmp_path, slides_dir):
    svs = slides_dir / "CMU-1-Small-Region.svs"
    path = write_dicom(tmp_path, svs, mpp=0.499, planes=3)
    with pytest.raises(SceneError, match=r"3 scenes or focal planes \('z 0', 'z 2', 'z 4'\) and none was chosen"):
        wk.open_slide(path)
    with pytest.raises(SlideOpenError, match="no scene 'z 9'; it has 'z 0', 'z 2', 'z 4'"):
        wk.open_slide(path, scene="z 9")
    with wk.open_slide(svs) as plain:
        expected = plain.read_region((0, 0), (720, 480))
    for scene, shift in (("z 0", 0), ("z 2", 240), (2, 480)):
        with wk.open_slide(path, scene=scene) as slide:
            assert (slide.reader, slide.scenes) == ("wsidicom", ("z 0", "z 2", "z 4"))
            shown = slide.read_region((0, 0), (720, 480))
            np.testing.assert_array_equal(shown[:, shift:], expected[:, : 720 - shift])


def test_a_codec_that_openslide_lacks(tmp_path, slides_dir):
    svs = slides_dir / "CMU-1-Small-Region.svs"
    with wk.open_slide(write_dicom(tmp_path, svs, mpp=0.499, syntax=JPEG_LS)) as slide, wk.open_slide(svs) as plain:
        assert slide.reader == "wsidicom"
        assert "OpenSlide" in slide.refused["openslide"]
        np.testing.assert_array_equal(
            slide.read_region((100, 50), (900, 700)), plain.read_region((100, 50), (900, 700))
        )


def test_what_was_never_scanned_is_white(tmp_path, slides_dir):
    path = write_dicom(tmp_path, slides_dir / "CMU-1-Small-Region.svs", mpp=0.499, skip=(1, 12))
    with wk.open_slide(path, reader="wsidicom") as ours, wk.open_slide(path, reader="openslide") as model:
        assert (ours.read_region((240, 0), (240, 240)) == 255).all()
        np.testing.assert_array_equal(ours.read_region((0, 0), (960, 720)), model.read_region((0, 0), (960, 720)))


def test_a_broken_frame_is_an_error_and_the_others_stay_readable(tmp_path, dicom):
    name = "CMU-1-Small-Region.svs"
    data = bytearray(dicom[name].read_bytes())
    starts = [i for i in range(len(data) - 11) if data[i : i + 4] == b"\xff\xd8\xff\xee"]
    data[starts[1] : starts[1] + 400] = bytes(400)
    (tmp_path / "broken.dcm").write_bytes(data)
    with wk.open_slide(tmp_path / "broken.dcm", reader="wsidicom") as slide, wk.open_slide(dicom[name]) as whole:
        for _ in range(2):
            with pytest.raises(TileReadError, match=r"level 0, 50 x 40 px at \(300, 20\)"):
                slide.read_region((300, 20), (50, 40))
            np.testing.assert_array_equal(slide.read_region((0, 0), (240, 240)), whole.read_region((0, 0), (240, 240)))


def test_a_file_that_was_cut_off_shows_nothing(tmp_path, dicom):
    data = dicom["CMU-1-Small-Region.svs"].read_bytes()
    for share in (0.01, 0.5, 0.98):
        (tmp_path / "cut.dcm").write_bytes(data[: int(len(data) * share)])
        with pytest.raises((SlideOpenError, TileReadError)):
            wk.open_slide(tmp_path / "cut.dcm", reader="wsidicom").read_region((2000, 2800), (100, 100))


def test_grey_pixels_are_not_brightfield(tmp_path, dicom):
    file = pydicom.dcmread(dicom["CMU-1-Small-Region.svs"])
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    file.save_as(tmp_path / "grey.dcm")
    with pytest.raises(NotBrightfieldError, match="1 samples of 8 bits per pixel"):
        wk.open_slide(tmp_path / "grey.dcm")


def test_without_wsidicom_the_extra_is_named(tmp_path, slides_dir, monkeypatch):
    path = write_dicom(tmp_path, slides_dir / "CMU-1-Small-Region.svs", mpp=0.499, planes=2)
    monkeypatch.setitem(sys.modules, "wsidicom", None)  # as where it is not installed
    with pytest.raises(SlideOpenError, match=r"wsidicom is not installed: pip install 'wsikit\[dicom\]'"):
        wk.open_slide(path)


def test_other_files_are_left_to_the_other_readers(slides_dir):
    with pytest.raises(SlideOpenError, match="wsidicom: ValueError: not a DICOM file"):
        wk.open_slide(slides_dir / "CMU-1-Small-Region.svs", reader="wsidicom")
