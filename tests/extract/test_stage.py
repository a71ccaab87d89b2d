"""Slides copied to a node's own disk ahead of their tiles: the same store, and nothing left behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import wsikit as wk
from wsikit.errors import ConfigError
from wsikit.extract import stage as module
from wsikit.extract.inputs import SlideEntry
from wsikit.extract.run import Progress
from wsikit.extract.stage import Stage, StageError, StageSettings, copy_slide, stage_settings, task_key
from wsikit.provenance import fingerprint
from wsikit.slides.tiling import TilingSpec

OPTIONS = {"spec": TilingSpec(tile_px=128, target_mpp=0.5), "tissue": "whole", "encoder": "colour", "workers": 2}
NAMES = ("CMU-1-Small-Region.svs", "TCGA-CR-7395-01A-01-TS1.svs", "hyperplasticpolyp_case1_L14.svs")


@pytest.fixture(scope="module")
def real(slides_dir) -> list[Path]:
    return [slides_dir / name for name in NAMES]


@pytest.fixture(scope="module")
def unstaged(tmp_path_factory, real, tree_of):
    """The bytes of a run that copies nothing."""
    report = wk.extract_features(real, out=tmp_path_factory.mktemp("unstaged") / "a.zarr", missing_mpp=0.5, **OPTIONS)
    assert {o.state for o in report.outcomes} <= {"done", "too-coarse"}
    return tree_of(report.store)


@pytest.fixture(scope="module")
def unstaged_pair(tmp_path_factory, two_slides, tree_of):
    """The same of two small slides."""
    return tree_of(wk.extract_features(two_slides, out=tmp_path_factory.mktemp("pair") / "a.zarr", **OPTIONS).store)


class Watch(Progress):
    """Remembers which files below a folder the workers have open while they encode, and what is said."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.opened, self.said = folder, set(), []

    def tiles(self, count: int) -> None:
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                self.opened |= {Path(f.path).name for f in process.open_files() if f.path.startswith(str(self.folder))}

    def say(self, line: str) -> None:
        self.said.append(line)


@contextlib.contextmanager
def staging(folder: Path, *slides: Path, gigabytes: float = 1.0, finished: bool = False) -> Iterator[Stage]:
    """A worker's stage, in this process; ``said`` is what it says."""
    said: list[str] = []
    entries = {path.stem: SlideEntry(path.stem, path) for path in slides}
    one = Stage(
        StageSettings(str(folder), gigabytes), "a.zarr",
        look_up=lambda s: (entries[s], fingerprint(entries[s].path)), finished=lambda s: finished,
        say=lambda kind, line: said.append(line),
    )  # fmt: skip
    one.said = said
    try:
        yield one
    finally:
        one.close()


def copies(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("wsikit-*/*/*"))


def wait_until(true, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


@pytest.fixture
def two(tmp_path) -> list[Path]:
    """Two files of 3 MB that a copy does not look into."""
    paths = [tmp_path / name for name in ("a.svs", "b.svs")]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]) * 3_000_000)
    return paths


def test_a_run_reads_copies_and_writes_the_same_bytes(real, unstaged, tree_of, tmp_path, monkeypatch):
    monkeypatch.setenv("NODE_DISK", str(tmp_path / "disk"))  # known to the workers
    progress = Watch(tmp_path / "disk")
    report = wk.extract_features(
        real, out=tmp_path / "a.zarr", stage="$NODE_DISK", stage_gb=1, progress=progress, missing_mpp=0.5, **OPTIONS
    )
    assert tree_of(report.store) == unstaged
    assert progress.opened >= {o.slide_id + ".svs" for o in report.outcomes if o.ok}
    assert progress.said == []
    assert list((tmp_path / "disk").iterdir()) == []


def test_pseudonyms_go_with_the_copies(two_slides, tmp_path):
    progress = Watch(tmp_path / "disk")
    report = wk.extract_features(
        two_slides, out=tmp_path / "a.zarr", stage=tmp_path / "disk", stage_gb=1, pseudonymise=tmp_path / "key.csv",
        progress=progress, **OPTIONS,
    )  # fmt: skip
    assert report.ok
    assert {name for name in progress.opened if name.endswith(".svs")} == {o.slide_id + ".svs" for o in report.outcomes}
    assert not progress.opened & {"a.svs", "b.svs"}


@pytest.mark.slow
def test_a_budget_below_the_second_slide(real, unstaged, tree_of, tmp_path):
    progress = Watch(tmp_path / "disk")
    report = wk.extract_features(
        real, out=tmp_path / "a.zarr", stage=tmp_path / "disk", stage_gb=0.003, progress=progress, missing_mpp=0.5,
        **OPTIONS,
    )  # fmt: skip
    assert tree_of(report.store) == unstaged
    assert {name for name in progress.opened if name.endswith(".svs")} == {"CMU-1-Small-Region.svs"}  # of 1.9 MB
    (line,) = progress.said
    assert "does not fit into --stage beside what is in use there (--stage-gb 0.003): read from where it is" in line
    assert list((tmp_path / "disk").iterdir()) == []


def test_the_next_slide_is_copied_before_it_is_read(two, tmp_path):
    with staging(tmp_path / "disk", *two) as stage:
        key = task_key("a.zarr", "b", 0)
        stage.follow(task_key("other.zarr", "a", 0), "ready")
        stage.follow(key, "ready")
        wait_until(lambda: copies(tmp_path / "disk") == ["b.svs"])
        with stage.reading("b") as copy:
            assert copy.read_bytes() == two[1].read_bytes()
        stage.follow(key, "memory")


def test_what_nobody_reads_makes_room_and_what_is_finished_goes(two, tmp_path):
    with staging(tmp_path / "disk", *two, gigabytes=0.004) as stage:
        with stage.reading("a") as copy:
            assert copy is not None
            with stage.reading("b") as other:
                assert other is None  # a is in use
        wait_until(lambda: not stage._copies)  # let go, and kept for another shard
        assert copies(tmp_path / "disk") == ["a.svs"]
        with stage.reading("b") as copy:
            assert copies(tmp_path / "disk") == ["b.svs"]
    with staging(tmp_path / "disk", *two, finished=True) as stage:
        with stage.reading("a"):
            pass
        wait_until(lambda: copies(tmp_path / "disk") == [])
    assert list((tmp_path / "disk").iterdir()) == []


@pytest.mark.parametrize("times", [1, 2])
def test_a_copy_that_differs_is_made_once_more(two, tmp_path, monkeypatch, times):
    real, left = copy_slide, [times]

    def flips_a_byte(source, target, stopped):
        real(source, target, stopped)
        if left[0]:
            left[0] -= 1
            with target.open("r+b") as file:
                file.write(b"\xff")

    monkeypatch.setattr(module, "copy_slide", flips_a_byte)
    with staging(tmp_path / "disk", *two) as stage:
        if times == 1:
            with stage.reading("a") as copy:
                assert copy.read_bytes() == two[0].read_bytes()
        else:
            for _ in range(2):  # it is not copied four times
                twice = r"slide a: its copy on .* has fingerprint .*, expected .*, twice"
                with pytest.raises(StageError, match=twice), stage.reading("a"):
                    pass
        assert left == [0]


IN_ANOTHER_PROCESS = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_stage import staging
slide, ready, go = map(Path, sys.argv[2:])
ready.touch()
while not go.exists(): time.sleep(0.01)
import wsikit.extract.stage as module
real = module.copy_slide
module.copy_slide = lambda *a: (print("copied", flush=True), time.sleep(0.5), real(*a))
with staging(Path(sys.argv[1]), slide) as stage:
    with stage.reading(slide.stem) as copy:
        print(copy.read_bytes() == slide.read_bytes(), flush=True)
        {end}
"""


def another(end: str, *arguments: Path) -> subprocess.Popen[str]:
    code = IN_ANOTHER_PROCESS.format(tests=str(Path(__file__).parent), end=end)
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True)


def test_two_processes_and_one_of_them_copies(two, tmp_path):
    go = tmp_path / "go"
    started = [another("time.sleep(0.5)", tmp_path / "disk", two[0], tmp_path / f"ready{i}", go) for i in range(2)]
    wait_until(lambda: all((tmp_path / f"ready{i}").exists() for i in range(2)))
    go.touch()
    said = [process.communicate(timeout=60)[0].split() for process in started]
    assert sorted(said) == [["True"], ["copied", "True"]]
    assert list((tmp_path / "disk").iterdir()) == []


@pytest.mark.parametrize("damaged", [False, True])
def test_what_a_killed_process_left_is_used_or_made_again(two, tmp_path, damaged):
    (tmp_path / "go").touch()
    killed = another("os._exit(9)", tmp_path / "disk", two[0], tmp_path / "ready", tmp_path / "go")
    assert killed.communicate(timeout=60)[0].split() == ["copied", "True"]
    assert killed.returncode == 9
    (left,) = (tmp_path / "disk").glob("wsikit-*/*/a.svs")
    before = left.stat().st_mtime_ns
    if damaged:
        with left.open("r+b") as file:
            file.write(b"\xff")
        os.utime(left, ns=(before, before))
    with staging(tmp_path / "disk", *two) as stage, stage.reading("a") as copy:
        assert copy == left
        assert copy.read_bytes() == two[0].read_bytes()
        assert (copy.stat().st_mtime_ns == before) is not damaged
    assert list((tmp_path / "disk").iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX")
@pytest.mark.parametrize("whom", ["worker", pytest.param("job", marks=pytest.mark.slow)])
def test_kill_in_the_midst_of_a_copy(two_slides, unstaged_pair, tmp_path, tree_of, whom):
    """A worker is killed after half of its copy, and its place taken; or the job, and the next run cleans up."""
    site, disk = tmp_path / "site", tmp_path / "disk"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if 'spawn_main' in ' '.join(sys.orig_argv):\n"
        "    import wsikit.extract.stage as stage\n"
        "    real = stage.copy_slide\n"
        "    def copy_slide(source, target, stopped):\n"
        "        try:\n"
        f"            os.close(os.open({str(tmp_path / 'killed')!r}, os.O_CREAT | os.O_EXCL))\n"
        "        except FileExistsError:\n"
        "            return real(source, target, stopped)\n"
        "        target.parent.mkdir()\n"
        "        target.write_bytes(source.read_bytes()[:100_000])\n"
        f"        os.kill(os.getpid(), 9) if {whom == 'worker'} else os.killpg(os.getpgid(0), 9)\n"
        "    stage.copy_slide = copy_slide\n"
    )
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [
        sys.executable, "-m", "wsikit", "extract", str(two_slides), "--out", str(tmp_path / "a.zarr"), "--workers", "2",
        "--encoder", "colour", "--tile-px", "128", "--tissue", "whole", "--stage", str(disk), "--stage-gb", "1",
    ]  # fmt: skip

    def run() -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": path}
        return subprocess.run(command, capture_output=True, text=True, env=environment, start_new_session=True)

    done = run()
    assert (tmp_path / "killed").exists()
    if whom == "job":
        assert done.returncode == -signal.SIGKILL
        assert len(list(disk.glob("wsikit-*/*/*.svs"))) >= 1  # what the next run finds
        done = run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert tree_of(tmp_path / "a.zarr") == unstaged_pair
    assert list(disk.iterdir()) == []


def test_a_copy_that_cannot_be_decoded_is_passed_over(two_slides, unstaged_pair, tmp_path, tree_of, monkeypatch):
    """Damage between the probes of the fingerprint: tiles of the copy do not decode, and the slide's own do."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import sys\n"
        "if 'spawn_main' in ' '.join(sys.orig_argv):\n"
        "    import wsikit.extract.stage as stage, shutil\n"
        "    from wsikit.testing.faults import corrupt_tiles\n"
        "    def copy_slide(source, target, stopped):\n"
        "        target.parent.mkdir()\n"
        "        corrupt_tiles(source, target, n=6)\n"
        "    stage.copy_slide, stage._Plan.found = copy_slide, lambda self: self.expected\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])]))
    progress = Watch(tmp_path / "disk")
    report = wk.extract_features(
        two_slides, out=tmp_path / "a.zarr", stage=tmp_path / "disk", stage_gb=1, progress=progress, **OPTIONS
    )
    assert report.ok
    assert {"a.svs", "b.svs"} & progress.opened
    assert tree_of(report.store) == unstaged_pair


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root and Linux")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk(two, small_disk):
    with staging(small_disk, *two) as stage:
        for slide_id in ("a", "b"):
            with stage.reading(slide_id) as copy:
                assert copy is None
        (line,) = set(stage.said)  # the client says the first of a kind
        assert "No space left on device: slides are read from where they are" in line
    assert list(small_disk.iterdir()) == []


def test_a_folder_that_cannot_be_made(two, tmp_path):
    (tmp_path / "disk").write_text("a file is in its place")
    with staging(tmp_path / "disk", *two) as stage, stage.reading("a") as copy:
        assert copy is None
        assert "slides are read from where they are" in stage.said[0]


def test_slides_of_several_files(slides_dir, tmp_path):
    """A folder goes with .mrxs (bytes only: there is no such slide to test with); a .dcm refers to its neighbours."""
    (tmp_path / "case").mkdir()
    (tmp_path / "case.mrxs").write_bytes(b"mirax")
    for name in ("Slidedat.ini", "Data0000.dat"):
        (tmp_path / "case" / name).write_bytes(name.encode() * 100)
    copy_slide(tmp_path / "case.mrxs", tmp_path / "disk" / "x.y.mrxs", threading.Event())
    assert fingerprint(tmp_path / "disk" / "x.y.mrxs") == fingerprint(tmp_path / "case.mrxs")
    assert (tmp_path / "disk" / "x.y" / "Slidedat.ini").read_bytes() == (
        tmp_path / "case" / "Slidedat.ini"
    ).read_bytes()
    with staging(tmp_path / "disk", slides_dir / "gcp_jpeg.dcm") as stage, stage.reading("gcp_jpeg") as copy:
        assert copy is None
        assert "it may have files that a copy would lack" in stage.said[0]


def test_settings_that_cannot_be_used(two_slides, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="--stage and --stage-gb go together"):
        stage_settings("disk", None)
    with pytest.raises(ConfigError, match=r"stage_gb=0; expected gigabytes"):
        stage_settings("disk", 0)
    monkeypatch.delenv("NO_SUCH_DISK", raising=False)
    with pytest.raises(
        ConfigError, match=r"--stage '\$NO_SUCH_DISK/x' is '\$NO_SUCH_DISK/x' on .*; expected an absolute"
    ):
        wk.extract_features(two_slides, out=tmp_path / "a.zarr", stage="$NO_SUCH_DISK/x", stage_gb=1, **OPTIONS)
