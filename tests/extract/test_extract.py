"""The main job on a real Dask cluster of processes: the store, the account, resume, refusals."""

from __future__ import annotations

import csv
import shutil

import cv2
import numpy as np
import pytest
import tifffile
import zarr

import wsikit as wk
from wsikit.errors import ChangedError, ConfigError
from wsikit.extract.inputs import collect_slides
from wsikit.extract.reextract import re_extract
from wsikit.extract.settings import EncoderSettings
from wsikit.extract.status import store_status
from wsikit.slides.tiling import TilingSpec
from wsikit.store.format import Layout
from wsikit.store.verify import verify_store

SPEC = TilingSpec(tile_px=32, target_mpp=0.5)
OPTIONS = {"spec": SPEC, "tissue": "whole", "encoder": "colour"}


@pytest.fixture(scope="module")
def done(tmp_path_factory, cohort):
    """The cohort extracted by two workers."""
    folder = tmp_path_factory.mktemp("done")
    return wk.extract_features(cohort, out=folder / "a.zarr", workers=2, **OPTIONS)


def test_every_slide_has_a_row_and_a_picture(done, cohort):
    assert done.ok
    assert [(o.slide_id, o.state) for o in done.outcomes] == [
        ("fine", "done"), ("large", "done"), ("middle", "done"), ("small", "done"),
    ]  # fmt: skip
    tiles = {o.slide_id: o.tiles for o in done.outcomes}
    assert tiles == {"large": 66 * 66, "small": 16 * 16, "middle": 32 * 32, "fine": 16 * 16}
    with (done.report / "slides.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert [(r["slide_id"], int(r["tiles"])) for r in rows] == sorted(tiles.items())
    assert (done.report / "failures.csv").read_text().count("\n") == 1  # the header alone
    page = (done.report / "index.html").read_text()
    for name in tiles:
        picture = cv2.imread(str(done.report / "overlays" / f"{name}.jpg"))
        assert picture is not None
        assert max(picture.shape) >= 400
        assert f"overlays/{name}.jpg" in page


def test_features_are_the_encoders_of_the_tiles_at_their_coords(done, cohort):
    """Read and encoded here, one tile at a time, by OpenSlide itself."""
    import openslide

    store = wk.open_store(done.store)
    encoder = wk.create_encoder("colour")
    for name, side in (("large", 32), ("fine", 63)):
        bag = store.bag(name, encoder="colour")
        rows = np.linspace(0, len(bag) - 1, 9).astype(int)
        slide = openslide.OpenSlide(cohort / f"{name}.svs")
        for row in rows:
            tile = np.asarray(slide.read_region(tuple(bag.coords[row].tolist()), 0, (side, side)))[..., :3]
            if side != 32:
                tile = cv2.resize(tile, (32, 32), interpolation=cv2.INTER_AREA)
            expected = encoder.encode(np.ascontiguousarray(tile)[None])[0].astype(np.float16)
            np.testing.assert_array_equal(bag.x[row], expected)
        slide.close()


def test_the_store_says_how_it_was_made(done):
    store = wk.open_store(done.store)
    facts = store.slide("fine")
    assert facts["mpp"] == [0.2527, 0.2527]
    assert facts["reader"] == "direct_tiff"
    assert facts["resampler"] == "area"
    assert facts["achieved_mpp"] == pytest.approx([63 * 0.2527 / 32] * 2)
    assert facts["counts"]["edge"] == 17 * 17 - 16 * 16
    made = store.encoder("fine", "colour")
    assert made["card"]["name"] == "colour"
    assert made["run"] == {"batch_size": 64, "threads": 1}
    assert made["made_with"]["wsikit"] == wk.__version__
    assert store.configuration["tiling"] == {"tile_px": 32, "target_mpp": 0.5, "stride_px": 32, "min_tissue": 0.25}
    np.testing.assert_allclose(store.quality("fine")["tissue_fraction"], 1.0)
    assert verify_store(store) == []
    status = store_status(store)
    assert status.count("done") == 4
    assert status.running == ""


def test_measures_of_the_pixels_are_kept_and_filter_when_reading(done, cohort):
    import openslide

    from wsikit.slides.quality import QUALITY_NAMES, tile_quality

    store = wk.open_store(done.store)
    found = store.quality("large")
    assert list(found) == ["tissue_fraction", *QUALITY_NAMES]
    slide = openslide.OpenSlide(cohort / "large.svs")
    for row in (0, 4095, 4096, 4355):
        x, y = store.coords("large")[row].tolist()
        tile = np.asarray(slide.read_region((x, y), 0, (32, 32)))[None, ..., :3]
        np.testing.assert_array_equal([found[name][row] for name in QUALITY_NAMES], tile_quality(tile)[0])
    slide.close()
    middle = float(np.median(found["brightness"]))
    bag = store.bag("large", encoder="colour", where={"brightness": (middle, None)})
    assert bag.rows.tolist() == np.flatnonzero(found["brightness"] >= np.float32(middle)).tolist()


def test_quality_can_be_left_out_and_what_was_begun_with_it_ends_with_it(cohort, tmp_path):
    without = wk.extract_features(cohort / "middle.svs", out=tmp_path / "a.zarr", quality=False, workers=1, **OPTIONS)
    store = wk.open_store(without.store)
    assert list(store.quality("middle")) == ["tissue_fraction"]
    assert verify_store(store) == []
    begun = wk.extract_features(cohort / "large.svs", out=tmp_path / "b.zarr", workers=1, **OPTIONS)
    layout = Layout(begun.store)
    before = wk.open_store(begun.store).quality("large")["focus"]
    layout.shard_record("large", begun.keys[0], 1).unlink()
    wk.extract_features(cohort / "large.svs", out=begun.store, quality=False, workers=1, **OPTIONS)
    np.testing.assert_array_equal(wk.open_store(begun.store).quality("large")["focus"], before)
    assert layout.shard_record("large", begun.keys[0], 1).exists()


def test_one_worker_writes_the_same_bytes(done, cohort, tmp_path, tree_of):
    one = wk.extract_features(cohort, out=tmp_path / "one.zarr", workers=1, **OPTIONS)
    assert tree_of(one.store) == tree_of(done.store)


def test_a_second_run_does_nothing(done, cohort, tree_of):
    stamps = {p: p.stat().st_mtime_ns for p in done.store.rglob("c.*")}
    again = wk.extract_features(cohort, out=done.store, workers=1, **OPTIONS)
    assert again.ok
    assert [o.tiles for o in again.outcomes] == [o.tiles for o in done.outcomes]
    assert {p: p.stat().st_mtime_ns for p in done.store.rglob("c.*")} == stamps


def test_several_encoders_in_one_pass_give_what_each_gives_alone(done, cohort, tmp_path, tree_of):
    both = {**OPTIONS, "encoder": ["colour", "texture"]}
    together = wk.extract_features(cohort, out=tmp_path / "both.zarr", workers=1, **both)
    assert together.ok
    assert [key.rsplit("-", 1)[0] for key in together.keys] == ["colour", "texture"]
    then = tmp_path / "then.zarr"
    shutil.copytree(done.store, then)
    colour = {p: p.stat().st_mtime_ns for p in then.rglob("features/colour*/**/c.*")}
    added = wk.extract_features(cohort, out=then, workers=2, **both)  # the first encoder's shards are done
    assert added.ok
    assert {p: p.stat().st_mtime_ns for p in colour} == colour
    assert tree_of(then) == tree_of(together.store)
    for wrong, words in (
        ([], "no encoder is named"),
        (["colour", "colour"], "named twice: colour, colour"),
        (["colour", EncoderSettings("texture", batch_size=32)], "encoders of one run have batch_size"),
    ):
        with pytest.raises(ConfigError, match=words):
            wk.extract_features(cohort, out=tmp_path / "no.zarr", **{**OPTIONS, "encoder": wrong})


def test_new_slides_append_and_a_second_encoder_joins(done, cohort, tmp_path):
    store = tmp_path / "b.zarr"
    shutil.copytree(done.store, store)
    more = tmp_path / "more.svs"
    shutil.copy(cohort / "small.svs", more)
    before = {p: p.read_bytes() for p in store.rglob("c.*")}
    report = wk.extract_features([cohort, more], out=store, workers=1, **OPTIONS)
    assert report.ok
    assert len(report.outcomes) == 5
    random = EncoderSettings("timm:resnet10t", weights="random")
    report = wk.extract_features([cohort / "small.svs"], out=store, workers=1, **{**OPTIONS, "encoder": random})
    assert report.ok
    opened = wk.open_store(store)
    assert len(opened.keys("small")) == 2
    np.testing.assert_array_equal(
        opened.bag("small", encoder="timm:resnet10t").coords, opened.bag("small", encoder="colour").coords
    )
    assert all(p.read_bytes() == content for p, content in before.items())
    assert verify_store(opened) == []


def test_other_settings_and_other_files_are_refused_with_both_values(done, cohort, tmp_path):
    with pytest.raises(ChangedError, match=r"tiling\.tile_px: stored 32, asked for 64"):
        wk.extract_features(
            cohort, out=done.store, workers=1, **{**OPTIONS, "spec": TilingSpec(tile_px=64, target_mpp=0.5)}
        )
    store = tmp_path / "b.zarr"
    shutil.copytree(done.store, store)
    shutil.copy(cohort / "middle.svs", tmp_path / "small.svs")  # another file under the same id
    manifest = tmp_path / "m.csv"
    manifest.write_text(f"path,mpp\n{cohort / 'large.svs'},0.4\n")
    report = wk.extract_features([tmp_path / "small.svs"], manifest=manifest, out=store, workers=1, **OPTIONS)
    reasons = {o.slide_id: (o.state, o.reason) for o in report.outcomes}
    assert reasons["small"][0] == "changed"
    assert "the file is not the one that the store was begun with (fingerprint" in reasons["small"][1]
    assert reasons["large"][0] == "changed"
    assert "mpp [0.4, 0.4] is given, the store has [0.5, 0.5]" in reasons["large"][1]
    assert verify_store(wk.open_store(store)) == []  # and nothing was touched


def test_tissue_drawn_in_qupath_takes_the_segmenters_place(cohort, tmp_path):
    """One slide's tissue comes from a file; a changed file is refused, and the mask is written out again."""
    import json

    box = [[64, 64], [320, 64], [320, 192], [64, 192], [64, 64]]
    drawn = tmp_path / "small.geojson"
    drawn.write_text(json.dumps({"type": "Polygon", "coordinates": [box]}))
    manifest = tmp_path / "m.csv"
    manifest.write_text(f"path,tissue\n{cohort / 'small.svs'},small.geojson\n")
    options = {**OPTIONS, "manifest": manifest, "out": tmp_path / "a.zarr", "workers": 1}
    assert wk.extract_features([], **options).ok
    store = wk.open_store(tmp_path / "a.zarr")
    assert store.slide("small")["tissue"]["method"] == "geojson"
    coords = store.bag("small", encoder="colour").coords
    assert len(coords) == 8 * 4
    assert (coords.min(axis=0).tolist(), coords.max(axis=0).tolist()) == ([64, 64], [288, 160])
    exported = json.loads((tmp_path / "a.report" / "tissue" / "small.geojson").read_text())
    corners = np.array(exported["features"][0]["geometry"]["coordinates"][0])
    assert np.abs(corners.max(axis=0) - [320, 192]).max() < 8
    drawn.write_text(json.dumps({"type": "Polygon", "coordinates": [(np.array(box) + 32).tolist()]}))
    (outcome,) = wk.extract_features([], **options).outcomes
    assert outcome.state == "changed"
    assert "the tissue was given as a GeoJSON file" in outcome.reason


def test_bad_slides_are_named_and_the_rest_is_done(cohort, tmp_path):
    bad = tmp_path / "slides"
    bad.mkdir()
    shutil.copy(cohort / "small.svs", bad / "good.svs")
    (bad / "noise.svs").write_bytes(np.random.default_rng(0).bytes(4000))
    whole = (cohort / "middle.svs").read_bytes()
    (bad / "short.svs").write_bytes(whole[: len(whole) // 2])
    (bad / "empty.svs").touch()
    blank = np.full((600, 600, 3), 244, np.uint8)
    from wsikit.testing.svs import write_svs

    write_svs(bad / "nompp.svs", blank, include_mpp=False)
    write_svs(bad / "coarse.svs", blank, mpp=2.0)
    write_svs(bad / "glass.svs", blank)
    torn = bytearray((cohort / "small.svs").read_bytes())
    with tifffile.TiffFile(cohort / "small.svs") as tif:
        page = tif.pages[0]
        for index in (0, 4):  # the JPEG tiles at (0, 0) and (256, 256)
            offset, count = page.dataoffsets[index], page.databytecounts[index]
            torn[offset : offset + count] = bytes(count)
    (bad / "torn.svs").write_bytes(torn)
    report = wk.extract_features(bad, out=tmp_path / "b.zarr", workers=2, **{**OPTIONS, "tissue": "saturation"})
    found = {o.slide_id: o for o in report.outcomes}
    assert {name: o.state for name, o in found.items()} == {
        "good": "done", "noise": "unreadable", "short": "truncated", "empty": "unreadable", "nompp": "no-mpp",
        "coarse": "too-coarse", "glass": "no-tissue", "torn": "damaged",
    }  # fmt: skip
    assert not report.ok
    assert "openslide: " in found["noise"].reason
    assert "mpp" in found["nompp"].reason
    assert "no tiles: tissue was found on 0.00 % of the slide by the method 'saturation'" in found["glass"].reason
    for name in found:
        assert (report.report / "overlays" / f"{name}.jpg").exists(), name
        assert str(bad) not in found[name].reason  # paths may name patients
    store = wk.open_store(tmp_path / "b.zarr")
    assert store.slide_ids == ["good", "torn"]
    # Tiles that touch a destroyed JPEG tile have no feature; all others are those of the undamaged slide.
    bag, whole_bag = store.bag("torn", encoder="colour"), store.bag("good", encoder="colour")
    status, coords = store.status("torn", encoder="colour"), store.coords("torn")
    touched = {(x, y) for x, y in coords.tolist() if (x < 256) == (y < 256) and x < 512 and y < 512}
    assert {tuple(c) for c in coords[status == 1].tolist()} == touched
    assert found["torn"].unreadable == len(touched) == 128
    assert (np.isnan(store.quality("torn")["focus"]) == (status == 1)).all()
    kept = {tuple(c): x for c, x in zip(whole_bag.coords.tolist(), whole_bag.x, strict=True)}
    for c, x in zip(bag.coords.tolist(), bag.x, strict=True):
        np.testing.assert_array_equal(kept[tuple(c)], x)
    assert verify_store(store) == []
    states = {row.slide_id: row.state for row in store_status(store).slides}
    assert states == {name: o.state for name, o in found.items()}
    # What was mended is done by the same command, and forgotten as a failure.
    shutil.copy(cohort / "middle.svs", bad / "short.svs")
    (tmp_path / "m.csv").write_text("slide,mpp\nnompp,0.5\n")
    again = wk.extract_features(
        bad, out=tmp_path / "b.zarr", manifest=tmp_path / "m.csv", workers=1, **{**OPTIONS, "tissue": "saturation"}
    )
    states = {o.slide_id: o.state for o in again.outcomes}
    assert states["short"] == "done"
    assert states["nompp"] == "no-tissue"


def test_re_extraction_agrees_and_sees_a_change(done, cohort, tmp_path):
    store = tmp_path / "b.zarr"
    shutil.copytree(done.store, store)
    entries = collect_slides([cohort])
    assert re_extract(wk.open_store(store), entries, EncoderSettings("colour"), tiles=20) == []
    values = zarr.open_array(next(store.glob("slides/small/features/*/values")), mode="r+")
    values[:] = np.roll(values[:], 1, axis=1)
    findings = re_extract(wk.open_store(store), entries, EncoderSettings("colour"), tiles=20)
    assert [(f.slide_id, f.kind) for f in findings] == [("small", "differs")]
    with pytest.raises(ConfigError, match=r"no features timm-resnet10t.*it has colour-"):
        re_extract(wk.open_store(store), entries, EncoderSettings("timm:resnet10t", weights="random"), tiles=2)


def test_encoders_that_cannot_be_built_end_the_run_before_any_work(cohort, tmp_path):
    with pytest.raises(KeyError, match=r"no encoder named 'coluor'; did you mean 'colour'"):
        wk.extract_features(cohort, out=tmp_path / "x.zarr", workers=1, **{**OPTIONS, "encoder": "coluor"})
    assert not (tmp_path / "x.zarr").exists()
    absent = EncoderSettings("timm:resnet10t", weights=str(tmp_path / "none.safetensors"))
    with pytest.raises(ConfigError, match=r"none\.safetensors"):
        wk.extract_features(cohort, out=tmp_path / "x.zarr", workers=1, **{**OPTIONS, "encoder": absent})


def test_names_and_options_are_checked_before_the_cluster_starts(cohort, tmp_path):
    with pytest.raises(KeyError, match="no tissue segmenter named 'satuation'; did you mean 'saturation'"):
        wk.extract_features(cohort, out=tmp_path / "x.zarr", tissue="satuation")
    with pytest.raises(ConfigError, match="has no option 'treshold'"):
        wk.extract_features(cohort, out=tmp_path / "x.zarr", tissue="saturation", tissue_options={"treshold": 3})
    assert not (tmp_path / "x.zarr").exists()
