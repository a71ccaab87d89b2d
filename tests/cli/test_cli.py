"""The commands as a user types them: exit codes, tables, and errors without tracebacks."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from wsikit.testing.svs import write_svs


def wsikit(*arguments, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "wsikit", *map(str, arguments)], capture_output=True, text=True, cwd=cwd
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two slides, good and bad, extracted."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "slides").mkdir()
    picture = np.random.default_rng(0).integers(80, 200, (600, 800, 3), dtype=np.uint8)
    write_svs(folder / "slides" / "good.svs", picture)
    (folder / "slides" / "bad.svs").write_bytes(b"not a slide")
    done = wsikit("extract", "slides", "--out", "a.zarr", "--tissue", "whole", "--workers", 1, cwd=folder)
    return folder, done


def test_extract_shows_a_table_and_fails_with_1(place):
    folder, done = place
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    out = " ".join(done.stdout.split())
    assert "good │ done │ 6 │ 0 │ 3 │" in out
    assert "bad │ unreadable │ 0" in out
    assert re.search(r"none of \d readers opens it", out)
    assert re.search(r"1 slides done, 1 not; 6 tiles have features \([\d,]+ read per second\)\.", out)
    assert (folder / "a.report" / "index.html").exists()
    assert str(folder / "a.report" / "slides.csv") in done.stdout


def test_help_has_examples():
    several = (
        "doctor",
        "extract",
        "status",
        "verify",
        "inspect",
        "merge",
        "remove",
        "models",
        "demo",
        "audit",
        "spike",
    )
    for command in several:
        done = wsikit(command, "--help")
        assert done.returncode == 0
        assert f"wsikit {command}" in done.stdout
        assert "Example" in done.stdout
    assert wsikit().stdout.count("│ ") >= 8
    assert wsikit("--version").stdout.startswith("wsikit 0.")


def test_status_inspect_verify(place):
    folder, _ = place
    status = wsikit("status", "a.zarr", "--json", cwd=folder)
    assert status.returncode == 1
    rows = {r["slide_id"]: r for r in json.loads(status.stdout)["slides"]}
    assert rows["good"]["state"] == "done"
    assert rows["bad"]["state"] == "unreadable"
    assert "1 done (6 tiles), 1 failed, 0 remaining" in wsikit("status", "a.zarr", cwd=folder).stdout
    text = wsikit("inspect", "a.zarr", "good", cwd=folder).stdout
    assert "256 px of 0.5 um = 128.0 x 128.0 um; level 0, 256 x 256 px of it, read as scanned" in text
    assert "row 0       coords (0, 0): level-0 px 0 to 256 across" in text
    assert "1 slides" in wsikit("inspect", "a.zarr", cwd=folder).stdout
    facts = json.loads(wsikit("inspect", "a.zarr", "good", "--json", cwd=folder).stdout)
    assert facts["counts"]["kept"] == 6
    row = wsikit("inspect", "a.zarr", "good", "--row", 4, cwd=folder).stdout
    assert "pixels      level 0, 256 to 512 across and 256 to 512 down" in row
    assert "place       128.0 um right of and 128.0 um below the slide's top left; 128.0 x 128.0 um" in row
    assert ": ok, length " in row
    assert json.loads(wsikit("inspect", "a.zarr", "good", "--row", 4, "--json", cwd=folder).stdout)["row"] == 4
    verified = wsikit("verify", "a.zarr", "--re-extract", 3, "--slides", "slides", cwd=folder)
    assert verified.returncode == 0, verified.stderr
    assert "1 slides verified, 0 findings" in verified.stdout


def test_verify_fails_on_damage(place, tmp_path):
    shutil.copytree(place[0] / "a.zarr", tmp_path / "a.zarr")
    path = tmp_path / "a.zarr" / "slides" / "good" / "coords" / "c.0.0"
    path.write_bytes(path.read_bytes()[::-1])
    done = wsikit("verify", "a.zarr", cwd=tmp_path)
    assert done.returncode == 1
    assert "good: damaged: slides/good/coords/c.0.0: sha256" in done.stdout
    assert "mend: 'wsikit remove'" in done.stdout


def test_merge_and_remove(place, tmp_path):
    merged = wsikit("merge", tmp_path / "m.zarr", place[0] / "a.zarr")
    assert merged.returncode == 0, merged.stderr
    assert "1 slides from 1 stores" in merged.stdout
    assert wsikit("remove", tmp_path / "m.zarr", "nope", "--yes").returncode == 2
    assert wsikit("remove", tmp_path / "m.zarr", "good", "--yes").returncode == 0
    assert "0 done (0 tiles)" in wsikit("status", tmp_path / "m.zarr").stdout


def test_models_lists_what_can_be_named():
    text = wsikit("models").stdout
    for name in ("colour", "timm:NAME", "saturation", "network", "openslide", "tiffslide", "abmil"):
        assert name in text
    assert "Ilse" in wsikit("models", "abmil", "--kind", "aggregator").stdout
    assert "timm:vit_small_patch16_224" in wsikit("models", "timm:vit_small_patch16*", "--kind", "encoder").stdout
    assert "vahadane" in wsikit("models", "--kind", "stain").stdout
    assert wsikit("models", "nothing*").returncode == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["extract", "nowhere", "--out", "x.zarr"], "no such file or folder: nowhere"),
        (["extract", "empty", "--out", "x.zarr"], "folder empty holds no slides: 0 files"),
        (["extract", "slides", "--out", "x.zarr", "--encoder", "coluor"], "did you mean 'colour'?"),
        (["extract", "slides", "--out", "x.zarr", "--tissue", "otsu"], "no tissue segmenter named 'otsu'"),
        (["extract", "slides", "--out", "x.zarr", "--tile-px", "2"], "TilingSpec: tile_px=2; expected 8 to 8192 px"),
        (["extract", "slides", "--out", "x.zarr", "--workers", "0"], "workers=0; at least 1"),
        (["extract", "slides", "--out", "x.zarr", "--tissue-option", "a"], "expected NAME=VALUE"),
        (["extract", "slides", "--out", "slides"], "exists and is not a wsikit store"),
        (["extract", "slides", "--out", "a.zarr", "--tile-px", "128"], "tiling.tile_px: stored 256, asked for 128"),
        (["extract", "slides", "twin", "--out", "x.zarr"], "two slides would both be 'good'"),
        (["extract", "slides", "--out", "x.zarr", "--manifest", "m.csv"], "unknown column 'lable'"),
        (["status", "slides"], "is not a wsikit store"),
        (["verify", "a.zarr", "--re-extract", "2"], "--re-extract needs the slides"),
        (["inspect", "a.zarr", "god"], "did you mean 'good'?"),
        (["inspect", "a.zarr", "good", "--row", "6"], "slide 'good': no row 6; it has rows 0 to 5"),
        (["inspect", "a.zarr", "--row", "6"], "--row needs the slide"),
    ],
)
def test_errors_are_one_message_and_exit_2(place, arguments, words):
    folder, _ = place
    (folder / "empty").mkdir(exist_ok=True)
    (folder / "twin").mkdir(exist_ok=True)
    shutil.copy(folder / "slides" / "good.svs", folder / "twin")
    (folder / "m.csv").write_text("slide,lable\ngood,1\n")
    done = wsikit(*arguments, cwd=folder)
    assert done.returncode == 2, done.stdout + done.stderr
    assert words in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not (folder / "x.zarr").exists()
