"""The guess at a stain: right on real slides whose stain is known, and silent where there is no colour."""

from __future__ import annotations

import numpy as np
import pytest

import wsikit as wk
from wsikit.slides.stain_guess import guess_stain
from wsikit.testing import plant_slide

KNOWN = {
    "CMU-1-Small-Region.svs": ("H&E",),
    "TCGA-CR-7395-01A-01-TS1.svs": ("H&E",),
    "helicobacterpylori_HE_L13.svs": ("H&E",),
    "hyperplasticpolyp_case1_L14.svs": ("H&E",),
    "ischemic-colitis_HE_L14.svs": ("H&E",),
    "tubularadenoma-flat_HE_L15.svs": ("H&E",),
    "helicobacterpylori_IHC_L13.svs": ("IHC", "IHC?"),
    "helicobacterpylori_giemsa_L13.svs": ("other?",),
    "amyloid_crystalviolet_L13.svs": ("other?",),
}


def guess(path, **options):
    with wk.open_slide(path, **options) as slide:
        tissue = wk.segment_tissue(slide)
        import cv2

        rgb = slide.thumbnail(1024)
        mask = cv2.resize(tissue.mask.astype(np.uint8), rgb.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    return guess_stain(rgb, mask.astype(bool))


@pytest.mark.parametrize("name", KNOWN)
def test_real_slides(slides_dir, name):
    options = {"mpp": 2.0} if name.startswith(("TCGA", "hyper")) else {}
    assert str(guess(slides_dir / name, **options)) in KNOWN[name]


@pytest.mark.parametrize("site", range(4))
def test_planted_slides_of_every_laboratory_are_h_and_e(tmp_path, site):
    plant_slide(tmp_path / "a.svs", seed=site, size_px=1024, site=site, artefacts=())
    assert guess(tmp_path / "a.svs").kind == "H&E"


def test_grey_tissue_and_no_tissue_are_unknown():
    grey = np.full((32, 32, 3), 150, np.uint8)
    assert str(guess_stain(grey, np.ones((32, 32), bool))) == "unknown"
    assert str(guess_stain(grey, np.zeros((32, 32), bool))) == "unknown"


def test_glass_has_no_say():
    """Blue glass around pink tissue, as a scanner with a bad white balance makes it."""
    rgb = np.full((32, 32, 3), (180, 200, 240), np.uint8)
    tissue = np.zeros((32, 32), bool)
    tissue[8:24, 8:24] = True
    rgb[tissue] = (210, 120, 180)
    assert str(guess_stain(rgb, tissue)) == "H&E"
    assert guess_stain(rgb, np.ones((32, 32), bool)).kind == "other"
