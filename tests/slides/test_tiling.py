"""The grid lies where the formula says, keeps what has tissue, and counts what it drops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsikit.errors import ConfigError, UpsamplingError
from wsikit.geometry import Mpp, grid_origins
from wsikit.slides.level import choose_level
from wsikit.slides.tiling import TilingSpec, area_fractions, read_tile, tile_slide
from wsikit.slides.tissue_mask import TissueMask


class Still:
    """A slide of which only the geometry matters."""

    def __init__(self, size, mpp, downsamples=(1.0,)):
        self.path, self.size, self.mpp = "still.svs", size, Mpp(*mpp)
        self.level_downsamples = downsamples
        self.level_sizes = [(round(size[0] / d), round(size[1] / d)) for d in downsamples]


def everywhere(slide, mask=None, down=8.0):
    if mask is None:
        mask = np.ones((-(-slide.size[1] // 8), -(-slide.size[0] // 8)), bool)
    return TissueMask(mask, (down, down), slide.mpp.mean * down, "whole")


@given(extent=st.integers(1, 100_000), tile=st.floats(1, 3000), stride=st.floats(1, 3000), seed=st.integers(0, 10))
def test_origins_are_rounded_products_and_none_is_lost(extent, tile, stride, seed):
    origins, edge = grid_origins(extent, tile, stride)
    expected = [round(i * stride) for i in range(len(origins) + edge + 1)]
    assert origins.tolist() == expected[: len(origins)]
    assert all(o + tile <= extent + 1e-6 for o in origins.tolist())
    assert expected[-1] >= extent or expected[-1] + stride > extent  # all positions on the slide are accounted for
    if edge:
        assert expected[len(origins)] + tile > extent - 1


def test_a_running_sum_would_drift():
    origins, _ = grid_origins(100_000, 506.58, 506.58)
    summed = np.cumsum([0] + [round(506.58)] * (len(origins) - 1))
    assert origins[-1] == round((len(origins) - 1) * 506.58)
    assert abs(int(origins[-1]) - int(summed[-1])) > 50


@pytest.mark.parametrize(
    ("mpp", "target", "level", "resampler", "read"),
    [
        (0.5, 0.5, 0, "none", 256),
        (0.504, 0.5, 0, "none", 256),  # within 1 %
        (0.506, 0.5, 0, "cubic", 253),  # 1.2 % too coarse: enlarged
        (0.524, 0.5, 0, "cubic", 244),
        (0.25, 0.5, 0, "area", 512),
        (0.2527, 0.5, 0, "area", 507),
        (0.25, 1.0, 1, "none", 256),
        (0.25, 2.0, 1, "area", 512),
        (0.25, 4.0, 2, "none", 256),
    ],
)
def test_level_choice(mpp, target, level, resampler, read):
    choice = choose_level(Mpp(mpp, mpp), (1.0, 4.0, 16.0), target_mpp=target, tile_px=256)
    assert (choice.level, choice.resampler, choice.read_px) == (level, resampler, (read, read))
    assert choice.achieved_mpp.x == pytest.approx(read * mpp * choice.downsample / 256)
    assert choice.achieved_mpp.x == pytest.approx(target, rel=0.011)


def test_enlarging_beyond_5_percent_is_refused():
    with pytest.raises(
        UpsamplingError, match=r"scanned at 0\.53 um.*coarser than the requested 0\.5.*--target-mpp 0\.53"
    ):
        choose_level(Mpp(0.53, 0.53), (1.0,), target_mpp=0.5, tile_px=256)


def test_unequal_pixels_are_read_as_oblongs():
    choice = choose_level(Mpp(0.25, 0.3), (1.0,), target_mpp=0.6, tile_px=100)
    assert choice.read_px == (240, 200)
    assert choice.achieved_mpp == pytest.approx((0.6, 0.6))


def test_unresampled_tiles_touch_and_do_not_overlap():
    slide = Still((2220, 2967), (0.499, 0.499))
    tiles = tile_slide(slide, everywhere(slide), TilingSpec(256, 0.5))
    assert tiles.coords[:3].tolist() == [[0, 0], [256, 0], [512, 0]]
    assert len(tiles) == 8 * 11
    assert (tiles.counts.kept, tiles.counts.edge) == (88, 9 * 12 - 88)
    assert tiles.achieved_mpp == (0.499, 0.499)
    assert tiles.coords.dtype == np.int32


def test_resampled_tiles_lie_on_the_physical_grid():
    slide = Still((20_000, 10_000), (0.2527, 0.2527))
    tiles = tile_slide(slide, everywhere(slide), TilingSpec(256, 0.5, stride_px=128))
    xs = np.unique(tiles.coords[:, 0])
    assert xs.tolist() == [round(i * 128 * 0.5 / 0.2527) for i in range(len(xs))]
    assert xs[-1] + 507 <= 20_000


def test_row_major_order():
    slide = Still((1024, 1024), (0.5, 0.5))
    coords = tile_slide(slide, everywhere(slide), TilingSpec(256, 0.5)).coords
    assert coords.tolist() == sorted(coords.tolist(), key=lambda xy: (xy[1], xy[0]))


@given(st.integers(0, 2**32 - 1))
def test_tissue_fraction_is_the_exact_area(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((40, 50)) < 0.5
    tissue = TissueMask(mask, (8.0, 8.0), 4.0, "test")
    xs, ys = rng.integers(0, 300, 3).astype(np.int32), rng.integers(0, 250, 2).astype(np.int32)
    side = int(rng.integers(5, 90))
    fine = np.kron(mask, np.ones((8, 8)))
    fine = np.pad(fine, ((0, 200), (0, 200)))
    found = area_fractions(tissue, xs, ys, (side, side))
    for j, y in enumerate(ys):
        for i, x in enumerate(xs):
            assert found[j, i] == pytest.approx(fine[y : y + side, x : x + side].mean(), abs=1e-9)


def test_min_tissue_keeps_and_counts():
    slide = Still((1024, 512), (0.5, 0.5))
    mask = np.zeros((64, 128), bool)
    mask[:, :40] = True  # 320 px: all of the first column of tiles, a quarter of the second
    tissue = everywhere(slide, mask)
    assert len(tile_slide(slide, tissue, TilingSpec(256, 0.5, min_tissue=0.25))) == 4
    assert len(tile_slide(slide, tissue, TilingSpec(256, 0.5, min_tissue=0.26))) == 2
    tiles = tile_slide(slide, tissue, TilingSpec(256, 0.5, min_tissue=0.26))
    assert tiles.counts.glass == 6
    np.testing.assert_allclose(tiles.tissue_fraction, 1.0)


def test_edge_tiles_are_dropped_and_those_with_tissue_counted():
    slide = Still((600, 300), (0.5, 0.5))
    tiles = tile_slide(slide, everywhere(slide), TilingSpec(256, 0.5, min_tissue=0.3))
    assert len(tiles) == 2
    # Right column: 88 of 256 px on the slide (0.34 of the area); bottom row: 44 of 256 px (0.17).
    assert (tiles.counts.edge, tiles.counts.edge_tissue) == (4, 1)


def test_no_tissue_gives_no_tiles():
    slide = Still((1024, 1024), (0.5, 0.5))
    tiles = tile_slide(slide, everywhere(slide, np.zeros((128, 128), bool)))
    assert tiles.coords.shape == (0, 2)


@pytest.mark.parametrize(
    "bad", [{"tile_px": 0}, {"target_mpp": 0.0}, {"min_tissue": 1.5}, {"stride_px": 0}, {"target_mpp": float("nan")}]
)
def test_bad_specs_are_named(bad):
    with pytest.raises(ConfigError, match=f"TilingSpec: {next(iter(bad))}="):
        TilingSpec(**bad)


def test_read_tile_averages_areas(tmp_path):
    import wsikit as wk
    from wsikit.testing.svs import write_svs

    checker = np.zeros((512, 512, 3), np.uint8)
    checker[::2, ::2] = checker[1::2, 1::2] = 200  # averages to 100 everywhere at half the resolution
    write_svs(tmp_path / "c.svs", checker, mpp=0.25, levels=(1,), quality=100)
    with wk.open_slide(tmp_path / "c.svs") as slide:
        choice = choose_level(slide.mpp, slide.level_downsamples, target_mpp=0.5, tile_px=128)
        tile = read_tile(slide, choice, 128, (128, 128))
    assert tile.shape == (128, 128, 3)
    assert np.abs(tile.astype(int) - 100).max() <= 6
