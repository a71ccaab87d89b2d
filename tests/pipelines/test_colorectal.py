"""Slides composed of colorectal patches: no patch twice, the label is the rare class, stain moves and white stays."""

from __future__ import annotations

import csv
import importlib.util
import io
import sys
import tarfile
from pathlib import Path

import imagecodecs
import numpy as np
import pytest

import wsikit as wk
from wsikit.errors import ConfigError
from wsikit.slides.geojson import read_geojson
from wsikit.slides.tiling import read_tile

SCRIPT = Path(__file__).resolve().parents[2] / "pipelines" / "colorectal" / "prepare.py"


@pytest.fixture(scope="module")
def colorectal():
    """The script as a module: a pipeline is no package."""
    spec = importlib.util.spec_from_file_location("colorectal_prepare", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their annotations up there
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def patches(colorectal):
    """By their names only."""
    counts = {"AC": 12, "H": 10, "S": 10, "T": 10, "V": 10}
    nothing = np.zeros((0, 224, 3), np.uint8)
    return [colorectal.Patch(f"{kind}{i}", kind, nothing) for kind, n in counts.items() for i in range(n)]


GIVEN = {"slides": 8, "tiles": 5, "share": 0.4, "jitter": 0.3, "rare": "AC", "seed": 0}


def test_no_patch_on_two_slides_and_the_label_is_the_rare_class(colorectal, patches):
    composed = colorectal.compose(patches, **GIVEN)
    names = [patch.name for slide in composed for patch in slide.patches]
    assert len(names) == len(set(names)) == 40
    assert [slide.label for slide in composed].count(1) == 4
    for slide in composed:
        assert sum(patch.kind == "AC" for patch in slide.patches) == 2 * slide.label
        assert all(0.7 <= factor <= 1.3 for factor in slide.stain)
    assert len({slide.stain for slide in composed}) == 8
    assert {s.patches.index(p) for s in composed for p in s.patches if p.kind == "AC"} != {
        0,
        1,
    }  # anywhere on the slide


def test_the_seed_decides_and_jitter_changes_the_stain_only(colorectal, patches):
    first = colorectal.compose(patches, **GIVEN)
    assert colorectal.compose(patches, **GIVEN) == first
    assert colorectal.compose(patches, **GIVEN | {"seed": 1}) != first
    plain = colorectal.compose(patches, **GIVEN | {"jitter": 0})
    assert [s.patches for s in plain] == [s.patches for s in first]
    assert {s.stain for s in plain} == {(1.0, 1.0)}


def test_too_many_patches_asked_for(colorectal, patches):
    with pytest.raises(ConfigError, match="12 of AC and 48 others, but there are 12 and 40; take fewer"):
        colorectal.compose(patches, **GIVEN | {"slides": 12})


@pytest.mark.parametrize("wrong", [{"slides": 7}, {"tiles": 1}, {"share": 0}, {"jitter": 1}, {"rare": "X"}])
def test_numbers_out_of_range(colorectal, patches, wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ConfigError, match=f"{name}={value!r}"):
        colorectal.compose(patches, **GIVEN | wrong)


def test_stain_factors_are_those_of_the_density(colorectal):
    haematoxylin = np.rint(255 * 10 ** -(0.5 * colorectal.STAINS[:1])).astype(np.uint8)
    eosin = np.rint(255 * 10 ** -(0.5 * colorectal.STAINS[1:2])).astype(np.uint8)
    white = np.full((1, 3), 255, np.uint8)
    given = np.stack([haematoxylin, eosin, white], 1)  # (1, 3, 3): three pixels
    found = colorectal.restain(given, (1.2, 0.8))
    expected = 255 * 10 ** -(0.5 * np.array([1.2, 0.8, 0.0])[:, None] * colorectal.STAINS)
    assert np.abs(found[0] - expected).max() <= 1.5  # the given pixels were whole numbers already
    assert (found[0, 2] == 255).all()
    assert np.abs(colorectal.restain(given, (1.0, 1.0)).astype(int) - given).max() <= 1


@pytest.mark.parametrize(("name", "shape", "match"), [
    ("a/X/p.jpg", (224, 224, 3), "'a/X/p.jpg'; expected CLASS/NAME.jpg"),
    ("a/H/p.jpg", (224, 200, 3), r"shape \(224, 200, 3\); expected 224 px"),
])  # fmt: skip
def test_archives_of_something_else(colorectal, tmp_path, name, shape, match):
    with tarfile.open(tmp_path / "a.tar", "w") as files:
        data = imagecodecs.jpeg_encode(np.zeros(shape, np.uint8))
        entry = tarfile.TarInfo(name)
        entry.size = len(data)
        files.addfile(entry, io.BytesIO(data))
    with pytest.raises(ConfigError, match=match):
        colorectal.read_patches(tmp_path / "a.tar")


def test_real_patches_come_back_from_the_slides(colorectal, test_data, tmp_path):
    """wsikit reads from every slide the real patches that the table names, stained as the cohort says."""
    archive = test_data / "patches" / "colorectal5.tar"
    summary = colorectal.prepare(archive, tmp_path, slides=4, tiles=5, share=0.2, jitter=0.3, seed=1)
    by_name = {patch.name: patch for patch in colorectal.read_patches(archive)}
    assert len(by_name) == 999
    assert summary["placed"]["AC"] == 2
    with (tmp_path / "tile_truth.csv").open(newline="") as file:
        truth = list(csv.DictReader(file))
    with (tmp_path / "cohort.csv").open(newline="") as file:
        cohort = {row["slide_id"]: row for row in csv.DictReader(file)}
    entries = wk.collect_slides([], manifest=tmp_path / "manifest.csv")
    assert [entry.slide_id for entry in entries] == list(cohort)
    for entry in entries:
        mine = [row for row in truth if row["slide_id"] == entry.slide_id]
        assert int(cohort[entry.slide_id]["label"]) == sum(row["class"] == "AC" for row in mine)
        stain = tuple(float(cohort[entry.slide_id][name]) for name in ("haematoxylin", "eosin"))
        with wk.open_slide(entry.path) as slide:
            tiles = wk.tile_slide(slide, read_geojson(entry.tissue, slide), colorectal.SPEC)
            assert tiles.coords.tolist() == [[int(row["x"]), int(row["y"])] for row in mine]
            for row, (x, y) in zip(mine, tiles.coords.tolist(), strict=True):
                patch = by_name[row["patch"]]
                assert patch.kind == row["class"]
                expected = colorectal.restain(patch.rgb, stain).astype(int)  # the table keeps four decimals
                assert np.abs(read_tile(slide, tiles.choice, 224, (x, y)) - expected).max() <= 1
