"""Hundreds of slides through the real client, workers and store, without their pixels; and a long manifest."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wsikit.extract.inputs import collect_slides

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "scheduling.py"


@pytest.mark.slow
def test_the_client_holds_nothing_per_tile(tmp_path):
    """Killed half way, resumed, repeated: what travels and what stays is a few numbers per slide."""
    numbers = tmp_path / "numbers.json"
    command = [sys.executable, str(SCRIPT), "--slides", "300", "--folder", str(tmp_path), "--json", str(numbers)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(numbers.read_text())
    assert (found["slides"], found["tiles"] > 2_000_000, found["shards"] > 900) == (300, True, True)
    assert found["arguments_bytes"] < 500  # names and numbers
    assert found["result_bytes"] < 1_000  # slides here have up to 60,000 tiles
    assert found["client_peak_mb"] < 400
    assert found["client_growth_mb"] < 100  # per 1,000 slides; the coordinates alone of these would be 85
    assert found["inodes_per_slide"] < 60


def test_a_manifest_of_thousands_of_rows_takes_seconds(tmp_path):
    names = [f"s{number:04d}" for number in range(3000)]
    for name in names:
        (tmp_path / f"{name}.svs").touch()
    for column, suffix in (("slide", ""), ("path", ".svs")):
        manifest = tmp_path / f"{column}.csv"
        manifest.write_text(f"{column},mpp\n" + "".join(f"{name}{suffix},0.5\n" for name in reversed(names)))
        began = time.process_time()
        entries = collect_slides([tmp_path], manifest=manifest)
        assert time.process_time() - began < 15  # each row was once compared with each slide: minutes
        assert [entry.slide_id for entry in entries] == names
        assert {entry.mpp for entry in entries} == {(0.5, 0.5)}
