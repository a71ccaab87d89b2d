"""Which slides are meant, and every way in which a list of them can be wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wsikit.errors import ConfigError
from wsikit.extract.inputs import collect_slides


@pytest.fixture
def folder(tmp_path):
    for name in ("a.svs", "sub/b.ndpi", "sub/c.ome.tiff", "notes.txt", ".hidden.svs"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def manifest(folder, text):
    path = folder / "slides.csv"
    path.write_text(text)
    return path


def test_folders_are_searched_and_ids_are_names_without_endings(folder):
    assert [(e.slide_id, e.path.name) for e in collect_slides([folder])] == [
        ("a", "a.svs"), ("b", "b.ndpi"), ("c", "c.ome.tiff"),
    ]  # fmt: skip


def test_a_file_named_twice_is_one_slide(folder):
    assert len(collect_slides([folder / "a.svs", folder, str(folder / "a.svs")])) == 3


def test_a_file_named_outright_may_end_in_anything(folder):
    assert [e.slide_id for e in collect_slides([folder / "notes.txt"])] == ["notes.txt"]


def test_two_slides_of_one_id_are_refused_with_both_paths(folder):
    (folder / "sub" / "A.svs").touch()
    with pytest.raises(ConfigError, match=r"two slides would both be .*a\.svs.*slide_id"):
        collect_slides([folder])


def test_a_manifest_can_rename_one_of_them(folder):
    (folder / "sub" / "a.svs").touch()
    entries = collect_slides([folder], manifest=manifest(folder, "path,slide_id\nsub/a.svs,a2\n"))
    assert [e.slide_id for e in entries] == ["a", "a2", "b", "c"]


def test_manifest_adds_and_describes(folder):
    text = "\ufeffpath,slide_id,mpp,mpp_x,mpp_y,scene\na.svs,p1,0.25,,,\nsub/b.ndpi,,,0.5,0.52,left\n\n"
    one, two = collect_slides([], manifest=manifest(folder, text))
    assert (one.slide_id, two.slide_id) == ("b", "p1")
    assert (one.mpp, one.scene) == ((0.5, 0.52), "left")
    assert (two.mpp, two.scene) == ((0.25, 0.25), None)


def test_manifest_by_name_describes_given_slides(folder):
    entries = collect_slides([folder], manifest=manifest(folder, "slide,mpp\nb,0.25\na.svs,0.5\n"))
    assert {e.slide_id: e.mpp for e in entries} == {"a": (0.5, 0.5), "b": (0.25, 0.25), "c": None}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("slide,magnificaton\na,20\n", r"unknown column 'magnificaton'.*known: path, slide"),
        ("slide,mp\na,0.5\n", r"unknown column 'mp'; did you mean 'mpp'"),
        ("slide_id,mpp\na,0.5\n", "expected one of the columns 'path' and 'slide', found slide_id, mpp"),
        ("slide,mpp\naa,0.5\n", r"line 2: no slide 'aa' among the 3 given; did you mean 'a'"),
        ("path\nnowhere.svs\n", r"line 2: no such file: nowhere\.svs"),
        ("slide,mpp\na,half\n", "line 2: mpp is 'half'; expected a number"),
        ("slide,mpp\na,352\n", "line 2: mpp is 352; expected 0.02 to 40"),
        ("slide,mpp_x\na,0.5\n", "mpp_x and mpp_y go together"),
        ("slide,mpp,mpp_x,mpp_y\na,0.5,0.5,0.5\n", "give either mpp, or mpp_x and mpp_y"),
        ("slide,mpp\na,0.5\na.svs,0.25\n", "line 3: .*has a row already, in line 2"),
        ("slide,mpp\na,0.5,7\n", "line 2: more fields than the header has"),
        ("path,slide_id\na.svs,../../etc/passwd\n", "cannot name a folder everywhere"),
        ("", "expected one of the columns"),
    ],
)
def test_manifests_that_cannot_be_used(folder, text, words):
    with pytest.raises(ConfigError, match=words):
        collect_slides([folder], manifest=manifest(folder, text))


@pytest.mark.parametrize(
    "slide_id",
    ["..", "../x", "/etc/passwd", "C:\\x", "a\\b", "a/b", "nul", "COM1.svs", "con .x", "lpt\u00b9", "a\x00b", "a\nb",
     "x" * 129, "\u8840" * 70, "a\udcffb", ".hidden", "ends."],
)  # fmt: skip
def test_names_that_would_leave_the_output_or_break_a_file_system(folder, slide_id):
    """As ids in a manifest; and no look at them raises anything else."""
    text = f'path,slide_id\na.svs,"{slide_id}"\n'
    path = folder / "slides.csv"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError, match=r"cannot name a folder everywhere|manifest .*: "):
        collect_slides([], manifest=path)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such file names")
@pytest.mark.parametrize("name", [b"nul.svs", b"bytes-\xff.svs", b"colon:.svs", b"back\\slash.svs", b"..svs"])
def test_file_names_that_cannot_be_ids_are_refused_before_the_run(tmp_path, name):
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).touch()
    with pytest.raises(ConfigError, match=r"cannot name a folder everywhere|holds no slides|no slides"):
        collect_slides([Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))])


@pytest.mark.parametrize("path", ["a\x00.svs", "../../../../../../../../etc", ""])
def test_paths_in_a_manifest_that_are_no_files(folder, path):
    with pytest.raises(ConfigError, match=r"no such file|manifest .*: "):
        collect_slides([], manifest=manifest(folder, f"path,mpp\n{path},0.5\n"))


def test_ids_that_one_file_system_takes_for_one_are_refused(folder):
    """An accent as one character or as two: one folder on macOS."""
    text = "path,slide_id\na.svs,caf\u00e9\nsub/b.ndpi,cafe\u0301\n"
    path = folder / "slides.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="two slides would both be"):
        collect_slides([], manifest=path)


def test_the_longest_id_leaves_room_for_what_is_written_beside_it(tmp_path):
    """Records and partial files carry the id in their names, and a name has at most 255 bytes."""
    from wsikit.extract.outcome import SlideOutcome, remember, remembered

    longest = "\u8840" * 66 + "ab"  # 200 bytes
    remember(tmp_path, SlideOutcome(longest, "failed"))
    assert list(remembered(tmp_path)) == [longest]


def test_nothing_to_do_is_an_error(tmp_path, folder):
    with pytest.raises(ConfigError, match="no slides: name slide files"):
        collect_slides([])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"empty holds no slides: 0 files; expected \.svs"):
        collect_slides([tmp_path / "empty"])
    with pytest.raises(ConfigError, match="no such file or folder: .*nowhere"):
        collect_slides([tmp_path / "nowhere"])
    with pytest.raises(ConfigError, match="manifest .*No such file"):
        collect_slides([folder], manifest=tmp_path / "none.csv")
