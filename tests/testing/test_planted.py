"""A planted slide holds what its truth says, looks the same to every reader, and is the same every time."""

from pathlib import Path

import cv2
import numpy as np
import openslide
import pytest
import tiffslide

from wsikit.testing import SlideTruth, plant_slide
from wsikit.testing.anatomy import GRID_PX
from wsikit.testing.glands import LESION_RIM
from wsikit.testing.planted import Recipe, scene_of
from wsikit.testing.render import render
from wsikit.testing.stains import Site, site

Slide = tuple[Path, SlideTruth]


def level0(path: Path) -> np.ndarray:
    with openslide.OpenSlide(path) as slide:
        return np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., :3]


def test_openslide_and_tiffslide_agree_to_the_pixel(planted: Slide) -> None:
    path, _ = planted
    with openslide.OpenSlide(path) as slide, tiffslide.TiffSlide(path) as other:
        assert slide.level_downsamples == other.level_downsamples == (1.0, 4.0, 16.0)
        assert float(slide.properties["openslide.mpp-x"]) == other.properties["tiffslide.mpp-x"] == 0.5
        for level, size in enumerate(slide.level_dimensions):
            ours, theirs = (s.read_region((0, 0), level, size) for s in (slide, other))
            np.testing.assert_array_equal(np.asarray(ours)[..., :3], np.asarray(theirs)[..., :3])


def test_extents_are_those_asked_for(planted: Slide) -> None:
    _, truth = planted
    assert truth.tissue_fraction == pytest.approx(0.45, abs=0.02)
    assert truth.lesion_fraction == pytest.approx(0.35, abs=0.03)


def test_the_tissue_mask_is_where_the_colour_is(planted: Slide) -> None:
    path, truth = planted
    rgb = level0(path)
    saturation = cv2.resize(np.ptp(rgb, axis=2), truth.bits.shape[::-1], interpolation=cv2.INTER_AREA)
    inside = cv2.erode(truth.mask("tissue").astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    outside = cv2.dilate(truth.mask("tissue").astype(np.uint8), np.ones((5, 5), np.uint8)) == 0
    assert (saturation[inside] > 12).mean() > 0.97
    assert (saturation[outside] < 12).mean() > 0.99


def test_the_lesion_is_planted_where_the_truth_says() -> None:
    """The same seed with and without a lesion differs inside the lesion and nearly nowhere else."""
    with_, without = (
        Recipe(seed=8, size_px=1024, site=site(0), tissue_fraction=0.45, lesion_fraction=share, grade=0.5, artefacts=())
        for share in (0.35, 0.0)
    )
    scene = scene_of(with_)
    nuclei_px = [np.ptp(gland.outline) for gland in scene.layout.glands]
    assert len(nuclei_px) > 5
    lesion = scene.anatomy.lesion
    centres = np.array([gland.outline.mean(0) for gland in scene.layout.glands if gland.rim == LESION_RIM])
    at = lesion[(centres[:, 1] / GRID_PX).astype(int), (centres[:, 0] / GRID_PX).astype(int)]
    assert len(at) > 5
    assert (at > -GRID_PX).all()  # every atypical gland is centred in the lesion
    assert not [gland for gland in scene_of(without).layout.glands if gland.rim == LESION_RIM]


def test_tile_truth_is_the_share_of_the_mask() -> None:
    bits = np.zeros((8, 8), np.uint8)
    bits[2:4, 3:7] = 3
    truth = SlideTruth("a", 128, 0.5, bits)
    coords = np.array([[48, 32], [0, 0], [40, 24], [112, 112], [200, 0]])
    np.testing.assert_allclose(truth.tile_truth(coords, 32), [1, 0, 0.75 * 0.75, 0, 0])
    np.testing.assert_allclose(truth.tile_truth(np.array([[0, 0]]), 128), [8 / 64])
    with pytest.raises(ValueError, match="no mask 'tumour'"):
        truth.share("tumour", coords, 32)


def test_truth_survives_being_saved(planted: Slide, tmp_path: Path) -> None:
    _, truth = planted
    truth.save(tmp_path)
    again = SlideTruth.load(tmp_path, truth.slide_id, size_px=truth.size_px)
    np.testing.assert_array_equal(again.bits, truth.bits)


@pytest.mark.parametrize("name", ["tissue", "lesion"])
def test_polygons_cover_the_mask(planted: Slide, name: str) -> None:
    _, truth = planted
    canvas = np.zeros((truth.size_px, truth.size_px), np.uint8)
    for feature in truth.geojson()["features"]:
        if feature["properties"]["classification"]["name"] == name:
            rings = [np.array(ring, np.int32) for ring in feature["geometry"]["coordinates"]]
            assert (rings[0][0] == rings[0][-1]).all()
            cv2.fillPoly(canvas, rings, 1)
    mask = np.kron(truth.mask(name).astype(np.uint8), np.ones((GRID_PX, GRID_PX), np.uint8))
    assert (canvas & mask).sum() / (canvas | mask).sum() > 0.9


def test_equal_arguments_give_equal_bytes_and_others_do_not(tmp_path: Path) -> None:
    def draw(name: str, **changes: object) -> bytes:
        path = tmp_path / f"{name}.svs"
        plant_slide(path, **({"seed": 2, "size_px": 640, "lesion_fraction": 0.3} | changes))  # type: ignore[arg-type]
        return path.read_bytes()

    first = draw("a")
    assert first == draw("b")
    assert first == draw("c", processes=2)
    assert first != draw("d", seed=3)
    assert first != draw("e", site=1)


def test_blocks_meet_without_a_seam() -> None:
    scene = scene_of(Recipe(4, 1024, site(1), 0.5, 0.3, 0.5, ("fold", "pen", "blur")))
    whole = render(scene, 0, 0, 1024, 1024)
    for x, y, w, h in ((256, 300, 200, 150), (0, 0, 512, 512), (500, 480, 300, 90), (701, 33, 323, 991)):
        np.testing.assert_array_equal(render(scene, x, y, w, h), whole[y : y + h, x : x + w])


def test_artefacts_are_drawn_and_recorded(tmp_path: Path) -> None:
    truth = plant_slide(tmp_path / "a.svs", seed=4, size_px=1024, artefacts=("fold", "pen", "blur"))
    assert all(truth.mask(name).any() for name in ("fold", "pen", "blur"))
    assert not (truth.mask("fold") & ~truth.mask("tissue")).any()
    with pytest.raises(ValueError, match="bubble"):
        plant_slide(tmp_path / "b.svs", seed=4, size_px=512, artefacts=("bubble",))


def test_bare_glass_has_no_tissue(tmp_path: Path) -> None:
    truth = plant_slide(tmp_path / "a.svs", seed=4, size_px=512, tissue_fraction=0.0, artefacts=())
    assert truth.tissue_fraction == truth.lesion_fraction == 0
    assert level0(tmp_path / "a.svs").min() > 150


def test_a_site_of_ones_own(tmp_path: Path) -> None:
    green = Site("green", (0.8, 0.2, 0.8), (0.5, 0.1, 0.5), (1, 1), (240, 240, 240), 1.0, 0.6, 0.8, 1.0, 80)
    plant_slide(tmp_path / "a.svs", seed=4, size_px=512, site=green, artefacts=())
    mean = level0(tmp_path / "a.svs").reshape(-1, 3).mean(0)
    assert mean.argmax() == 1
    assert site(7) == site(7) != site(8)
