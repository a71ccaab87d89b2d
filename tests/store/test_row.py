"""A row's description against the pixels: what is said to be read gives the feature that is stored."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

import wsikit as wk
from wsikit.errors import ConfigError
from wsikit.store.row import describe_row
from wsikit.testing.faults import corrupt_tiles, plain_tissue
from wsikit.testing.svs import write_svs


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A slide that is resampled, and one with a broken tile."""
    folder = tmp_path_factory.mktemp("rows")
    rgb = plain_tissue(1024)
    write_svs(folder / "fine.svs", rgb, mpp=0.25)
    write_svs(folder / "whole.svs", rgb, mpp=0.5)
    corrupt_tiles(folder / "whole.svs", folder / "torn.svs", tiles=[(1, 0)])
    spec = wk.TilingSpec(tile_px=256, target_mpp=0.5)
    paths = [folder / "fine.svs", folder / "torn.svs"]
    store = wk.extract_features(
        paths, out=folder / "a.zarr", encoder="colour", tissue="whole", spec=spec, workers=1
    ).store
    return wk.open_store(store), folder


def test_pixels_and_micrometres_say_the_same(made):
    store, folder = made
    row = describe_row(store, "fine", 3)
    assert (row.xy_level0, row.size_level0_px) == ((512, 512), (512.0, 512.0))
    assert (row.corner_um, row.size_um) == ((128.0, 128.0), (128.0, 128.0))
    assert (row.read_px, row.tile_px, row.resampler) == ((512, 512), 256, "area")
    # Read as it says, and shrunk as it says: the stored vector comes out, but for the decoder's rounding.
    with wk.open_slide(folder / "fine.svs") as slide:
        region = slide.read_region(row.xy_level0, row.read_px, row.level)
    tile = cv2.resize(region, (row.tile_px, row.tile_px), interpolation=cv2.INTER_AREA)
    fresh = wk.create_encoder("colour").encode(np.asarray(tile)[None])[0]
    stored = store.values("fine", encoder="colour", rows=[3])[0].astype(np.float32)
    assert fresh @ stored / np.linalg.norm(fresh) / np.linalg.norm(stored) > 0.999
    (norm,) = row.norm.values()
    assert norm == pytest.approx(np.linalg.norm(stored))


def test_a_tile_that_could_not_be_read_has_a_status_and_no_length(made):
    store, _ = made
    (key,) = store.keys("torn")
    torn = describe_row(store, "torn", 1)
    assert (torn.xy_level0, torn.status, torn.norm) == ((256, 0), {key: "unreadable"}, {})
    assert describe_row(store, "torn", 0).status == {key: "ok"}
    assert torn.quality == {"tissue_fraction": 1.0}


@pytest.mark.parametrize("row", [-1, 16])
def test_rows_that_are_not_there(made, row):
    with pytest.raises(ConfigError, match=f"no row {row}; it has rows 0 to 15"):
        describe_row(made[0], "torn", row)
