"""What must not leave a slide: its label, the scanner's free text, its place; and, where asked for, who it is."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import wsikit as wk
from wsikit.errors import ConfigError
from wsikit.extract.failure import failure_of
from wsikit.extract.inputs import SlideEntry
from wsikit.extract.pseudonyms import pseudonymise
from wsikit.provenance import fingerprint
from wsikit.testing.faults import bad_slides, plain_tissue
from wsikit.testing.svs import write_svs

NAME = "Mustermann"
TEXTS = {
    269: "document", 271: "make", 272: "model", 285: "page", 305: "software", 306: "1961:02:03 04:05:06",
    315: "artist", 316: "host", 33432: "copyright", 700: "<xmp/>",
}  # fmt: skip
TEXTS = {code: f"{NAME} {text}" if code != 306 else text for code, text in TEXTS.items()}
SPEC = wk.TilingSpec(tile_px=128, target_mpp=0.5)
LABEL = np.zeros((300, 400, 3), np.uint8)
LABEL[::2] = (0, 255, 255)
cv2.putText(LABEL, NAME, (20, 150), cv2.FONT_HERSHEY_SIMPLEX, 2, (255, 255, 0), 5)


def wsikit(*arguments, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "wsikit", *map(str, arguments)], capture_output=True, text=True, cwd=cwd
    )


def holders(folders, *words: str | bytes) -> list[tuple[str, str]]:
    """Files below folders that have one of some words in their bytes or their name, any case, UTF-8 or UTF-16."""
    found = []
    for folder in folders:
        for path in folder.rglob("*"):
            content = path.read_bytes().lower() if path.is_file() else b""
            for word in map(str.lower, words):
                if word in path.name.lower() or word.encode() in content or word.encode("utf-16-le") in content:
                    found.append((str(path), word))
    return found


def test_the_search_finds(tmp_path):
    (tmp_path / "x").write_bytes("from MUSTERMANN's".encode("utf-16-le"))
    (tmp_path / "mustermann.txt").touch()
    assert len(holders([tmp_path], NAME)) == 2


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A slide with a label, a macro image and every text that a scanner can write, and one without; extracted."""
    folder = tmp_path_factory.mktemp("pair")
    rgb = plain_tissue(1024)
    for kind, options in {
        "with": {"label": LABEL, "macro": LABEL, "texts": TEXTS, "properties": {"Patient": NAME, "Filename": NAME},
                 "vendor_text": f"Aperio {NAME}"},
        "without": {},
    }.items():  # fmt: skip
        (folder / kind / NAME).mkdir(parents=True)
        write_svs(folder / kind / NAME / "case.svs", rgb, **options)
        done = wsikit("extract", NAME, "--out", "a.zarr", "--tile-px", 128, "--workers", 1, cwd=folder / kind)
        assert done.returncode == 0, done.stderr
        (folder / kind / "said").mkdir()
        (folder / kind / "said" / "said").write_text(done.stdout + done.stderr)
    return folder


def outputs(folder):
    return [folder / "a.zarr", folder / "a.report", folder / "said"]


def test_the_planted_slide_holds_what_it_should(pair):
    """Else the tests below could not fail."""
    import openslide

    content = (pair / "with" / NAME / "case.svs").read_bytes()
    assert all(content.count(text.encode()) >= 5 for text in TEXTS.values())  # on every page
    with openslide.OpenSlide(pair / "with" / NAME / "case.svs") as slide:
        assert set(slide.associated_images) >= {"label", "macro"}
        label = np.asarray(slide.associated_images["label"].convert("RGB")).astype(int)
        assert (label[..., 2] - label[..., 0] > 60).mean() > 0.3


def test_no_text_of_the_scanner_gets_out(pair):
    found = holders(outputs(pair / "with"), NAME, "1961:02:03", "aperio image library", "<xmp")
    assert found == []


def test_label_and_macro_have_no_influence_on_any_byte(pair):
    """Whatever is written is the same with them and without: they cannot have been read into it."""
    trees = []
    for kind in ("with", "without"):
        folder = pair / kind
        files = sorted(p for root in outputs(folder)[:2] for p in root.rglob("*") if p.is_file())
        trees.append({p.relative_to(folder).as_posix(): p for p in files})
    assert list(trees[0]) == list(trees[1])
    differ = [name for name in trees[0] if trees[0][name].read_bytes() != trees[1][name].read_bytes()]
    pictures = [name for name in trees[0] if name.endswith(".jpg")]
    assert pictures
    # The slide's attributes have its fingerprint and size; the record of these has their hash; the rest is time,
    # and a name of the run, drawn by chance.
    assert {n for n in differ if "slides.csv" not in n and "lease" not in n and "devices" not in n} == {
        "a.zarr/slides/case/zarr.json", "a.zarr/.wsikit/done/case/plan",
    }  # fmt: skip
    facts = [json.loads(tree["a.zarr/slides/case/zarr.json"].read_bytes())["attributes"] for tree in trees]
    assert {name for name in facts[0] if facts[0][name] != facts[1][name]} == {"fingerprint", "file_bytes"}


def test_attributes_hold_no_other_text_than_ours(pair):
    """Every text in a slide's attributes is a word of wsikit's or a hash."""
    facts = wk.open_store(pair / "with" / "a.zarr").slide("case")
    texts = {k: v for k, v in facts.items() if isinstance(v, str) and not k.startswith("encoding-")}
    assert len(texts.pop("fingerprint")) == 64
    assert texts == {"vendor": "aperio", "reader": facts["reader"], "mpp_source": facts["mpp_source"],
                     "resampler": "none"}  # fmt: skip
    from wsikit.slides.base import READERS

    assert facts["reader"] in READERS.names()
    assert "mpp" in facts["mpp_source"].lower()


def test_a_scene_is_kept_by_its_number(tmp_path):
    """Scanners name scenes after whatever was typed in."""
    slide = bad_slides(tmp_path / "bad")["two-scenes"]
    slide.write_bytes(slide.read_bytes().replace(b'Name="lower"', f'Name="{NAME[:5]}"'.encode()))
    manifest = tmp_path / "m.csv"
    options = {"out": tmp_path / "a.zarr", "encoder": "colour", "spec": SPEC, "manifest": manifest, "workers": 1}
    manifest.write_text(f"path,scene\n{slide},{NAME[:5]}\n")
    assert wk.extract_features([], **options).ok
    facts = wk.open_store(tmp_path / "a.zarr").slide("two-scenes")
    assert (facts["scene"], facts["scenes"]) == (1, 2)
    assert holders([tmp_path / "a.zarr", tmp_path / "a.report"], NAME[:5]) == []
    assert wk.extract_features([], **options).ok  # the same scene again
    with wk.open_slide(slide, scene=facts["scene"]) as by_number, wk.open_slide(slide, scene=NAME[:5]) as by_name:
        np.testing.assert_array_equal(by_number.thumbnail(64), by_name.thumbnail(64))
    manifest.write_text(f"path,scene\n{slide},upper\n")
    (outcome,) = wk.extract_features([], **options).outcomes
    assert outcome.state == "changed"
    assert "the store has 1" in outcome.reason


@pytest.fixture(scope="module")
def hidden(tmp_path_factory):
    """Slides good and bad, named after a patient, extracted under pseudonyms through the command."""
    folder = tmp_path_factory.mktemp("hidden")
    bad = bad_slides(folder / "bad", size_px=512)
    slides = folder / NAME
    slides.mkdir()
    for fault, path in bad.items():
        shutil.copy(path, slides / f"{NAME}-{fault}{path.name[len(fault) :]}")
    text = f"{NAME} is the first thing in this file " * 50
    (slides / f"{NAME}-text.svs").write_text(text)
    box = [[0, 0], [256, 0], [256, 256], [0, 256], [0, 0]]
    (folder / f"{NAME}.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [box]}))
    shutil.copy(bad["good"], slides / f"{NAME}-drawn.svs")
    with (slides / f"{NAME}-drawn.svs").open("ab") as handle:
        handle.write(b"another file")
    (folder / "m.csv").write_text(f"slide,tissue\n{NAME}-drawn.svs,{NAME}.geojson\n")
    return folder, run(folder)


def run(folder, key="key.csv", **options):
    return wsikit("extract", NAME, "--out", "a.zarr", "--encoder", "colour", "--tile-px", 128, "--manifest", "m.csv",
                  "--workers", 1, *(("--pseudonymise", key) if key else ()), cwd=folder)  # fmt: skip


def pseudonyms(folder, key="key.csv") -> dict[str, str]:
    with (folder / key).open(newline="") as handle:
        return {row["slide_id"]: row["pseudonym"] for row in csv.DictReader(handle)}


def test_states_are_told_and_names_are_not(hidden):
    folder, done = hidden
    assert done.returncode == 1, done.stderr
    with (folder / "a.report" / "failures.csv").open() as handle:
        failed = {row["slide_id"]: row for row in csv.DictReader(handle)}
    key = pseudonyms(folder)
    states = {fault: failed[key[f"{NAME}-{fault}"]]["state"] for fault in ("no-mpp", "truncated", "text", "two-scenes")}
    assert states == {"no-mpp": "no-mpp", "truncated": "truncated", "text": "unreadable", "two-scenes": "choose-scene"}
    assert "cut off" not in failed[key[f"{NAME}-truncated"]]["reason"]
    assert "The file ends before its contents do" in failed[key[f"{NAME}-truncated"]]["reason"]
    store = wk.open_store(folder / "a.zarr")
    assert set(store.slide_ids) == {key[f"{NAME}-{fault}"] for fault in ("good", "drawn", "corrupt-tiles")}
    for slide_id in failed:
        assert (folder / "a.report" / "overlays" / f"{slide_id}.jpg").exists()


def test_nothing_leads_back_to_a_file(hidden):
    folder, done = hidden
    words = ["upper"]
    for path in (folder / NAME).iterdir():
        words += [fingerprint(path)[:16], f"{path.stat().st_size}"]
    said = folder / "said"
    said.mkdir(exist_ok=True)
    (said / "said").write_text(done.stdout + done.stderr)
    places = [folder / "a.zarr", folder / "a.report", said]
    assert holders(places, NAME) == []
    found = [(path, word) for path, word in holders(places, *words) if not path.endswith((".jpg", "c.0.0"))]
    assert found == []
    from wsikit.provenance import sha256_file

    drawn = sha256_file(folder / f"{NAME}.geojson")
    assert holders(places, drawn[:16]) == []


def test_the_same_key_goes_on_and_does_nothing(hidden, tmp_path, tree_of):
    folder, _ = hidden
    before, key = tree_of(folder / "a.zarr"), (folder / "key.csv").read_bytes()
    again = run(folder)
    assert again.returncode == 1, again.stderr
    assert tree_of(folder / "a.zarr") == before
    assert (folder / "key.csv").read_bytes() == key


def test_another_key_and_no_key_are_refused_with_both(hidden):
    folder, _ = hidden
    stored = wk.open_store(folder / "a.zarr").configuration["pseudonyms"]["key"]
    other = run(folder, "other.csv")
    assert other.returncode == 2
    said = " ".join(other.stderr.split())
    assert f"pseudonyms.key: stored '{stored}', asked for '" in said
    assert stored not in said.partition("asked for")[2]
    none = run(folder, None)
    assert none.returncode == 2
    assert f"pseudonyms: stored {{'key': '{stored}'}}, asked for None" in " ".join(none.stderr.split())


def test_a_replaced_file_is_still_noticed(hidden, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(hidden[0], folder)
    shutil.copy(folder / NAME / f"{NAME}-no-mpp.svs", folder / NAME / f"{NAME}-good.svs")
    run(folder)
    with (folder / "a.report" / "slides.csv").open() as handle:
        states = {row["slide_id"]: row["state"] for row in csv.DictReader(handle)}
    assert states[pseudonyms(folder)[f"{NAME}-good"]] == "changed"


def test_verify_re_extracts_with_the_key(hidden):
    folder, _ = hidden
    command = ["verify", "a.zarr", "--re-extract", 4, "--slides", NAME, "--encoder", "colour", "--manifest", "m.csv"]
    done = wsikit(*command, "--pseudonymise", "key.csv", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 slides verified, 0 findings" in done.stdout
    assert "none of the" in wsikit(*command, cwd=folder).stderr
    missing = wsikit(*command, "--pseudonymise", "nokey.csv", cwd=folder)
    assert missing.returncode == 2
    assert not (folder / "nokey.csv").exists()


def test_the_key_lies_elsewhere(hidden):
    folder, _ = hidden
    for inside in ("a.zarr/key.csv", "a.report/key.csv", "a.zarr/../a.report/sub/../key.csv"):
        done = run(folder, inside)
        assert done.returncode == 2
        assert "could undo the pseudonyms; keep it elsewhere" in " ".join(done.stderr.split())
    assert not list(folder.rglob("a.*/key.csv"))


ENTRIES = [SlideEntry("b", Path("b.svs")), SlideEntry("a", Path("a.svs"))]


def test_the_key_file(tmp_path):
    path = tmp_path / "key.csv"
    first, identity = pseudonymise(ENTRIES, path)
    assert [e.slide_id for e in first] == sorted(e.slide_id for e in first)  # no order of the names is left
    assert {e.path.stem for e in first} == {"a", "b"}
    assert len({e.slide_id for e in first} | {"a", "b"}) == 4
    assert pseudonymise(ENTRIES[:1], path)[1] == identity
    more, same = pseudonymise([*ENTRIES, SlideEntry("c", Path("c.svs"))], path)
    assert same == identity
    assert {e.path: e.slide_id for e in first}.items() <= {e.path: e.slide_id for e in more}.items()
    assert set(pseudonyms(tmp_path)) == {"*secret*", "a", "b", "c"}
    other, differs = pseudonymise(ENTRIES, tmp_path / "other.csv")
    assert differs != identity
    assert {e.slide_id for e in other}.isdisjoint(e.slide_id for e in first)
    assert first[0].secret not in repr(first[0])
    if os.name != "nt":
        assert path.stat().st_mode & 0o077 == 0


def test_pseudonyms_of_ones_own(tmp_path):
    path = tmp_path / "key.csv"
    path.write_text("slide_id,pseudonym\na,P-001\n")
    given, _ = pseudonymise(ENTRIES, path)
    assert {e.path.stem: e.slide_id for e in given}["a"] == "P-001"
    assert len(pseudonyms(tmp_path)["*secret*"]) == 64


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected the columns slide_id,pseudonym, found an empty file"),
        ("slide,mpp\na,0.5\n", "expected the columns slide_id,pseudonym, found slide,mpp"),
        ("slide_id,pseudonym\na,P\nb,p\n", "'a' and 'b' have one pseudonym, 'p'"),
        ("slide_id,pseudonym\na,../P\n", "cannot name a folder"),
        ("slide_id,pseudonym\na,P\na,Q\n", "row 3: expected a slide id that is new"),
        ("slide_id,pseudonym\n*secret*,abc\n", "its secret is not 64 hex digits"),
    ],
)
def test_key_files_that_cannot_be_used_stay_as_they_are(tmp_path, text, words):
    path = tmp_path / "key.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        pseudonymise(ENTRIES, path)
    assert path.read_text() == text


def test_an_unforeseen_error_keeps_its_place_and_loses_its_words():
    entry = SlideEntry("p1", Path(f"/data/{NAME}/x.svs"), secret="00" * 32)
    try:
        raise ValueError(f"tag 270 of {entry.path} says {NAME}")
    except ValueError as error:
        failure = failure_of(error, entry)
    assert NAME not in failure.reason + failure.traceback
    assert failure.reason.startswith("slide p1: ValueError: ")
    assert "in test_an_unforeseen_error_keeps_its_place" in failure.traceback
