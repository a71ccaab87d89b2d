"""The IDC experiment as its README has it, on the real patches: the attention finds the carcinoma."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parents[2] / "pipelines" / "idc_mil"


def run(*arguments: str | Path) -> str:
    done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_attention_finds_carcinoma_that_only_the_slide_label_told_of(test_data, tmp_path):
    run(HERE / "prepare.py", "--zip", test_data / "patches" / "idc.zip", "--out", tmp_path, "--fraction", "0.40")
    run(
        "-m", "wsikit", "extract", "--manifest", tmp_path / "manifest.csv", "--out", tmp_path / "tiles.zarr",
        "--encoder", "texture", "--encoder", "colour", "--target-mpp", "4", "--tile-px", "50", "--min-tissue", "1",
    )  # fmt: skip
    said = run(HERE / "run.py", tmp_path)
    attention = re.search(r"attention, carcinoma tiles: AUC (\S+) \[(\S+), (\S+)\]", said)
    assert float(attention[1]) > 0.8
    assert float(attention[2]) > 0.7  # the whole interval
    auc = {name: float(value) for name, value in re.findall(r"^(.+): AUC (\S+) \[", said, re.MULTILINE)}
    assert auc["abmil on texture"] > max(auc["mean of colour"], auc["number of tiles"]) + 0.05
    assert (tmp_path / "run" / "report.html").stat().st_size > 100_000
    with (tmp_path / "run" / "predictions.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 147
