"""Stain normalisation: as torchstain and SPAMS do it, bounded on glass, and it makes slides alike.

``tests/golden/stain`` has the reference numbers, the tissue pixels they are of, and the script that made them.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from wsikit.errors import UnknownNameError
from wsikit.slides.open import open_slide
from wsikit.slides.stain.reinhard import from_lab, to_lab
from wsikit.slides.stain.vahadane import SPARSITY, amounts_of, learn_stains
from wsikit.slides.stain_norm import STAIN_METHODS, density, fit_stain, normalise_stain
from wsikit.testing import plant_slide, site

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "stain"
METHODS = STAIN_METHODS.names()


@pytest.fixture(scope="module")
def reference():
    return np.load(GOLDEN / "pixels.npy"), json.loads((GOLDEN / "reference.json").read_text())


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    """Tiles (N, 256, 256, 3) of the same tissue, stained and scanned by two sites."""
    tiles = []
    stronger = dataclasses.replace(site(2), strength=(1.5, 0.6))
    for place in (site(0), stronger):
        path = tmp_path_factory.mktemp("site") / "a.svs"
        plant_slide(path, seed=5, size_px=1024, site=place, artefacts=(), tissue_fraction=0.6)
        with open_slide(path) as slide:
            spots = [(x, y) for y in range(0, 1024, 256) for x in range(0, 1024, 256)]
            tiles.append(np.stack([slide.read_region(spot, (256, 256)) for spot in spots]))
    return tiles


def test_methods_are_found():
    assert METHODS == ["macenko", "reinhard", "vahadane"]
    with pytest.raises(UnknownNameError, match="no stain normalisation named 'makenko'; did you mean 'macenko'"):
        fit_stain("makenko", np.zeros((1, 8, 8, 3), np.uint8))


def mapped(method, pixels, every):
    chosen = STAIN_METHODS[method].build()
    parameters = chosen.fit(pixels)
    return parameters, chosen.map(torch.from_numpy(pixels[::every]).float(), parameters).numpy()


def test_macenko_is_torchstains(reference):
    pixels, numbers = reference
    parameters, levels = mapped("macenko", pixels, 97)
    np.testing.assert_allclose(parameters["stains"], numbers["macenko"]["stains"], atol=2e-4)
    np.testing.assert_allclose(parameters["strength"], numbers["macenko"]["strength"], rtol=1e-3)
    expected = np.array(numbers["macenko"]["mapped"])  # cut to whole numbers, not rounded
    assert np.abs(np.floor(levels.clip(0, 255)) - expected).max() <= 1


def test_reinhard_is_torchstains(reference):
    pixels, numbers = reference
    _, levels = mapped("reinhard", pixels, 97)
    expected = np.array(numbers["reinhard"]["mapped"])
    inside = ((levels > 1) & (levels < 254)).all(axis=1)
    assert inside.sum() > 30
    assert np.abs(np.floor(levels) - expected)[inside].max() <= 2  # its matrices have fewer digits


def test_vahadane_reaches_what_spams_reaches(reference):
    """The same objective, no worse than the reference solver's, and the same stains up to its tolerance."""
    pixels, numbers = reference
    dyes = np.maximum(density(pixels), 0)

    def objective(stains):
        amounts = amounts_of(dyes, stains, SPARSITY)
        return 0.5 * ((dyes - amounts @ stains) ** 2).sum(1).mean() + SPARSITY * amounts.sum(1).mean()

    theirs = np.array(numbers["spams"]["stains"])
    ours = learn_stains(dyes)
    assert objective(ours) <= objective(theirs) * (1 + 1e-3)
    assert np.degrees(np.arccos((ours * theirs).sum(1) / np.linalg.norm(theirs, axis=1)).max()) < 3
    np.testing.assert_allclose(amounts_of(dyes[::97], theirs, 0.02), numbers["spams"]["amounts"], atol=1e-5)


def test_lab_there_and_back():
    levels = torch.cartesian_prod(*[torch.arange(0, 256, 15)] * 3).double()
    assert (from_lab(to_lab(levels)) - levels).abs().max() < 0.01
    np.testing.assert_allclose(to_lab(torch.tensor([[255.0, 255, 255], [255, 0, 0]]).double()),
                               [[100, 0, 0], [53.24, 80.09, 67.20]], atol=0.05)  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_two_sites_look_more_alike_and_glass_stays_glass(sites, method):
    before = [tiles.astype(np.float32) for tiles in sites]
    after = [normalise_stain(method, tiles, fit_stain(method, tiles)).astype(np.float32) for tiles in sites]
    tissue = np.minimum(*(tiles.min(-1) for tiles in before)) < 190
    gap = [np.abs(pair[0][tissue].mean(0) - pair[1][tissue].mean(0)).max() for pair in (before, after)]
    assert gap[1] < 0.6 * gap[0]
    for old, new in zip(before, after, strict=True):
        glass = old.min(-1) >= 229
        assert glass.any()
        np.testing.assert_array_equal(new[glass], old[glass])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["white", "black", "grey", "one colour", "two colours", "noise", "pale"])
def test_odd_tiles_give_finite_parameters_and_no_surprise(method, kind):
    rng = np.random.default_rng(0)
    tiles = np.full((2, 64, 64, 3), {"white": 255, "black": 0, "grey": 90}.get(kind, 250), np.uint8)
    if kind == "one colour":
        tiles[:] = (180, 90, 160)
    elif kind == "two colours":
        tiles[:, :32], tiles[:, 32:] = (180, 90, 160), (120, 60, 150)
    elif kind == "noise":
        tiles = rng.integers(0, 256, tiles.shape, dtype=np.uint8)
    elif kind == "pale":
        tiles = rng.integers(225, 250, tiles.shape, dtype=np.uint8)
    parameters = fit_stain(method, tiles)
    assert json.loads(json.dumps(parameters, allow_nan=False)) == parameters
    found = normalise_stain(method, tiles, parameters)
    assert found.dtype == np.uint8
    assert found.shape == tiles.shape
    if kind in ("white", "pale"):
        assert np.abs(found.astype(int) - tiles).max() <= 25
        assert np.array_equal(found, tiles) or kind == "pale"


@pytest.mark.parametrize("method", METHODS)
def test_fits_repeat_and_rows_do_not_know_each_other(sites, method):
    tiles = sites[0]
    parameters = fit_stain(method, tiles)
    assert fit_stain(method, tiles.copy()) == parameters
    whole = normalise_stain(method, tiles, parameters)
    for i in (0, 7, 15):
        np.testing.assert_array_equal(normalise_stain(method, tiles[i : i + 1], parameters)[0], whole[i])
