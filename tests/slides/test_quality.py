"""Quality measures tell planted artefacts and real blur, and leave stain and contrast alone."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from wsikit.errors import ConfigError
from wsikit.slides.open import open_slide
from wsikit.slides.quality import QUALITY_NAMES, tile_quality
from wsikit.testing import plant_slide

SIZE, TILE = 1536, 256


def measured(tiles):
    return dict(zip(QUALITY_NAMES, tile_quality(tiles).T, strict=True))


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """For each artefact: measures of the tiles of two slides, share of each mask in them, and the slide."""

    def draw(kind):
        parts = []
        for number, seed in enumerate((0, 2)):
            path = tmp_path_factory.mktemp("planted") / "a.svs"
            truth = plant_slide(path, seed=seed, size_px=SIZE, site=seed, artefacts=(kind,), tissue_fraction=0.5)
            grid = range(0, SIZE - TILE + 1, 128)
            coords = np.array([(x, y) for y in grid for x in grid])
            share = {name: truth.share(name, coords, TILE) for name in ("tissue", kind)}
            keep = (share["tissue"] > 0.5) | (share[kind] > 0.3)
            with open_slide(path) as slide:
                tiles = np.stack([slide.read_region((x, y), (TILE, TILE)) for x, y in coords[keep].tolist()])
            parts.append((measured(tiles), share[kind][keep], np.full(keep.sum(), number)))
        values, share, number = zip(*parts, strict=True)
        names = {name: np.concatenate([v[name] for v in values]) for name in QUALITY_NAMES}
        return names, np.concatenate(share), np.concatenate(number)

    return draw


@pytest.mark.parametrize(
    ("kind", "name", "sign", "least", "wanted"),
    [("blur", "focus", -1, 0.7, 0.97), ("pen", "pen", 1, 0.3, 0.97), ("fold", "fold", 1, 0.08, 0.9)],
)
def test_planted_artefacts_are_told_from_clean_tissue_of_their_slide(planted, kind, name, sign, least, wanted):
    values, share, slide = planted(kind)
    used = (share >= least) | (share == 0)
    aucs = []
    for number in np.unique(slide[share >= least]):
        here = used & (slide == number)
        aucs.append(roc_auc_score(share[here] > 0, sign * values[name][here]))
    assert aucs
    assert np.mean(aucs) > wanted


def test_real_tissue_is_told_from_itself_out_of_focus(slides_dir):
    with open_slide(slides_dir / "CMU-1-Small-Region.svs") as slide:
        sharp = np.stack([slide.read_region((x, y), (256, 256)) for y in (300, 900, 1500) for x in (300, 900, 1500)])
    sharp = sharp[measured(sharp)["brightness"] < 0.9]  # the first corner is glass
    coded = [cv2.imencode(".jpg", cv2.GaussianBlur(t, (0, 0), 2)[..., ::-1], [1, 80])[1] for t in sharp]
    blurred = np.stack([cv2.imdecode(code, 1)[..., ::-1] for code in coded])
    focus, lost = measured(sharp)["focus"], measured(blurred)["focus"]
    assert (focus > 1.15 * lost).all()
    assert np.median(focus) > 0.17
    assert np.median(lost) < 0.14
    assert measured(sharp)["pen"].max() < 0.01


def test_focus_leaves_stain_and_contrast_alone():
    rng = np.random.default_rng(0)
    tiles = rng.integers(0, 256, (4, 256, 256, 3), dtype=np.uint8)
    tiles = np.stack([cv2.GaussianBlur(tile, (0, 0), 1.2) for tile in tiles])
    paler = (200 + (tiles.astype(np.float32) - 128) * 0.5).clip(0, 255).astype(np.uint8)
    np.testing.assert_allclose(measured(paler)["focus"], measured(tiles)["focus"], rtol=0.05)


@pytest.mark.parametrize(
    ("colour", "is_ink"),
    [((30, 60, 190), True), ((25, 130, 50), True), ((35, 35, 40), True), ((200, 40, 60), True),
     ((245, 245, 245), False), ((180, 120, 180), False), ((230, 170, 200), False)],
)  # fmt: skip
def test_smooth_areas_of_a_pens_hue_are_ink(colour, is_ink):
    tile = np.full((1, 128, 128, 3), 245, np.uint8)
    tile[:, :, :64] = colour
    assert measured(tile)["pen"][0] == pytest.approx(0.5 if is_ink else 0, abs=0.08)


def test_brightness_and_saturation_are_what_they_say():
    tile = np.empty((1, 64, 64, 3), np.uint8)
    tile[:] = (200, 100, 150)
    found = measured(tile)
    assert found["brightness"][0] == pytest.approx(150 / 255, abs=1e-6)
    assert found["saturation"][0] == pytest.approx(0.5, abs=1e-6)


def test_a_row_is_of_its_tile_alone_and_odd_sizes_do():
    tiles = np.random.default_rng(1).integers(0, 256, (5, 37, 50, 3), dtype=np.uint8)
    whole = tile_quality(tiles)
    assert np.isfinite(whole).all()
    for i in range(5):
        np.testing.assert_array_equal(tile_quality(tiles[i : i + 1])[0], whole[i])
    assert tile_quality(tiles[:0]).shape == (0, len(QUALITY_NAMES))
    for extreme in (0, 255):
        assert np.isfinite(tile_quality(np.full((1, 8, 8, 3), extreme, np.uint8))).all()


def test_what_is_no_batch_of_tiles_is_refused():
    with pytest.raises(ConfigError, match=r"shape \(16, 16, 3\).*expected uint8 RGB"):
        tile_quality(np.zeros((16, 16, 3), np.uint8))
    with pytest.raises(ConfigError, match="8 px or more"):
        tile_quality(np.zeros((1, 7, 16, 3), np.uint8))
