"""The main job on real slides, good and bad, as a user runs it."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys

import pytest

import wsikit as wk
from wsikit.store.verify import verify_store

MPP = {
    "TCGA-CR-7395-01A-01-TS1": 0.5, "hyperplasticpolyp_case1_L14": 2.016, "kidney-48-5": 4.0,
}  # fmt: skip
"""What the manifest supplies, for the slides that record no resolution."""

AT_HALF = {
    "CMU-1-Small-Region": "done",
    "TCGA-CR-7395-01A-01-TS1": "no-mpp",
    "amyloid_crystalviolet_L13": "too-coarse",
    "gcp_jpeg": "too-coarse",
    "gcp_jpeg2000": "too-coarse",
    "helicobacterpylori_HE_L13": "too-coarse",
    "helicobacterpylori_IHC_L13": "too-coarse",
    "helicobacterpylori_giemsa_L13": "too-coarse",
    "hyperplasticpolyp_case1_L14": "no-mpp",
    "ischemic-colitis_HE_L14": "too-coarse",
    "kidney-48-5": "no-mpp",
    "pathml_small_dicom": "unreadable",
    "pathml_small_vectra": "not-brightfield",
    "tubularadenoma-flat_HE_L15": "done",
}
AT_FOUR = dict.fromkeys(AT_HALF, "done") | {
    "gcp_jpeg": "too-coarse",
    "gcp_jpeg2000": "too-coarse",
    "pathml_small_dicom": "unreadable",
    "pathml_small_vectra": "not-brightfield",
}


def run(slides, store, *options, expect=1):
    command = [sys.executable, "-m", "wsikit", "extract", str(slides), "--out", str(store), "--encoder", "colour"]
    done = subprocess.run([*command, *map(str, options)], capture_output=True, text=True)
    assert done.returncode == expect, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    report = store.with_suffix(".report")
    with (report / "slides.csv").open() as handle:
        rows = {row["slide_id"]: row for row in csv.DictReader(handle)}
    for name in rows:
        assert (report / "overlays" / f"{name}.jpg").stat().st_size > 5000, name
    return rows


@pytest.fixture
def manifest(tmp_path):
    path = tmp_path / "slides.csv"
    path.write_text("slide,mpp\n" + "".join(f"{name},{mpp}\n" for name, mpp in MPP.items()))
    return path


@pytest.mark.slow
def test_all_at_half_a_micrometre(slides_dir, tmp_path):
    rows = run(slides_dir, tmp_path / "a.zarr", "--target-mpp", 0.5, "--tile-px", 256)
    assert {name: row["state"] for name, row in rows.items()} == AT_HALF
    assert all(row["reason"] for row in rows.values() if row["state"] != "done")
    store = wk.open_store(tmp_path / "a.zarr")
    assert 40 <= len(store.bag("CMU-1-Small-Region", encoder="colour")) <= 70  # tissue on about half of 88 tiles
    assert 600 <= len(store.bag("tubularadenoma-flat_HE_L15", encoder="colour")) <= 1400
    assert verify_store(store) == []


def test_all_at_four_micrometres_with_a_manifest(slides_dir, tmp_path, manifest, tree_of):
    options = ["--target-mpp", 4.0, "--manifest", manifest]
    rows = run(slides_dir, tmp_path / "a.zarr", *options, "--workers", 2)
    states = {name: row["state"] for name, row in rows.items()}
    assert states.pop("kidney-48-5") in ("done", "no-tissue")  # one small piece, less than a tile
    assert states == {name: state for name, state in AT_FOUR.items() if name in states}
    for name, row in rows.items():
        if "_HE_" in name or "_IHC_" in name or "giemsa" in name or "crystalviolet" in name:
            assert int(row["tiles"]) >= 15, name
    before = tree_of(tmp_path / "a.zarr")
    run(slides_dir, tmp_path / "a.zarr", *options)
    assert tree_of(tmp_path / "a.zarr") == before
    run(slides_dir, tmp_path / "b.zarr", *options, "--workers", 1)
    assert tree_of(tmp_path / "b.zarr") == before


@pytest.mark.slow
def test_re_extraction_of_real_slides(slides_dir, tmp_path):
    """Three stains of two laboratories: all agree; a slide replaced after extraction does not."""
    folder = tmp_path / "slides"
    folder.mkdir()
    for name in ("CMU-1-Small-Region.svs", "helicobacterpylori_IHC_L13.svs", "ischemic-colitis_HE_L14.svs"):
        shutil.copy(slides_dir / name, folder)
    run(folder, tmp_path / "a.zarr", "--target-mpp", 4.0, "--tile-px", 128, expect=0)
    command = [sys.executable, "-m", "wsikit", "verify", str(tmp_path / "a.zarr"), "--re-extract", "12", "--slides",
               str(folder), "--encoder", "colour"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 slides verified, 0 findings" in done.stdout
    replaced = folder / "ischemic-colitis_HE_L14.svs"
    replaced.chmod(0o644)
    shutil.copy(folder / "helicobacterpylori_IHC_L13.svs", replaced)
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "ischemic-colitis_HE_L14: differs: the file has fingerprint" in done.stdout
