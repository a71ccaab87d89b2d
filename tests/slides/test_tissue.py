"""Tissue is found in every stain, and glass, pens, dust, edges and padding are not tissue."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

import wsikit as wk
from wsikit.errors import ConfigError
from wsikit.slides.glass import find_glass, find_padding
from wsikit.slides.ink import find_ink, fine_structure
from wsikit.slides.regions import opened, reaching, without_holes, without_specks
from wsikit.slides.tissue_mask import SEGMENTERS, recorded_parameters

MPP = 8.0
STAINS = {  # RGB of the stained section, RGB of the glass
    "H&E": ((190, 110, 165), (243, 243, 243)),
    "eosin only": ((222, 160, 190), (243, 243, 243)),
    "pale IHC": ((190, 192, 208), (242, 242, 242)),
    "DAB": ((150, 115, 90), (242, 242, 242)),
    "Giemsa": ((45, 60, 165), (240, 240, 241)),
    "crystal violet": ((178, 172, 222), (219, 219, 236)),
    "yellowed": ((168, 90, 110), (226, 214, 190)),
    "grey lamp": ((150, 85, 130), (190, 190, 192)),
}
PENS = {
    "blue": (35, 55, 150), "navy": (40, 38, 85), "sky": (120, 165, 205), "green": (40, 130, 75),
    "dark green": (30, 75, 60), "black": (25, 25, 30), "red": (200, 35, 50),
}  # fmt: skip
COLOUR_AND_STRUCTURE = ["saturation", "entropy"]


def section(stain="H&E", *, size=(500, 700), seed=0):
    """An ellipse of 1.6 x 1.2 mm radius with cells in it, on glass with a scanner's noise: RGB, truth."""
    rng = np.random.default_rng(seed)
    tissue, glass = (np.array(c, float) for c in STAINS[stain])
    y, x = np.mgrid[: size[0], : size[1]]
    truth = ((x - size[1] / 2) / 200) ** 2 + ((y - size[0] / 2) / 150) ** 2 < 1
    amount = np.zeros(size)
    amount[truth] = np.clip(rng.normal(1, 0.45, int(truth.sum())), 0.1, None)
    rgb = glass * (tissue / glass) ** cv2.GaussianBlur(amount, (0, 0), 0.6)[..., None]
    return noisy(rgb, rng), truth


def noisy(rgb, rng, deviation=1.0):
    return np.clip(rgb + rng.normal(0, deviation, rgb.shape), 0, 255).astype(np.uint8)


def draw(rgb, points, colour, *, width_px, soft_px=4.0, seed=0):
    """A stroke of a pen over a picture: uneven, with soft edges; and where it is."""
    rng = np.random.default_rng(seed)
    amount = np.zeros(rgb.shape[:2], np.float32)
    cv2.polylines(amount, [np.array(points, np.int32)], False, 1.0, width_px, cv2.LINE_AA)
    amount = cv2.GaussianBlur(amount, (0, 0), soft_px)
    streaks = cv2.GaussianBlur(rng.normal(size=amount.shape).astype(np.float32), (0, 0), 15)
    where = amount > 0.05
    amount *= np.clip(1 + 0.2 * streaks / streaks.std(), 0.3, 1.6)
    return noisy(rgb * (np.array(colour) / 245) ** amount[..., None], rng), where


def iou(found, truth):
    return (found & truth).sum() / max((found | truth).sum(), 1)


def segment(method, rgb, mpp=MPP, **options):
    return SEGMENTERS[method].build(**options).segment(rgb, mpp)


@pytest.mark.parametrize("method", COLOUR_AND_STRUCTURE)
@pytest.mark.parametrize("stain", STAINS)
def test_a_section_is_found_in_every_stain(method, stain):
    rgb, truth = section(stain)
    found = segment(method, rgb)
    assert iou(found, truth) > 0.94
    assert not found[:60].any()


def test_structure_without_colour_is_found_by_entropy():
    """A silver stain is black and white: the method of structure is the one for it."""
    rgb, truth = section("H&E")
    silver = np.repeat(rgb[..., 1:2], 3, axis=2)
    assert iou(segment("entropy", silver), truth) > 0.94


@pytest.mark.parametrize("method", COLOUR_AND_STRUCTURE)
@pytest.mark.parametrize("glass", [(255, 255, 255), (244, 243, 244), (226, 214, 190), (190, 190, 192), (219, 219, 236)])
@pytest.mark.parametrize("deviation", [0.0, 1.0, 3.0])
def test_bare_glass_has_no_tissue(method, glass, deviation):
    rng = np.random.default_rng(1)
    flat = noisy(np.full((400, 600, 3), glass, float), rng, deviation)
    y, x = np.mgrid[-1:1:400j, -1:1:600j]
    vignette = noisy(flat * (1 - 0.12 * (x**2 + y**2)[..., None] * (0.7, 0.9, 1.0)), rng, 0.0)
    assert not segment(method, flat).any()
    assert not segment(method, vignette).any()


@pytest.mark.parametrize("method", COLOUR_AND_STRUCTURE)
@pytest.mark.parametrize("stain", STAINS)
def test_a_picture_full_of_tissue_is_tissue(method, stain):
    """Otsu's threshold would cut it into two."""
    rgb, _ = section(stain)
    assert segment(method, np.ascontiguousarray(rgb[200:300, 280:420])).mean() > 0.97


@pytest.mark.parametrize("method", COLOUR_AND_STRUCTURE)
@pytest.mark.parametrize("pen", PENS)
@pytest.mark.parametrize("stain", ["H&E", "pale IHC", "Giemsa"])
def test_pens_are_left_out(method, pen, stain):
    rgb, truth = section(stain)
    rgb, ink = draw(rgb, [(30, 60), (300, 40), (660, 70)], PENS[pen], width_px=70)
    found = segment(method, rgb)
    assert not (found & ink & ~truth).any()
    assert iou(found, truth) > 0.9


@pytest.mark.parametrize("method", COLOUR_AND_STRUCTURE)
def test_dust_fibres_and_the_edge_of_the_cover_glass_are_left_out(method):
    rng = np.random.default_rng(2)
    rgb, truth = section()
    dark = np.zeros(truth.shape, np.float32)
    for x, y, a, b in zip(*(rng.integers(0, n, 120) for n in (700, 500, 5, 3)), strict=True):
        cv2.ellipse(dark, (int(x), int(y)), (int(a) + 1, int(b) + 1), float(a * 40), 0, 360, 1.5, -1, cv2.LINE_AA)
    cv2.line(dark, (610, 0), (625, 499), 1.2, 4, cv2.LINE_AA)
    cv2.polylines(dark, [np.array([(40, 400), (90, 420), (140, 400), (200, 440)])], False, 1.0, 3, cv2.LINE_AA)
    found = segment(method, noisy(rgb * np.exp(-dark[..., None] * (1.0, 0.95, 1.05)), rng))
    assert (found & ~truth).mean() < 0.02
    assert (truth & ~found).mean() < 0.01


@pytest.mark.parametrize("method", COLOUR_AND_STRUCTURE)
@pytest.mark.parametrize("value", [0, 255])
def test_what_was_not_scanned_is_not_tissue(method, value):
    rgb, truth = section("crystal violet")
    rgb[:, :260] = value
    rgb[:100] = value
    truth[:, :260] = truth[:100] = False
    assert find_padding(rgb, MPP)[:, :250].all()
    assert iou(segment(method, rgb), truth) > 0.93


@pytest.mark.parametrize("method", COLOUR_AND_STRUCTURE)
@pytest.mark.parametrize("coarser", [2, 3])
def test_a_coarse_overview_gives_the_same_tissue(method, coarser):
    rgb, truth = section("H&E", size=(504, 696))
    size = (696 // coarser, 504 // coarser)
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    there = cv2.resize(truth.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    assert iou(segment(method, small, MPP * coarser), there) > 0.9


@pytest.mark.parametrize("method", COLOUR_AND_STRUCTURE)
def test_fat_is_tissue_up_to_large_cells(method):
    """Adipose is glass-clear but for its septa, a tenth of a millimetre apart."""
    rng = np.random.default_rng(3)
    amount = np.zeros((400, 600), np.float32)
    for x in range(100, 500, 12):
        for y in range(80, 320, 12):
            cv2.circle(amount, (x + y % 5, y), int(rng.integers(4, 8)), float(rng.uniform(0.3, 1)), 1, cv2.LINE_AA)
    rgb = noisy(243 * (np.array([205, 130, 175]) / 243) ** amount[..., None], rng)
    assert segment(method, rgb)[90:310, 110:480].mean() > 0.95


@pytest.mark.parametrize("method", COLOUR_AND_STRUCTURE)
@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (17, 400)])
@pytest.mark.parametrize("value", [0, 20, 200, 255])
def test_tiny_and_empty_pictures_do_not_break_it(method, shape, value):
    assert not segment(method, np.full((*shape, 3), value, np.uint8), 30.0).any()


@pytest.mark.parametrize("method", COLOUR_AND_STRUCTURE)
def test_the_picture_is_not_changed(method):
    rgb, _ = section()
    before = rgb.copy()
    segment(method, rgb)
    np.testing.assert_array_equal(rgb, before)


def test_glass_is_followed_across_a_gradient_and_not_into_tissue():
    rgb, truth = section("pale IHC")
    fall_off = np.linspace(1, 0.78, 700)[None, :, None] ** np.array([1.0, 0.8, 0.6])
    glass = find_glass(noisy(rgb * fall_off, np.random.default_rng(0), 0.0), MPP)
    assert glass.found
    expected = np.log(242 * np.broadcast_to(fall_off, (500, 700, 3)) + 1)
    for channel in range(3):
        off = np.abs(glass.log_level(channel) - expected[..., channel])
        assert off[~truth].max() < 0.04
        assert off.max() < 0.06


def test_no_glass_is_invented_where_there_is_none():
    rgb, _ = section()
    glass = find_glass(np.ascontiguousarray(rgb[200:300, 280:420]), MPP)
    assert not glass.found
    assert glass.noise == 0


def test_a_stain_is_not_ink_even_if_its_hue_is():
    rgb, _ = section("Giemsa")
    assert not find_ink(rgb, find_glass(rgb, MPP), fine_structure(rgb, MPP), MPP).any()


def test_areas_and_radii_are_in_micrometres():
    mask = np.zeros((100, 100), bool)
    mask[10:20, 10:20] = True  # 0.0064 mm2 at 8 um
    mask[40:90, 40:90] = True
    mask[60:64, 60:64] = False  # 0.001 mm2
    mask[80:, 55:60] = False  # open to the edge: no hole
    assert without_specks(mask, 0.0065, 8.0)[10:20, 10:20].sum() == 0
    assert without_specks(mask, 0.0064, 8.0)[10:20, 10:20].all()
    assert without_holes(mask, 0.0011, 8.0)[60:64, 60:64].all()
    assert not without_holes(mask, 0.0009, 8.0)[60:64, 60:64].any()
    assert not without_holes(mask, 1.0, 8.0)[95, 57]
    assert not opened(mask, 48.0, 8.0)[10:20, 10:20].any()
    assert reaching(mask, mask & (np.arange(100) < 30))[:, 40:].sum() == 0


def test_what_a_store_records_is_the_options_and_the_resolution():
    assert recorded_parameters("saturation", {"smallest_mm2": 0.05}) == {
        "faintest": None, "smallest_mm2": 0.05, "largest_hole_mm2": 0.1, "remove_ink": True, "mpp": 8.0,
    }  # fmt: skip
    with pytest.raises(ConfigError, match="has no option 'smallest'; did you mean 'smallest_mm2'"):
        recorded_parameters("entropy", {"smallest": 1})


REAL = {  # slide: um per px where the file has none, least and most tissue; outlines were checked by eye
    "CMU-1-Small-Region.svs": (None, 0.39, 0.47),
    "TCGA-CR-7395-01A-01-TS1.svs": (0.5, 0.64, 0.70),
    "amyloid_crystalviolet_L13.svs": (None, 0.34, 0.40),
    "helicobacterpylori_HE_L13.svs": (None, 0.285, 0.305),
    "helicobacterpylori_IHC_L13.svs": (None, 0.33, 0.38),
    "helicobacterpylori_giemsa_L13.svs": (None, 0.39, 0.415),
    "hyperplasticpolyp_case1_L14.svs": (2.016, 0.22, 0.245),
    "ischemic-colitis_HE_L14.svs": (None, 0.165, 0.19),
    "kidney-48-5.tif": (4.0, 0.0035, 0.0048),
    "tubularadenoma-flat_HE_L15.svs": (None, 0.175, 0.195),
}


@pytest.mark.parametrize("method", COLOUR_AND_STRUCTURE)
@pytest.mark.parametrize("name", REAL)
def test_real_slides_have_the_tissue_that_was_seen(slides_dir, name, method):
    mpp, least, most = REAL[name]
    with wk.open_slide(slides_dir / name, mpp=mpp) as slide:
        tissue = wk.segment_tissue(slide, method=method)
    assert least <= tissue.fraction <= most
    assert tissue.method == method
    assert tissue.parameters["mpp"] == 8.0


def test_both_methods_agree_on_a_real_slide(slides_dir):
    with wk.open_slide(slides_dir / "helicobacterpylori_HE_L13.svs") as slide:
        colour, structure = (wk.segment_tissue(slide, method=m).mask for m in COLOUR_AND_STRUCTURE)
    assert iou(colour, structure) > 0.97


@pytest.mark.slow
@pytest.mark.parametrize("method", COLOUR_AND_STRUCTURE)
def test_pens_over_a_real_slide_are_left_out(slides_dir, method):
    with wk.open_slide(slides_dir / "ischemic-colitis_HE_L14.svs") as slide:
        rgb = slide.thumbnail(2139)
    before = segment(method, rgb)
    inks = np.zeros(before.shape, bool)
    for k, colour in enumerate(PENS.values()):
        x = 1100 + 140 * k if k < 3 else 60 + 100 * (k - 3)
        rgb, ink = draw(
            rgb, [(x, 900 if k < 3 else 600), (x + 60, 1100 if k < 3 else 900)], colour, width_px=60, seed=k
        )
        inks |= ink
    ink_only = inks & ~before
    assert ink_only.sum() > 40_000
    found = segment(method, rgb)
    assert (found & ink_only).sum() < 0.01 * ink_only.sum()
    assert iou(found & ~inks, before & ~inks) > 0.97
