"""The direct reader shows what OpenSlide shows, in whatever order and company tiles are read, or says why not."""

from __future__ import annotations

import dataclasses
import itertools
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

import wsikit as wk
from wsikit.errors import ConfigError, SlideOpenError, TileReadError
from wsikit.geometry import Mpp
from wsikit.slides import cells
from wsikit.slides.cell_decoder import CellDecoder
from wsikit.slides.level import LevelChoice, shrink_of
from wsikit.slides.tiff_levels import index_levels
from wsikit.slides.tiling import TilingSpec, read_tile, read_tiles, tile_slide
from wsikit.slides.tissue_mask import segment_tissue
from wsikit.testing import corrupt_tiles, plant_slide
from wsikit.testing.svs import encode_jpeg

REAL = (
    "CMU-1-Small-Region.svs", "TCGA-CR-7395-01A-01-TS1.svs", "amyloid_crystalviolet_L13.svs",
    "helicobacterpylori_HE_L13.svs", "helicobacterpylori_IHC_L13.svs", "helicobacterpylori_giemsa_L13.svs",
    "hyperplasticpolyp_case1_L14.svs", "ischemic-colitis_HE_L14.svs", "tubularadenoma-flat_HE_L15.svs",
)  # fmt: skip
"""All that both readers read: JPEG with shared tables in RGB, JPEG in YCbCr, JPEG 2000; cells of 240 and 256 px."""

NONE, AREA = "none", "area"
CASES = {
    "on the grid": LevelChoice(0, 1.0, (256, 256), Mpp(0.5, 0.5), NONE),
    "resampled": LevelChoice(0, 1.0, (506, 506), Mpp(1.0, 1.0), AREA),
    "enlarged": LevelChoice(0, 1.0, (247, 247), Mpp(0.5, 0.5), "cubic"),
    "scaled by the decoder": LevelChoice(0, 1.0, (600, 600), Mpp(1.2, 1.2), "dct"),
}


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    path = tmp_path_factory.mktemp("direct") / "planted.svs"
    plant_slide(path, seed=4, size_px=3000, tissue_fraction=0.5)
    return path


def grid(slide, step, off=0, side=256, limit=None):
    """Origins in row-major order, level-0 px."""
    xs, ys = (np.arange(off, extent - side + 1, step) for extent in slide.size)
    found = np.stack([a.ravel() for a in np.meshgrid(xs, ys)], axis=1).astype(np.int32)
    return found[:limit]


def tiles_of(slide, choice, coords, tile_px=256, *, batch=64, threads=1):
    out, status = np.empty((len(coords), tile_px, tile_px, 3), np.uint8), np.empty(len(coords), np.uint8)
    for i in range(0, len(coords), batch):
        rows = slice(i, i + batch)
        status[rows] = read_tiles(slide, choice, tile_px, coords[rows], out[rows], threads=threads)
    return out, status


@pytest.mark.parametrize("name", REAL)
def test_real_slides_have_openslides_pixels(slides_dir, name):
    with (
        wk.open_slide(slides_dir / name, mpp=0.5) as ours,
        wk.open_slide(slides_dir / name, mpp=0.5, reader="openslide") as model,
    ):
        assert (ours.reader, ours.vendor) == ("direct_tiff", model.vendor)
        assert (ours.level_sizes, ours.level_downsamples) == (model.level_sizes, model.level_downsamples)
        assert ours._handle.recorded_mpp == model._handle.recorded_mpp
        rng = np.random.default_rng(0)
        coords = np.stack([rng.integers(0, extent - 300, 40) for extent in ours.size], axis=1).tolist()
        last = tuple(extent - 256 for extent in ours.size)
        for xy in [(0, 0), (240, 256), (512, 480), last, *map(tuple, coords)]:
            np.testing.assert_array_equal(ours.read_region(xy, (256, 256)), model.read_region(xy, (256, 256)))
        for level, size in enumerate(ours.level_sizes):  # (0, 0) is a pixel of every level
            part = (min(700, size[0]), min(700, size[1]))
            np.testing.assert_array_equal(ours.read_region((0, 0), part, level), model.read_region((0, 0), part, level))


@pytest.mark.parametrize("name", [REAL[0], REAL[1], REAL[7]])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("step", "off"), [(256, 0), (240, 120), (97, 31)])
def test_tiles_are_the_same_in_any_company(slides_dir, monkeypatch, name, case, step, off):
    """One by one and in batches, with one thread and several, with room for all cells and for hardly any."""
    choice = CASES[case]
    with wk.open_slide(slides_dir / name, mpp=0.5) as slide:
        if choice.resampler == "dct" and not slide.batch_reader.can_shrink:
            pytest.skip("JPEG 2000")
        coords = grid(slide, step, off, choice.read_px[0], limit=30)
        expected = np.stack([read_tile(slide, choice, 256, tuple(xy)) for xy in coords.tolist()])
        first, status = tiles_of(slide, choice, coords, threads=2)
        assert not status.any()
        np.testing.assert_array_equal(first, expected)
        np.testing.assert_array_equal(tiles_of(slide, choice, coords, batch=7)[0], expected)
        np.testing.assert_array_equal(tiles_of(slide, choice, coords[::-1], batch=11)[0], expected[::-1])
    monkeypatch.setattr(cells, "BUDGET_BYTES", 0)
    with wk.open_slide(slides_dir / name, mpp=0.5) as slide:
        np.testing.assert_array_equal(tiles_of(slide, choice, coords, threads=3)[0], expected)


@pytest.fixture(scope="module")
def image(planted):
    """The whole slide as OpenSlide shows it, with white around."""
    with wk.open_slide(planted, reader="openslide") as slide:
        return np.pad(slide.read_region((0, 0), slide.size), ((600, 600), (600, 600), (0, 0)), constant_values=255)


@given(
    seed=st.integers(0, 2**32 - 1),
    side=st.sampled_from([96, 256, 512, 640]),
    step=st.sampled_from([64, 128, 192, 256, 300, 512]),
    off=st.sampled_from([-500, -128, 0, 31, 128]),
    kept=st.sampled_from([1.0, 0.6]),
    order=st.sampled_from(["rows", "reversed", "shuffled"]),
    batch=st.sampled_from([3, 20, 64]),
    threads=st.sampled_from([1, 3]),
    budget=st.sampled_from([0, 5 << 20, 192 << 20]),
)
@settings(max_examples=60, deadline=None)
def test_any_list_of_tiles_is_cut_out_of_one_image(
    planted, image, seed, side, step, off, kept, order, batch, threads, budget
):
    """Gaps, columns that are used again, what lies outside: each a reason why tiles are not cut several at once."""
    rng = np.random.default_rng(seed)
    with pytest.MonkeyPatch.context() as patch, wk.open_slide(planted) as slide:
        patch.setattr(cells, "BUDGET_BYTES", budget)
        starts = np.arange(off, slide.size[0] + 500 - side, step)
        coords = np.stack([a.ravel() for a in np.meshgrid(starts, starts + 7)], axis=1).astype(np.int32)
        first = rng.integers(0, max(1, len(coords) - 90))
        coords = coords[first : first + 90][rng.random(len(coords[first : first + 90])) < kept]
        coords = {"rows": coords, "reversed": coords[::-1], "shuffled": rng.permutation(coords)}[order]
        choice = LevelChoice(0, 1.0, (side, side), Mpp(0.5, 0.5), NONE)
        out, status = tiles_of(slide, choice, coords, side, batch=batch, threads=threads)
    assert not status.any()
    for tile, (x, y) in zip(out, (coords + 600).tolist(), strict=True):
        np.testing.assert_array_equal(tile, image[y : y + side, x : x + side])


@pytest.mark.parametrize("name", ["helicobacterpylori_HE_L13.svs", "TCGA-CR-7395-01A-01-TS1.svs"])
def test_tiles_of_coarser_levels_and_across_the_border(slides_dir, name):
    with wk.open_slide(slides_dir / name, mpp=0.5) as slide:
        down = slide.level_downsamples[1]
        choices = (
            LevelChoice(1, down, (256, 256), Mpp(2, 2), NONE),
            LevelChoice(1, down, (300, 280), Mpp(2, 2), AREA),
            CASES["on the grid"],
        )
        width, height = slide.size
        coords = np.array([
            (0, 0), (-300, -200), (1001, 777), (round(256 * down), round(512 * down)),
            (width - 400, height - 500), (width - 1, 5), (width + 4000, 10), (-9000, 10), (5, height + 1),
        ], np.int32)  # fmt: skip
        for choice in choices:
            out, status = tiles_of(slide, choice, coords)
            assert not status.any()
            for tile, xy in zip(out, coords.tolist(), strict=True):
                np.testing.assert_array_equal(tile, read_tile(slide, choice, 256, tuple(xy)), err_msg=str(xy))
        assert (out[6:] == 255).all()


@pytest.mark.parametrize(("step", "off"), [(256, 128), (128, 0), (512, 100)])
def test_each_cell_is_decoded_once(planted, monkeypatch, step, off):
    decoded, plain = [], CellDecoder.decode_all

    def counted(self, level, cells, *rest):
        decoded.extend(cells)
        return plain(self, level, cells, *rest)

    with wk.open_slide(planted) as slide:
        monkeypatch.setattr(CellDecoder, "decode_all", counted)
        coords = grid(slide, step, off)
        tiles_of(slide, CASES["on the grid"], coords, batch=16, threads=2)
        touched = {
            (x // 256 + i, y // 256 + j)
            for x, y in coords.tolist()
            for i in range((x + 255) // 256 - x // 256 + 1)
            for j in range((y + 255) // 256 - y // 256 + 1)
        }
        assert len(decoded) == len(set(decoded)) == len(touched)


def test_a_broken_cell_flags_the_tiles_that_touch_it_and_no_others(planted, tmp_path):
    broken = tmp_path / "broken.svs"
    boxes = np.array(corrupt_tiles(planted, broken, n=40, seed=2))  # x, y, width, height
    with wk.open_slide(planted) as whole, wk.open_slide(broken) as slide:
        assert slide.reader == "direct_tiff"
        for choice, step, off in (
            (CASES["on the grid"], 256, 0), (CASES["on the grid"], 256, 128), (CASES["on the grid"], 128, 0),
            (CASES["resampled"], 506, 0), (CASES["scaled by the decoder"], 600, 0),
        ):  # fmt: skip
            side = choice.read_px[0]
            coords = grid(slide, step, off, side)
            x, y = coords[:, :1], coords[:, 1:]
            touches = (x < boxes[:, 0] + boxes[:, 2]) & (x + side > boxes[:, 0])
            touches &= (y < boxes[:, 1] + boxes[:, 3]) & (y + side > boxes[:, 1])
            out, status = tiles_of(slide, choice, coords, threads=2)
            np.testing.assert_array_equal(status, touches.any(axis=1))
            assert not out[status == 1].any()
            np.testing.assert_array_equal(out[status == 0], tiles_of(whole, choice, coords)[0][status == 0])
        x, y, *_ = boxes[0].tolist()
        with pytest.raises(TileReadError, match=f"level 0.*column {x // 256}, row {y // 256}"):
            slide.read_region((x, y), (10, 10))
        with pytest.raises(TileReadError, match="cannot be decoded"):
            read_tile(slide, CASES["scaled by the decoder"], 256, (x, y))


def test_the_same_tiles_are_flagged_where_openslide_reads(planted, tmp_path):
    broken = tmp_path / "broken.svs"
    corrupt_tiles(planted, broken, n=12, seed=3)
    with wk.open_slide(broken) as ours, wk.open_slide(broken, reader="openslide") as model:
        coords = grid(ours, 256, 128)
        (out, status), (theirs, flags) = (tiles_of(s, CASES["on the grid"], coords) for s in (ours, model))
        assert 0 < status.sum() < len(coords)
        np.testing.assert_array_equal(status, flags)
        np.testing.assert_array_equal(out, theirs)


@pytest.mark.parametrize("threads", [1, 5])
def test_a_read_that_fails_once_is_tried_again(planted, monkeypatch, threads):
    plain, refused = os.preadv, set()

    def once(file, buffers, offset):
        if offset in refused:
            return plain(file, buffers, offset)
        refused.add(offset)
        raise OSError("stale file handle")

    with wk.open_slide(planted) as slide:
        coords = grid(slide, 256, 128, limit=8)
        expected, _ = tiles_of(slide, CASES["on the grid"], coords)
        slide._handle._cells = None
        monkeypatch.setattr(os, "preadv", once)
        out, status = tiles_of(slide, CASES["on the grid"], coords, threads=threads)
    assert refused
    assert not status.any()
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("wrong", [1, 2, 100, 1 << 31, 1 << 62, -1, -(1 << 40)])
def test_a_cell_whose_size_is_wrong_is_lost_alone(planted, wrong):
    with wk.open_slide(planted) as slide:
        level = index_levels(planted, slide.level_sizes)[0]
    decoder, cells_ = CellDecoder(planted, (255, 255, 255)), list(range(20))
    outs = np.zeros((2, 20, 256, 256, 3), np.uint8)
    assert decoder.decode_all(level, cells_, list(outs[0])).all()
    counts = level.counts.copy()
    counts[[4, 9]] = wrong
    with ThreadPoolExecutor() as pool:
        done = decoder.decode_all(dataclasses.replace(level, counts=counts), cells_, list(outs[1]), pool, 3)
    decoder.close()
    assert np.flatnonzero(~done).tolist() == [4, 9]
    np.testing.assert_array_equal(outs[0][done], outs[1][done])


@pytest.mark.parametrize("off", [0, 128])
@pytest.mark.parametrize("at", [1, 2, 4])
def test_an_interrupted_read_ends_at_once_for_all_threads(planted, monkeypatch, off, at):
    """None of them waits for what the interrupted one was to read, and what is read next is right."""
    plain, calls = os.preadv, itertools.count(1)

    def interrupted(file, buffers, offset):
        if next(calls) == at:
            raise KeyboardInterrupt
        time.sleep(0.01)  # the others have nothing to do but to wait
        return plain(file, buffers, offset)

    with wk.open_slide(planted) as slide:
        coords = grid(slide, 256, off, limit=40)
        expected, _ = tiles_of(slide, CASES["on the grid"], coords)
        slide._handle._cells = None
        raised = []

        def read():
            try:
                tiles_of(slide, CASES["on the grid"], coords, threads=4)
            except KeyboardInterrupt as error:
                raised.append(error)

        reader = threading.Thread(target=read, daemon=True)
        with monkeypatch.context() as patch:
            patch.setattr(os, "preadv", interrupted)
            reader.start()
            reader.join(20)
        assert not reader.is_alive()
        assert raised
        np.testing.assert_array_equal(tiles_of(slide, CASES["on the grid"], coords, threads=4)[0], expected)


def test_a_file_that_shrinks_under_the_reader_gives_unreadable_tiles(planted, tmp_path):
    path = tmp_path / "shrinks.svs"
    path.write_bytes(planted.read_bytes())
    with wk.open_slide(path) as slide:
        os.truncate(path, 16)
        _, status = tiles_of(slide, CASES["on the grid"], grid(slide, 256, limit=8))
        assert status.all()
        with pytest.raises(TileReadError, match=r"0 of [\d]+ bytes"):
            slide.read_region((1000, 1000), (10, 10))


def jpeg_tiff(path, rgb, *, photometric="ycbcr", encode, compression="jpeg", empty=(), description=None):
    """A pyramid of one level with cells as given."""
    side = 256

    def each():
        for number, (y, x) in enumerate((y, x) for y in range(0, len(rgb), side) for x in range(0, rgb.shape[1], side)):
            yield b"" if number in empty else encode(np.ascontiguousarray(rgb[y : y + side, x : x + side]))

    tifffile.imwrite(
        path, each(), shape=rgb.shape, dtype=np.uint8, tile=(side, side), photometric=photometric,
        compression=compression, metadata=None, resolution=(2e4, 2e4), resolutionunit="CENTIMETER",
        description=description,
    )  # fmt: skip


@pytest.fixture(scope="module")
def rgb(planted):
    with wk.open_slide(planted) as slide:
        return slide.read_region((600, 600), (1024, 768))


def test_a_colour_tag_that_contradicts_the_pixels_is_seen(tmp_path, rgb):
    """The tag says YCbCr and the cells' own marker RGB: OpenSlide believes the tag, libjpeg by itself the marker."""

    def encode(tile):
        data = encode_jpeg(tile, quality=90, subsampling="444")
        return data[:2] + b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00" + data[20:]  # for the JFIF marker

    jpeg_tiff(tmp_path / "odd.tif", rgb, encode=encode)
    with wk.open_slide(tmp_path / "odd.tif") as slide:
        assert slide.reader == "openslide"
        assert "grey levels from what OpenSlide shows" in slide.refused["direct_tiff"]


def test_what_was_never_scanned_is_white(tmp_path, rgb):
    path = tmp_path / "sparse.tif"
    jpeg_tiff(path, rgb, encode=lambda t: encode_jpeg(t, quality=90, subsampling="420"), empty=(1, 6))
    with wk.open_slide(path) as ours, wk.open_slide(path, reader="openslide") as model:
        assert ours.reader == "direct_tiff"
        assert (ours.read_region((256, 0), (256, 256)) == 255).all()
        np.testing.assert_array_equal(ours.read_region((0, 0), (1024, 768)), model.read_region((0, 0), (1024, 768)))


def test_jpeg_2000_in_ycbcr(tmp_path, rgb):
    import cv2
    import imagecodecs

    def encode(tile):
        ycc = cv2.cvtColor(tile, cv2.COLOR_RGB2YCrCb)[..., [0, 2, 1]]
        return imagecodecs.jpeg2k_encode(np.ascontiguousarray(ycc), codecformat="j2k", reversible=True, mct=False)

    path = tmp_path / "ycc.tif"
    jpeg_tiff(path, rgb, encode=encode, compression="aperio_jp2000_ycbc", description="Aperio Image|MPP = 0.5")
    with wk.open_slide(path) as ours, wk.open_slide(path, reader="openslide") as model:
        assert ours.reader == "direct_tiff"
        np.testing.assert_array_equal(ours.read_region((0, 0), (1024, 768)), model.read_region((0, 0), (1024, 768)))


@pytest.mark.parametrize(
    ("write", "words"),
    [
        ({"compression": "zlib", "photometric": "rgb", "tile": (256, 256)}, "expected JPEG .RGB or YCbCr. or Aperio"),
        ({"compression": "jpeg", "photometric": "rgb", "rowsperstrip": 64}, "OpenSlideUnsupportedFormatError"),
    ],
)
def test_other_tiffs_are_left_to_the_other_readers(tmp_path, rgb, write, words):
    path = tmp_path / "other.tif"
    tifffile.imwrite(path, rgb, resolution=(2e4, 2e4), resolutionunit="CENTIMETER", metadata=None, **write)
    with wk.open_slide(path) as slide:
        assert slide.reader != "direct_tiff"
    with pytest.raises(SlideOpenError, match=words):
        wk.open_slide(path, reader="direct_tiff")


def test_the_decoder_scales_as_the_average_does(planted):
    """Halved in the decoder, tiles are those of the area average to about 43 dB, and at the same place."""
    with wk.open_slide(planted) as slide:
        tissue = segment_tissue(slide, method="whole")
        found = {}
        for how in ("area", "dct"):
            tiles = tile_slide(slide, tissue, TilingSpec(128, 1.0, resampler=how))
            assert tiles.choice.resampler == how
            found[how] = tiles_of(slide, tiles.choice, tiles.coords, 128)[0].astype(float)
        assert shrink_of(tiles.choice, 128) == 2
    noise = ((found["area"] - found["dct"]) ** 2).mean()
    assert 10 * np.log10(255**2 / noise) > 38
    shifted = ((found["area"][:, 1:] - found["dct"][:, :-1]) ** 2).mean()
    assert shifted > 4 * noise


@pytest.mark.parametrize(("read", "shrink"), [(256, 1), (506, 1), (512, 2), (1000, 2), (1024, 4), (2048, 8), (9000, 8)])
def test_the_decoder_never_leaves_less_than_a_tile(read, shrink):
    assert shrink_of(LevelChoice(0, 1.0, (read, read), Mpp(1, 1), "dct"), 256) == shrink
    assert shrink_of(LevelChoice(0, 1.0, (read, read), Mpp(1, 1), "area"), 256) == 1


def test_scaling_in_the_decoder_is_refused_where_it_is_not_possible(slides_dir, planted):
    with wk.open_slide(slides_dir / "TCGA-CR-7395-01A-01-TS1.svs", mpp=0.25) as slide:
        tissue = segment_tissue(slide, method="whole")
        with pytest.raises(
            ConfigError, match="'dct' needs JPEG tiles read by the reader 'direct_tiff'.*use resampler 'area'"
        ):
            tile_slide(slide, tissue, TilingSpec(256, 0.4, resampler="dct"))
        assert tile_slide(slide, tissue, TilingSpec(256, 0.25, resampler="dct")).choice.resampler == "none"
    with pytest.raises(ConfigError, match="resampler=lanczos; expected 'area' or 'dct'"):
        TilingSpec(resampler="lanczos")


def test_an_array_of_another_shape_is_refused(planted):
    with wk.open_slide(planted) as slide:
        coords = grid(slide, 256, limit=4)
        for out in (np.empty((3, 256, 256, 3), np.uint8), np.empty((4, 256, 256, 6), np.uint8)[..., ::2]):
            with pytest.raises(ConfigError, match=r"expected contiguous uint8 \(4, 256, 256, 3\) for 4 tiles"):
                read_tiles(slide, CASES["on the grid"], 256, coords, out)


def test_memory_does_not_grow_with_the_number_of_tiles(planted):
    with wk.open_slide(planted) as slide:
        tiles_of(slide, CASES["on the grid"], grid(slide, 128, 64))
        cache = slide._handle._cells
        used = len(cache._held) - cache._held.count(-1)
        assert used <= 3 * -(-slide.size[0] // 256)  # rows of cells
