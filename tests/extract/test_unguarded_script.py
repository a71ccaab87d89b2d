"""Scripts that extract with worker processes: guarded they work, unguarded they are told what to do, at once."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest

import wsikit as wk
from wsikit.slides.tiling import TilingSpec

HEAD = """
import pathlib, sys
import wsikit as wk
slide, out, log = sys.argv[1:]

def note(what):
    with open(log, "a") as file:
        file.write(f"{__name__} {what}\\n")

def extract(encoder="colour", workers=2):
    spec = wk.TilingSpec(tile_px=64, target_mpp=0.5)
    return wk.extract_features(slide, out=out, spec=spec, tissue="whole", encoder=encoder, workers=workers)
"""

UNGUARDED = """
note("before")
try:
    extract()
finally:
    note("after")
"""

GUARDED = """
import numpy as np
from wsikit.encoders.card import EncoderCard
from wsikit.encoders.registry import register_encoder

CARD = EncoderCard(
    name="lowest", dim=3, tile_px=None, mpp=None, mean=None, std=None, licence="none", source="this script",
    citation="none", summary="the lowest value of each channel",
)

@register_encoder(CARD)
def lowest():
    return Lowest()

class Lowest:
    card, identity = CARD, {"algorithm": "lowest", "version": 1}

    def encode(self, pixels):
        return pixels.min(axis=(1, 2)).astype(np.float32)

note("before")
if __name__ == "__main__":
    assert extract("lowest").ok
"""

FAILS_IN_WORKERS = """
note("before")
pathlib.Path(out + ".notes").mkdir()
extract()
"""

CLUSTER_ALONE = """
from wsikit.extract.clusters import local_crew
with local_crew(1):
    pass
"""

POOL_OF_ITS_OWN = """
import multiprocessing
if __name__ == "__main__":
    child = multiprocessing.get_context("spawn").Process(target=print, args=("not reached",))
    child.start()
    child.join()
    sys.exit(child.exitcode)
extract()
"""


class Ran:
    """A script run to its end on one small slide, by a fresh interpreter."""

    def __init__(self, folder, slide, body, *, as_file=True):
        self.script, self.store, self.log = folder / "script.py", folder / "a.zarr", folder / "log.txt"
        self.script.write_text(HEAD + body)
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, *([self.script] if as_file else ["-c", HEAD + body]), slide, self.store, self.log],
            capture_output=True,
            text=True,
            timeout=100,
        )
        self.seconds, self.code = time.perf_counter() - began, done.returncode
        self.out, self.err = done.stdout, done.stderr
        self.notes = self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def slide(cohort):
    """64 tiles of 64 px."""
    return cohort / "small.svs"


def test_an_unguarded_script_is_told_what_to_do_and_nothing_of_it_runs_on(tmp_path, slide):
    ran = Ran(tmp_path, slide, UNGUARDED)
    assert ran.code == 1
    last = ran.err.splitlines()[-1]
    assert last.startswith(f"wsikit.extract.clusters.WorkerStartError: {ran.script}: workers are fresh processes")
    assert last.endswith('put that call under `if __name__ == "__main__":`')
    assert ran.err.count("Traceback") == 1  # the caller's own: none of a worker, none of Dask
    assert "/distributed/" not in ran.err
    assert ran.seconds < 40  # about 2 here; Dask's and our own time-outs are 30 and 60
    assert ran.notes.count("__main__ before") == ran.notes.count("__main__ after") == 1
    assert "__mp_main__ after" not in ran.notes  # not even its "finally"
    again = wk.extract_features(
        slide, out=ran.store, spec=TilingSpec(64, 0.5), tissue="whole", encoder="colour", workers=1
    )
    assert again.ok  # the refused run left a store that goes on


def test_a_guarded_script_brings_its_own_encoder_to_the_workers(tmp_path, slide):
    ran = Ran(tmp_path, slide, GUARDED)
    assert (ran.code, ran.err) == (0, "")
    assert sorted(ran.notes) == ["__main__ before", *["__mp_main__ before"] * 2]
    bag = wk.open_store(ran.store).bag("small", encoder="lowest")
    with wk.open_slide(slide) as opened:
        for (x, y), feature in zip(bag.coords[:5].tolist(), bag.x[:5], strict=True):
            tile = opened.read_region((x, y), (64, 64))
            np.testing.assert_array_equal(feature, tile.min(axis=(0, 1)).astype(np.float16))


def test_a_script_that_fails_in_the_workers_is_said_to(tmp_path, slide):
    ran = Ran(tmp_path, slide, FAILS_IN_WORKERS)
    assert ran.code == 1
    assert "FileExistsError" in ran.err
    assert "a worker process ended with exit code 1 before it was ready" in ran.err.splitlines()[-1]
    assert "/distributed/" not in ran.err
    assert "__mp_main__ before" in ran.notes


@pytest.mark.parametrize("body", [CLUSTER_ALONE, POOL_OF_ITS_OWN], ids=["cluster", "pool"])
def test_every_other_way_to_start_workers_unguarded_is_refused_too(tmp_path, slide, body):
    ran = Ran(tmp_path, slide, body)
    assert ran.code == 1
    assert f"WorkerStartError: {ran.script}: workers are fresh processes" in ran.err
    assert "not reached" not in ran.out
    assert not ran.store.exists()


def test_the_prompt_needs_no_guard(tmp_path, slide):
    ran = Ran(tmp_path, slide, "assert extract(workers=1).ok\n", as_file=False)
    assert (ran.code, ran.err) == (0, "")
