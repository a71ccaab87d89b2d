"""What the doctor says before a run is what the run then says."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys

import pytest

import wsikit as wk
from wsikit.errors import ConfigError
from wsikit.extract.checkup import CheckupSettings, check_slide, sampled_rows
from wsikit.extract.doctor import diagnose, size_words, summary, time_words
from wsikit.extract.inputs import SlideEntry, list_slides
from wsikit.extract.settings import EncoderSettings, RunSettings
from wsikit.store.forecast import slide_bytes
from wsikit.testing.faults import bad_slides, corrupt_tiles

SPEC = wk.TilingSpec(tile_px=64, target_mpp=0.5)


def settings(tmp_path, sample=8, encoder="colour", **options):
    options = {"spec": SPEC, **options}
    run = RunSettings(store=tmp_path / "none.zarr", encoders=(EncoderSettings(encoder),), **options)
    return CheckupSettings(run, sample=sample)


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    """A folder with one file of every fault, a copy of the good one, and a second 'glass'."""
    folder = tmp_path_factory.mktemp("bad")
    paths = bad_slides(folder / "a", size_px=1024)
    shutil.copy(paths["good"], folder / "a" / "copy.svs")
    (folder / "b").mkdir()
    shutil.copy(paths["glass"], folder / "b" / "Glass.svs")
    return folder


@pytest.fixture(scope="module")
def found(bad, tmp_path_factory):
    """What the doctor says of it, every tile read."""
    return diagnose(list_slides([bad]), settings(tmp_path_factory.mktemp("x"), sample=1000), workers=2)


def test_states_are_those_of_the_run(bad, found, tmp_path):
    report = wk.extract_features(bad / "a", out=tmp_path / "a.zarr", encoder="colour", spec=SPEC, workers=1)
    run = {o.slide_id: ("ok" if o.ok else o.state, o.tiles) for o in report.outcomes}
    doctor = {c.slide_id: (c.state, c.tiles) for c in found.slides}
    assert doctor.pop("Glass") == ("no-tissue", 0)
    assert doctor.pop("glass") == ("duplicate-id", 0)  # of Glass: the run would not even begin
    assert run.pop("glass") == ("no-tissue", 0)
    assert doctor == run
    assert run["corrupt-tiles"][0] == "damaged"
    assert not found.ok


def test_problems_stand_first_and_say_what_they_are(bad, found):
    states = [c.state for c in found.slides]
    assert states[-2:] == ["ok", "ok"]
    assert "ok" not in states[:-2]
    by_id = {c.slide_id: c for c in found.slides}
    assert f"the same file as {bad / 'a' / 'copy.svs'}" in by_id["good"].remarks
    assert "tiles read as a sample cannot be decoded, the first at level-0 px" in by_id["corrupt-tiles"].reason
    assert "Glass" in by_id["glass"].reason
    assert "manifest" in by_id["glass"].reason
    assert by_id["good"].stain.startswith("H&E")
    assert "2 of 11 slides would be done; 9 not:" in summary(found)[0]


def test_the_forecast_is_what_the_store_takes(found, bad, tmp_path):
    paths = [bad / "a" / "good.svs", bad / "a" / "copy.svs"]
    store = wk.extract_features(paths, out=tmp_path / "a.zarr", encoder="colour", spec=SPEC, workers=1).store
    files = [p for p in store.rglob("*") if p.is_file()]
    assert found.tiles == sum(len(wk.open_store(store).coords(s)) for s in ("good", "copy"))
    assert found.store_inodes == 1 + len(list(store.rglob("*")))
    assert found.store_bytes == pytest.approx(sum(p.stat().st_size for p in files), abs=6000)
    assert found.hours > 0


def test_bytes_of_a_large_slide_follow_its_shards():
    """10,000 tiles of width 1,024: 40 chunks of 256 rows, and next to nothing beside them."""
    assert slide_bytes(10_000, 1024) == pytest.approx(40 * 256 * 1024 * 2, rel=0.02)


def test_what_a_sample_reads_is_the_same_every_time(bad, tmp_path):
    entry = SlideEntry("torn", tmp_path / "torn.svs")
    corrupt_tiles(bad / "a" / "good.svs", entry.path, n=6, seed=3)
    first, second = (check_slide(entry, settings(tmp_path, sample=12)) for _ in range(2))
    assert (first.sampled, first.unreadable, first.reason) == (12, second.unreadable, second.reason)
    rows = sampled_rows(first.fingerprint, 200, 12)
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert rows.tolist() != sampled_rows("0" * 64, 200, 12).tolist()  # another slide, other places
    assert sampled_rows(first.fingerprint, 5, 12).tolist() == [0, 1, 2, 3, 4]


def test_a_manifest_and_options_cure(bad, tmp_path):
    manifest = tmp_path / "m.csv"
    manifest.write_text("slide,scene\ntwo-scenes.ome.tif,upper\n")
    entries = [e for e in list_slides([bad / "a"], manifest=manifest) if e.slide_id in CURED]
    options = {"missing_mpp": 0.5, "allow_unequal_mpp": True, "spec": wk.TilingSpec(tile_px=64, target_mpp=1.0)}
    cured = diagnose(entries, settings(tmp_path, **options), workers=2)
    assert {c.slide_id: c.state for c in cured.slides} == dict.fromkeys(CURED, "ok")
    unequal = next(c for c in cured.slides if c.slide_id == "unequal-mpp")
    assert unequal.remarks == ("pixels are not square: mpp 0.5 x 0.6",)


CURED = {"no-mpp", "unequal-mpp", "two-scenes"}


def test_a_large_flat_file_is_remarked(tmp_path):
    import numpy as np

    from wsikit.testing.svs import write_svs

    rgb = np.full((256, 4400, 3), (200, 120, 170), np.uint8)
    write_svs(tmp_path / "flat.svs", rgb, levels=(1,))
    check = check_slide(SlideEntry("flat", tmp_path / "flat.svs"), settings(tmp_path))
    assert check.ok
    assert check.remarks == ("not pyramidal: one level of 4400 x 256 px, slow to look at",)


def test_ids_that_cannot_be_are_said(tmp_path):
    (tmp_path / "con.svs").write_bytes(b"x")
    (check,) = diagnose(list_slides([tmp_path]), settings(tmp_path), workers=1).slides
    assert check.state == "bad-config"
    assert "slide id 'con' cannot name a folder everywhere" in check.reason


def test_an_encoder_that_cannot_be_built_ends_it_at_once(bad, tmp_path):
    with pytest.raises(ConfigError, match="no timm model named"):
        diagnose(list_slides([bad]), settings(tmp_path, encoder="timm:no_such_network"), workers=1)


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX")
def test_the_command_outlives_a_decoder_that_crashes(bad, tmp_path):
    """A reader that takes the process down on one file, through the command, in JSON and CSV."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if 'spawn_main' in ' '.join(sys.orig_argv):\n"
        "    import openslide\n"
        "    real = openslide.OpenSlide.__init__\n"
        "    def init(self, filename):\n"
        "        if str(filename).endswith('glass.svs'):\n"
        "            os.kill(os.getpid(), 9)\n"
        "        real(self, filename)\n"
        "    openslide.OpenSlide.__init__ = init\n"
    )
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "wsikit", "doctor", "good.svs", "glass.svs", "copy.svs", "--encoder", "colour",
               "--tile-px", "64", "--workers", "2", "--json", "--csv", str(tmp_path / "d.csv")]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=bad / "a", env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == 1, done.stderr
    states = {c["slide_id"]: c["state"] for c in json.loads(done.stdout)["slides"]}
    assert states == {"good": "ok", "copy": "ok", "glass": "killed-worker"}
    with (tmp_path / "d.csv").open() as handle:
        rows = {row["slide_id"]: row for row in csv.DictReader(handle)}
    assert {name: row["state"] for name, row in rows.items()} == states
    assert rows["good"]["remarks"] == "the same file as copy.svs"
    assert rows["good"]["mpp"] == "0.5 x 0.5"


def test_the_table_of_many_slides_is_short(bad, tmp_path):
    (tmp_path / "many").mkdir()
    for n in range(60):
        (tmp_path / "many" / f"s[{n}].svs").write_bytes(b"not a slide")
    shutil.copy(bad / "a" / "good.svs", tmp_path / "many")
    command = [sys.executable, "-m", "wsikit", "doctor", "many", "--encoder", "colour", "--workers", "1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "(21 more rows, 20 of them slides that would fail: --csv FILE has all)" in done.stdout
    assert "│ s[0] " in done.stdout  # a name in brackets is no markup
    assert "1 of 61 slides would be done; 60 not: 60 unreadable" in done.stdout
    good = subprocess.run([*command[:4], "many/good.svs", *command[5:]], capture_output=True, text=True, cwd=tmp_path)
    assert good.returncode == 0, good.stdout + good.stderr


def test_words():
    assert [size_words(n) for n in (999, 1_000, 1_444_000_000)] == ["999 B", "1 kB", "1.44 GB"]
    assert [time_words(h) for h in (0.001, 0.5, 3.52, 100)] == ["4 s", "30 min", "3.5 h", "4 days"]
