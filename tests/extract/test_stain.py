"""Normalised features are other features: fitted once, recorded, the same after a kill, and re-extracted alike."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

import wsikit as wk
from wsikit.errors import ConfigError, UnknownNameError
from wsikit.extract.inputs import collect_slides
from wsikit.extract.reextract import re_extract
from wsikit.extract.settings import EncoderSettings
from wsikit.slides.stain_norm import normalise_stain
from wsikit.slides.tiling import TilingSpec
from wsikit.store.verify import verify_store
from wsikit.testing import plant_slide

SETTINGS = EncoderSettings("colour", stain="macenko")
OPTIONS = {"spec": TilingSpec(tile_px=64, target_mpp=0.5), "workers": 1}


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    for site in (0, 1):
        plant_slide(folder / f"s{site}.svs", seed=site, size_px=768, site=site, artefacts=(), tissue_fraction=0.5)
    return folder


@pytest.fixture(scope="module")
def done(tmp_path_factory, slides):
    out = tmp_path_factory.mktemp("done") / "a.zarr"
    assert wk.extract_features(slides, out=out, encoder="colour", **OPTIONS).ok
    report = wk.extract_features(slides, out=out, encoder=SETTINGS, **OPTIONS)
    assert report.ok
    return out, report.keys[0]


def test_normalised_features_lie_beside_the_others_and_say_how_they_were_made(done):
    out, key = done
    store = wk.open_store(out)
    assert len(store.keys("s0")) == 2
    with pytest.raises(UnknownNameError, match="several features of encoder 'colour'"):
        store.bag("s0", encoder="colour")
    made = [store.encoder(name, key) for name in ("s0", "s1")]
    assert made[0]["identity"]["stain"] == {"method": "macenko", "version": 1}
    assert made[0]["stain"]["parameters"] != made[1]["stain"]["parameters"]
    assert verify_store(store) == []


def test_features_are_those_of_the_normalised_tiles(done, slides):
    out, key = done
    store = wk.open_store(out)
    bag, made = store.bag("s1", encoder=key), store.encoder("s1", key)
    with wk.open_slide(slides / "s1.svs") as slide:
        tiles = np.stack([slide.read_region((x, y), (64, 64)) for x, y in bag.coords[:5].tolist()])
    tiles = normalise_stain("macenko", tiles, made["stain"]["parameters"])
    np.testing.assert_array_equal(bag.x[:5], wk.create_encoder("colour").encode(tiles).astype(np.float16))
    (plain,) = (name for name in store.keys("s1") if name != key)
    for name, values in store.quality("s1", encoder=plain).items():  # measured on the tiles as scanned
        np.testing.assert_array_equal(values, store.quality("s1", encoder=key)[name])


def test_the_fit_repeats_from_nothing_and_is_kept_when_a_run_goes_on(done, slides, tmp_path, tree_of):
    out, key = done
    again = wk.extract_features(slides, out=tmp_path / "b.zarr", encoder=SETTINGS, **{**OPTIONS, "workers": 2})
    assert again.keys == (key,)
    both = tree_of(out)
    assert all(both[name] == content for name, content in tree_of(again.store).items())
    shutil.rmtree(again.store / ".wsikit" / "done" / "s0" / key)  # as if killed before its shards were recorded
    meta = again.store / "slides" / "s0" / "features" / key / "zarr.json"
    facts = json.loads(meta.read_text())
    facts["attributes"]["stain"]["parameters"]["strength"] = [1.0, 1.0]
    meta.write_text(json.dumps(facts))
    assert wk.extract_features(slides, out=again.store, encoder=SETTINGS, **OPTIONS).ok
    store = wk.open_store(again.store)
    assert store.encoder("s0", key)["stain"]["parameters"]["strength"] == [1.0, 1.0]  # what is stored is used
    assert not np.array_equal(store.values("s0", encoder=key), wk.open_store(out).values("s0", encoder=key))


def test_re_extraction_normalises_too(done, slides):
    store, entries = wk.open_store(done[0]), collect_slides([slides])
    assert re_extract(store, entries, SETTINGS, tiles=8) == []
    assert re_extract(store, entries, EncoderSettings("colour"), tiles=8) == []
    with pytest.raises(ConfigError, match=r"no features colour-.*--stain-norm"):
        re_extract(store, entries, EncoderSettings("colour", stain="reinhard"), tiles=8)


def test_an_unknown_method_ends_before_any_work():
    with pytest.raises(UnknownNameError, match="no stain normalisation named 'makenko'; did you mean 'macenko'"):
        EncoderSettings("colour", stain="makenko")
