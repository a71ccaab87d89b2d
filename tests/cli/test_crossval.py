"""wsikit crossval refuses a configuration in one line; a run as a user types it is in ``test_predict.py``."""

from __future__ import annotations

import subprocess
import sys

import pytest

BASIS = "cohort: cohort.csv\nstores: a.zarr\nendpoint: {kind: class, column: label, classes: [0, 1]}\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BASIS + "training: {epocs: 3}\n", "no setting 'training.epocs'; did you mean 'epochs'"),
        (BASIS, "is not a wsikit store"),
        (None, "no configuration config.yaml: expected a YAML file"),
    ],
)
def test_a_bad_configuration_is_one_line_and_exit_2(tmp_path, text, words):
    (tmp_path / "cohort.csv").write_text("slide_id,patient_id,label\ns,p,1\n")
    if text is not None:
        (tmp_path / "config.yaml").write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "wsikit", "crossval", "config.yaml"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert words in done.stderr
    assert not (tmp_path / "run").exists()
