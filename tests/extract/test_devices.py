"""Stores by several kinds of device, without any: records are edited to say "cuda", and rows to disagree.

So these tests show who is asked, refused and compared, and not that a GPU's rows do agree with a CPU's.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr

import wsikit as wk
from wsikit.errors import ConfigError
from wsikit.extract.devices import ROWS, Newcomer, agreements
from wsikit.extract.failure import MixedDevicesError
from wsikit.extract.inputs import collect_slides
from wsikit.extract.settings import EncoderSettings
from wsikit.extract.status import store_status
from wsikit.slides.tiling import TilingSpec
from wsikit.store.format import Layout

OPTIONS = {"spec": TilingSpec(tile_px=32, target_mpp=0.5), "tissue": "whole", "encoder": "colour", "workers": 1}


@pytest.fixture(scope="module")
def made(tmp_path_factory, cohort) -> Path:
    """``small`` and ``middle``, extracted here, on a CPU."""
    store = tmp_path_factory.mktemp("made") / "a.zarr"
    assert wk.extract_features([cohort / "small.svs", cohort / "middle.svs"], out=store, **OPTIONS).ok
    return store


@pytest.fixture
def by_cuda(made, tmp_path) -> Path:
    """The same store as if a GPU had made it, before there were records of devices."""
    store = tmp_path / "a.zarr"
    shutil.copytree(made, store)
    layout, key = Layout(store), key_of(store)
    for slide_id in ("small", "middle"):
        for path in (layout.done(slide_id) / key).iterdir():
            record = json.loads(path.read_bytes())
            record["made_with"]["device"] = "cuda"
            path.write_text(json.dumps(record))
    shutil.rmtree(layout.private / "devices")
    return store


def key_of(store: Path) -> str:
    (key,) = wk.open_store(store).keys("small")
    return key


def devices(store: Path) -> list[str]:
    return sorted(path.stem for path in (Layout(store).private / "devices" / key_of(store)).glob("*.json"))


def newcomer(store: Path, cohort: Path, device: str = "cpu", run: str = "this", slides=("small", "middle")) -> Newcomer:
    """A worker of this process, that says it has some device."""
    entries = {e.slide_id: e for e in collect_slides([cohort]) if e.slide_id in slides}
    encoder = wk.create_encoder("colour")
    made_with = {"device": device, "wsikit": wk.__version__}
    return Newcomer(store, key_of(store), made_with, run, entries, lambda pixels, features: encoder.encode(pixels))


def test_one_kind_of_device_is_one_small_record(made):
    assert devices(made) == ["cpu"]
    assert agreements(made) == ()


def test_another_kind_is_refused_and_leaves_nothing(by_cuda, cohort):
    pattern = r"features colour-.* would be made by cpu on .*, and those in it were made by cuda; .*--mixed-devices"
    with pytest.raises(ConfigError, match=pattern):
        wk.extract_features(cohort, out=by_cuda, **OPTIONS)
    assert devices(by_cuda) == ["cuda"]
    assert wk.open_store(by_cuda).slide_ids == ["middle", "small"]  # no other slide was begun


def test_mixed_devices_records_how_well_they_agree(by_cuda, cohort, made):
    report = wk.extract_features(cohort, out=by_cuda, mixed_devices=True, **OPTIONS)
    assert report.ok
    (agreement,) = report.agreements
    assert (agreement.device, agreement.other, agreement.rows) == ("cpu", "cuda", ROWS)
    assert agreement.least > 0.9999999  # the rows are a CPU's in truth
    assert agreement.least <= agreement.median
    assert agreement.other_made_with["device"] == "cuda"
    assert agreement.made_with["wsikit"] == wk.__version__
    assert devices(by_cuda) == ["cpu", "cuda"]
    assert store_status(wk.open_store(by_cuda)).agreements == (agreement,)
    # It is not done again, and without leave the mixed store is refused.
    assert wk.extract_features(cohort, out=by_cuda, mixed_devices=True, **OPTIONS).agreements == (agreement,)
    with pytest.raises(ConfigError, match="--mixed-devices"):
        wk.extract_features(cohort, out=by_cuda, **OPTIONS)


def test_kinds_that_disagree_are_refused_by_number(by_cuda, cohort):
    layout, key = Layout(by_cuda), key_of(by_cuda)
    for slide_id in ("small", "middle"):
        values = zarr.open_array(layout.features(slide_id, key) / "values", mode="r+")
        rows = np.asarray(values[:])
        rows[:, ::2] *= np.float16(1.2)
        values[:] = rows
    with pytest.raises(
        ConfigError, match=r"do not agree: of 64 rows the least cosine is 0\.99[0-8]\d, expected 0\.999"
    ):
        wk.extract_features(cohort, out=by_cuda, mixed_devices=True, **OPTIONS)
    assert agreements(by_cuda) == ()
    assert devices(by_cuda) == ["cuda"]


def test_slides_to_compare_must_be_among_those_of_the_run(by_cuda, cohort):
    with pytest.raises(MixedDevicesError, match="none of those slides: to compare the two, name some of them"):
        newcomer(by_cuda, cohort, slides=("large",)).enter(mixed=True)


def test_workers_of_one_run_that_differ(made, cohort, tmp_path):
    """Before any row is written, too."""
    store = tmp_path / "a.zarr"
    shutil.copytree(made, store)
    for path in (
        Layout(store).private / "devices",
        *(Layout(store).done(s) / key_of(store) for s in ("small", "middle")),
    ):
        shutil.rmtree(path)
    assert newcomer(store, cohort, "cuda").enter(mixed=False)
    with pytest.raises(MixedDevicesError, match="by cpu on .*, and other workers of this run have cuda"):
        newcomer(store, cohort, "cpu").enter(mixed=False)
    assert devices(store) == ["cuda"]
    # What only said that it would come holds up no later run.
    assert newcomer(store, cohort, "cpu", run="later").enter(mixed=False)
    assert devices(store) == ["cpu"]


def test_both_at_once_with_leave(made, cohort, tmp_path):
    """On an empty store there is nothing to compare yet; it is asked for until there is."""
    store, key = tmp_path / "a.zarr", key_of(made)
    shutil.copytree(made, store)
    records = {s: Layout(store).done(s) / key for s in ("small", "middle")}
    for slide_id, path in records.items():
        path.rename(tmp_path / slide_id)
    shutil.rmtree(Layout(store).private / "devices")
    cuda, cpu = newcomer(store, cohort, "cuda"), newcomer(store, cohort, "cpu")
    assert cpu.enter(mixed=True)
    assert not cuda.enter(mixed=True)
    for slide_id, path in records.items():
        (tmp_path / slide_id).rename(path)
    assert cuda.enter(mixed=True)
    (agreement,) = agreements(store)
    assert (agreement.device, agreement.other, agreement.rows) == ("cuda", "cpu", ROWS)
    assert cpu.enter(mixed=True)  # the other way round it is the same


def test_a_changed_slide_is_not_compared(by_cuda, cohort, tmp_path):
    one = newcomer(by_cuda, cohort)
    swapped = {s: replace(e, path=cohort / "fine.svs") for s, e in one.entries.items()}
    assert not replace(one, entries=swapped).enter(mixed=True)
    assert agreements(by_cuda) == ()


@pytest.mark.slow
def test_a_worker_of_another_kind_ends_the_run(cohort, tmp_path):
    """Two real workers on CPUs, of which the second is made to say that it has a GPU."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import sys\n"
        "if 'spawn_main' in ' '.join(sys.orig_argv):\n"
        "    from wsikit.extract.worker import ExtractPlugin\n"
        "    setup, build = ExtractPlugin.setup, ExtractPlugin._build\n"
        "    def says(self, asked):\n"
        "        built = build(self, asked)\n"
        "        built.facts.attributes['made_with']['device'] = self.kind\n"
        "        return built\n"
        "    def named(self, worker):\n"
        "        self.kind = 'mps' if str(worker.name) == '1' else 'cpu'\n"
        "        setup(self, worker)\n"
        "    ExtractPlugin.setup, ExtractPlugin._build = named, says\n"
    )
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])

    def wsikit(*words: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": path}
        return subprocess.run(
            [sys.executable, "-m", "wsikit", *words], cwd=tmp_path, capture_output=True, text=True, env=environment
        )

    command = ["extract", str(cohort), "--out", "a.zarr", "--workers", "2", "--tile-px", "32", "--tissue", "whole"]
    command += ["--encoder", "colour"]
    refused = wsikit(*command)
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert "and other workers of this run have" in " ".join(refused.stderr.split())
    done = wsikit(*command, "--mixed-devices")
    assert done.returncode == 0, done.stdout + done.stderr
    again = wsikit(*command, "--mixed-devices")  # by now there surely are rows to compare
    assert re.search(r"made by (cpu and mps|mps and cpu), which agree", again.stdout), again.stdout
    assert "which agree: cosine of 64 rows at least 1.000000" in wsikit("verify", "a.zarr").stdout


def test_auto_is_the_cpu_for_an_encoder_that_knows_no_other():
    """A GPU node with ``--encoder colour``: the default must not be refused, nor put on record as the GPU's work."""
    assert EncoderSettings("colour").device_where("cuda:1") == "cpu"
    assert EncoderSettings("texture").device_where("cuda:1") == "cuda:1"
    assert EncoderSettings("timm:vit_small_patch16_224").device_where("cuda:1") == "cuda:1"
    assert EncoderSettings("colour", device="cuda").device_where("cuda:1") == "cuda:1"  # asked for: refused by name
    assert EncoderSettings("texture").device_where("cpu") == "cpu"
