"""TIFF families of which there is no sample here, written as their scanners lay them out.

Whatever reads them: the pixels are OpenSlide's where it opens the file, and who read it, and why, is recorded.
"""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest
import tifffile

import wsikit as wk
from wsikit.errors import NotBrightfieldError, SlideOpenError
from wsikit.testing.svs import encode_jpeg

SIZE = (900, 700)
"""Of level 0: no multiple of a cell, nor is its half."""

PER_CM = {"resolution": (2e4, 2e4), "resolutionunit": "CENTIMETER"}
"""0.5 um per pixel."""


@pytest.fixture(scope="module")
def rgb():
    """Clouds of colour in which every place is different."""
    noise = np.random.default_rng(0).normal(0, 1, (SIZE[1], SIZE[0], 3)).astype(np.float32)
    clouds = cv2.GaussianBlur(noise, (0, 0), 12)
    return np.clip(160 + clouds / clouds.std() * 35, 0, 255).astype(np.uint8)


def halved(rgb):
    return cv2.resize(rgb, (rgb.shape[1] // 2, rgb.shape[0] // 2), interpolation=cv2.INTER_AREA)


def padded(rgb, side=256):
    height, width = rgb.shape[:2]
    return np.pad(rgb, ((0, -height % side), (0, -width % side), (0, 0)), mode="edge")


def ycbcr(subsampling):
    return lambda tile: encode_jpeg(tile, quality=90, subsampling=subsampling)


def write_levels(path, levels, *, encode=None, empty=(), first=None, each=None, subifds=False, **writer):
    """A pyramid of JPEG cells of 256 px.

    Args:
        path: Where to.
        levels: RGB (h, w, 3) of each level.
        encode: Makes a cell, in the YCbCr that libjpeg makes unless ``each`` says otherwise.
        empty: Cells of level 0 without bytes.
        first: Further arguments of the first directory.
        each: Further arguments of every directory.
        subifds: Whether lower levels go below the first directory, or after it.
        **writer: For tifffile.TiffWriter.
    """
    encode = encode or ycbcr("420")

    def cells(image, empty=()):
        image = padded(image)
        corners = itertools.product(range(0, image.shape[0], 256), range(0, image.shape[1], 256))
        for number, (y, x) in enumerate(corners):
            cell = np.ascontiguousarray(image[y : y + 256, x : x + 256])
            yield b"" if number in empty else encode(cell)

    settings = {"dtype": np.uint8, "tile": (256, 256), "photometric": "ycbcr", "compression": "jpeg"}
    settings |= {} if writer.get("ome") else {"metadata": None}
    with tifffile.TiffWriter(path, **writer) as tif:
        top = settings | (each or {}) | (first or {})
        tif.write(cells(levels[0], empty), shape=levels[0].shape, subifds=len(levels) - 1 if subifds else None, **top)
        for level in levels[1:]:
            tif.write(cells(level), shape=level.shape, subfiletype=1, **settings | (each or {}))
    return path


def assert_as_openslide(path, *, reader="direct_tiff", vendor="generic-tiff"):
    with wk.open_slide(path) as ours, wk.open_slide(path, reader="openslide") as model:
        assert (ours.reader, ours.vendor) == (reader, vendor)
        assert (ours.level_sizes, ours.mpp) == (model.level_sizes, model.mpp)
        for level, size in enumerate(ours.level_sizes):
            np.testing.assert_array_equal(ours.read_region((0, 0), size, level), model.read_region((0, 0), size, level))
        return ours.level_sizes, ours.mpp.x, ours.refused


def near(found, rgb):
    """JPEG loses a little, a wrong place or colour space much."""
    assert np.abs(found.astype(int) - rgb).mean() < 4


@pytest.mark.parametrize(("order", "big"), [("<", False), ("<", True), (">", True)])
@pytest.mark.parametrize("subsampling", ["420", "422", "444"])
def test_generic_pyramids(tmp_path, rgb, order, big, subsampling):
    """As vips and PIL write them: one directory after the other, every cell with its own tables."""
    tag = {"subsampling": {"420": (2, 2), "422": (2, 1), "444": (1, 1)}[subsampling]}
    path = write_levels(
        tmp_path / "a.tif", [rgb, halved(rgb)], encode=ycbcr(subsampling), each=PER_CM | tag,
        byteorder=order, bigtiff=big,
    )  # fmt: skip
    assert assert_as_openslide(path)[:2] == ((SIZE, (450, 350)), 0.5)
    with wk.open_slide(path) as slide:
        near(slide.read_region((0, 0), SIZE), rgb)


def test_classic_tiff_of_the_other_byte_order_is_left_to_tiffslide(tmp_path, rgb):
    path = write_levels(tmp_path / "a.tif", [rgb, halved(rgb)], each=PER_CM, byteorder=">")
    with wk.open_slide(path) as slide:
        assert (slide.reader, slide.level_sizes) == ("tiffslide", (SIZE, (450, 350)))
        assert "Unsupported" in slide.refused["direct_tiff"]
        near(slide.read_region((0, 0), SIZE), rgb)


def as_rgb_jpeg(*, adobe):
    """A cell whose three components are R, G and B, numbered 1 to 3; the Adobe marker says so, or nothing does."""
    import simplejpeg

    marker = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00" if adobe else b""

    def encode(tile):
        data = simplejpeg.encode_jpeg_yuv_planes(*(np.ascontiguousarray(tile[..., i]) for i in range(3)), quality=90)
        assert data[2:4] == b"\xff\xe0"
        return data[:2] + marker + data[20:]  # without the JFIF marker, which stands for YCbCr

    return encode


@pytest.mark.parametrize("adobe", [True, False])
def test_rgb_in_jpeg(tmp_path, rgb, adobe):
    path = write_levels(
        tmp_path / "a.tif",
        [rgb, halved(rgb)],
        encode=as_rgb_jpeg(adobe=adobe),
        each=PER_CM | {"photometric": "rgb", "compressionargs": {"outcolorspace": "RGB"}},
    )
    assert_as_openslide(path)
    with wk.open_slide(path) as slide:
        near(slide.read_region((0, 0), SIZE), rgb)


def test_cells_of_zero_bytes(tmp_path, rgb):
    path = write_levels(tmp_path / "a.tif", [rgb, halved(rgb)], each=PER_CM, empty=(0, 5, 11))
    assert_as_openslide(path)
    with wk.open_slide(path) as slide:
        assert (slide.read_region((0, 0), (256, 256)) == 255).all()


def ome(path, rgb, *, size=0.5, unit="µm", **options):
    meta = {"axes": "YXS", "PhysicalSizeX": size, "PhysicalSizeY": size}
    meta |= {f"PhysicalSize{axis}Unit": unit for axis in "XY"}
    return write_levels(path, [rgb, halved(rgb)], first={"metadata": meta}, subifds=True, ome=True, **options)


@pytest.mark.parametrize(("size", "unit"), [(0.5, "µm"), (500, "nm"), (0.0005, "mm")])
def test_ome_tiff_with_its_levels_below_and_its_own_resolution(tmp_path, rgb, size, unit):
    path = ome(tmp_path / "a.ome.tif", rgb, size=size, unit=unit, empty=(3,))
    with wk.open_slide(path) as ours, wk.open_slide(path, reader="ome") as model:
        assert (ours.reader, ours.vendor, ours.scenes) == ("direct_tiff", "ome-tiff", ())
        assert ours.level_sizes == model.level_sizes == (SIZE, (450, 350))
        assert ours.mpp == model.mpp == pytest.approx((0.5, 0.5))
        for level, side in enumerate(ours.level_sizes):
            np.testing.assert_array_equal(ours.read_region((0, 0), side, level), model.read_region((0, 0), side, level))
        near(ours.read_region((0, 0), (768, 700)), rgb[:, :768])
        near(ours.read_region((0, 0), (450, 350), 1), halved(rgb))
        assert (ours.read_region((768, 0), (132, 256)) == 255).all()
    with wk.open_slide(path, reader="openslide", mpp=0.5) as slide:
        assert slide.level_sizes == (SIZE,)  # why it is not asked
    with pytest.raises(SlideOpenError, match="one image has no scenes"):
        wk.open_slide(path, scene="left")


def test_ome_tiff_in_another_codec_keeps_its_levels(tmp_path, rgb):
    path = tmp_path / "a.ome.tif"
    meta = {"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    options = {"photometric": "rgb", "compression": "zlib", "tile": (256, 256)}
    with tifffile.TiffWriter(path, ome=True) as tif:
        tif.write(rgb, subifds=1, metadata=meta, **options)
        tif.write(halved(rgb), subfiletype=1, **options)
    with wk.open_slide(path) as slide:
        assert (slide.reader, slide.level_sizes, slide.mpp) == ("ome", (SIZE, (450, 350)), (0.5, 0.5))
        assert "expected JPEG" in slide.refused["direct_tiff"]
        np.testing.assert_array_equal(slide.read_region((0, 0), SIZE), rgb)


def test_scenes_of_ome_tiff_keep_their_levels(tmp_path, rgb):
    path = tmp_path / "two.ome.tif"
    options = {"photometric": "rgb", "tile": (256, 256)}
    with tifffile.TiffWriter(path, ome=True) as tif:
        for name, image in (("left", rgb), ("right", 255 - rgb)):
            meta = {"Name": name, "axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
            tif.write(image, subifds=1, metadata=meta, **options)
            tif.write(halved(image), subfiletype=1, **options)
    with wk.open_slide(path, scene="right") as slide:
        assert (slide.reader, slide.level_sizes) == ("ome_scenes", (SIZE, (450, 350)))
        np.testing.assert_array_equal(slide.read_region((0, 0), (450, 350), 1), halved(255 - rgb))


def philips_xml():
    def attribute(name, numbers, kind, value):
        group, element = numbers
        return f'<Attribute Name="{name}" Group="0x{group}" Element="0x{element}" PMSVR="{kind}">{value}</Attribute>'

    def many(name, numbers, objects):
        return attribute(name, numbers, "IDataObjectArray", f"<Array>{objects}</Array>")

    def spacing(mm):
        return attribute("DICOM_PIXEL_SPACING", ("0028", "0030"), "IDoubleArray", f'"{mm}" "{mm}"')

    levels = "".join(
        f'<DataObject ObjectType="PixelDataRepresentation">{spacing(mm)}</DataObject>' for mm in ("0.0005", "0.0010")
    )
    image = (
        attribute("PIM_DP_IMAGE_TYPE", ("301D", "1004"), "IString", "WSI") + spacing("0.0005")
        + many("PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE", ("1001", "8B01"), levels)
    )  # fmt: skip
    scanned = f'<DataObject ObjectType="DPScannedImage">{image}</DataObject>'
    maker = attribute("DICOM_MANUFACTURER", ("0008", "0070"), "IString", "PHILIPS")
    inside = maker + many("PIM_DP_SCANNED_IMAGES", ("301D", "1003"), scanned)
    return f'<?xml version="1.0" encoding="UTF-8" ?><DataObject ObjectType="DPUfsImport">{inside}</DataObject>'


def test_philips_levels_are_padded_to_whole_cells(tmp_path, rgb):
    top = padded(rgb)  # 1024 x 768
    half = padded(halved(top))  # 512 x 384 on a directory of 512 x 512
    path = write_levels(
        tmp_path / "a.tiff", [top, half], first={"description": philips_xml()}, each={"software": "Philips DP v1.0"}
    )
    sizes, mpp, _ = assert_as_openslide(path, vendor="philips")
    assert (sizes, mpp) == (((1024, 768), (512, 384)), 0.5)


def bif(path, rgb, overlap):
    """Three rows of four tiles, numbered from below, to and fro."""

    def number(column, row):
        return (2 - row) * 4 + (column if row % 2 == 0 else 3 - column) + 1

    def joint(direction, one, two, x, y):
        return (
            f'<TileJointInfo FlagJoined="1" Confidence="100" Direction="{direction}" Tile1="{number(*one)}" '
            f'Tile2="{number(*two)}" OverlapX="{x}" OverlapY="{y}"/>'
        )

    cells = list(itertools.product(range(4), range(3)))
    joints = [joint("RIGHT", (c, r), (c + 1, r), overlap, 0) for c, r in cells if c < 3]
    joints += [joint("UP", (c, r), (c, r - 1), 0, overlap) for c, r in cells if r]
    scan = '<iScan ScanRes="0.5" Magnification="20" ScannerModel="x"/>'
    area = (
        '<ImageInfo AOIScanned="1" AOIIndex="0" NumRows="3" NumCols="4" Width="256" Height="256" Pos-X="0" Pos-Y="0">'
    )
    xml = (
        f'<EncodeInfo Ver="2"><SlideInfo>{scan}</SlideInfo><SlideStitchInfo>{area}{"".join(joints)}</ImageInfo>'
        '</SlideStitchInfo><AoiOrigin><AOI0 OriginX="0" OriginY="0"/></AoiOrigin></EncodeInfo>'
    )
    top = padded(rgb)
    with tifffile.TiffWriter(path, bigtiff=True) as tif:
        label = np.full((100, 100, 3), 200, np.uint8)
        tif.write(label, photometric="rgb", metadata=None, description="Label Image",
                  extratags=[(700, 1, 0, scan.encode(), True)])  # fmt: skip
        for level, image in enumerate((top, halved(top))):
            corners = itertools.product(range(0, image.shape[0], 256), range(0, image.shape[1], 256))
            cells = (ycbcr("420")(padded(image)[y : y + 256, x : x + 256]) for y, x in corners)
            tif.write(
                cells, shape=image.shape, dtype=np.uint8, tile=(256, 256), photometric="ycbcr", compression="jpeg",
                metadata=None, description=f"level={level} mag={20 >> level} quality=90",
                extratags=[(700, 1, 0, xml.encode(), True)] if level == 0 else (),
            )  # fmt: skip
    return path


@pytest.mark.parametrize(("overlap", "reader"), [(0, "direct_tiff"), (16, "openslide")])
def test_ventana_tiles_that_overlap_are_left_to_openslide(tmp_path, rgb, overlap, reader):
    sizes, _, refused = assert_as_openslide(bif(tmp_path / "a.bif", rgb, overlap), reader=reader, vendor="ventana")
    assert sizes[0] == (1024 - 3 * overlap, 768 - 2 * overlap)
    assert ("direct_tiff" in refused) is (overlap > 0)


def test_ventana_tiles_are_never_shown_unstitched(tmp_path, rgb):
    path = bif(tmp_path / "a.bif", rgb, 16)
    path.write_bytes(path.read_bytes().replace(b'Direction="UP"', b'Direction="XX"'))  # OpenSlide refuses it
    with pytest.raises(SlideOpenError, match="(?s)Bad direction.*tiffslide does not stitch them"):
        wk.open_slide(path)


@pytest.mark.parametrize("planar", [True, False])
def test_planes_and_opacity_are_left_to_openslide(tmp_path, rgb, planar):
    path = tmp_path / "a.tif"
    opaque = np.full((*rgb.shape[:2], 1), 255, np.uint8)
    image = np.moveaxis(rgb, 2, 0) if planar else np.concatenate([rgb, opaque], axis=2)
    kind = {"planarconfig": "separate"} if planar else {"extrasamples": ["unassalpha"]}
    tifffile.imwrite(path, image, photometric="rgb", tile=(256, 256), metadata=None, **PER_CM, **kind)
    _, _, refused = assert_as_openslide(path, reader="openslide")
    assert "expected 3 interleaved samples of 8 bits" in refused["direct_tiff"]
    with wk.open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read_region((0, 0), SIZE), rgb)


@pytest.mark.parametrize("kind", ["grey", "grey JPEG", "16 bits"])
def test_what_openslide_would_show_as_if_it_were_brightfield(tmp_path, rgb, kind):
    path = tmp_path / "a.tif"
    image = rgb.astype(np.uint16) * 257 if kind == "16 bits" else np.ascontiguousarray(rgb[..., 0])
    photometric = "rgb" if kind == "16 bits" else "minisblack"
    tifffile.imwrite(path, image, photometric=photometric, tile=(256, 256), metadata=None, **PER_CM,
                     compression="jpeg" if kind == "grey JPEG" else None)  # fmt: skip
    with pytest.raises(NotBrightfieldError, match="not a bright-field RGB scan"):
        wk.open_slide(path)


def test_hamamatsu_strips_are_left_to_openslide(tmp_path, rgb):
    path, whole = tmp_path / "a.ndpi", iter([encode_jpeg(rgb, quality=90, subsampling="422")])
    tags = [(65420, 4, 1, 1, True), (65421, 11, 1, 20.0, True), (65424, 9, 1, 0, True), (271, 2, 0, "Hamamatsu", True)]
    tifffile.imwrite(path, whole, shape=rgb.shape, dtype=np.uint8, rowsperstrip=SIZE[1], photometric="ycbcr",
                     compression="jpeg", metadata=None, software="NDP.scan", extratags=tags, **PER_CM)  # fmt: skip
    _, mpp, refused = assert_as_openslide(path, reader="openslide", vendor="hamamatsu")
    assert mpp == 0.5
    assert "no tiled TIFF directory" in refused["direct_tiff"]


def test_leica_slides_are_larger_than_what_was_scanned(tmp_path, rgb):
    def image(name, size, ifds, view, objective):
        levels = "".join(
            f'<dimension r="{r}" ifd="{ifd}" sizeX="{size[0] >> r}" sizeY="{size[1] >> r}"/>'
            for r, ifd in enumerate(ifds)
        )
        return (
            f'<image name="{name}"><pixels sizeX="{size[0]}" sizeY="{size[1]}">{levels}</pixels>'
            f'<view sizeX="{view[0]}" sizeY="{view[1]}" offsetX="0" offsetY="0"/><scanSettings><objectiveSettings>'
            f"<objective>{objective}</objective></objectiveSettings><illuminationSettings><illuminationSource>brightfield"
            "</illuminationSource></illuminationSettings></scanSettings></image>"
        )

    glass, scanned = (900_000, 700_000), (450_000, 350_000)  # nm
    xml = (
        '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01">'
        f'<collection name="c" sizeX="{glass[0]}" sizeY="{glass[1]}">{image("macro", (225, 175), [0], glass, 1)}'
        f"{image('scan', SIZE, [1, 2], scanned, 20)}</collection></scn>"
    )
    macro = halved(halved(rgb))
    path = write_levels(
        tmp_path / "a.scn", [macro, rgb, halved(rgb)], first={"description": xml}, each=PER_CM, bigtiff=True
    )
    sizes, mpp, refused = assert_as_openslide(path, reader="openslide", vendor="leica")
    assert (sizes[0], mpp) == ((1800, 1400), 0.5)
    assert "no tiled TIFF directory holds the level of 1800 x 1400 px alone" in refused["direct_tiff"]
