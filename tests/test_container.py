"""The environment of the container recipe lets wsikit work without a home to write to and without a hub."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
RECIPE = (ROOT / "containers" / "wsikit.def").read_text(encoding="utf-8")


def section(name: str) -> str:
    found = re.search(rf"^%{name}\n(.*?)(?=^%|\Z)", RECIPE, re.DOTALL | re.MULTILINE)
    assert found is not None, f"no section %{name}"
    return found.group(1)


def test_every_file_that_is_copied_exists() -> None:
    sources = [line.split()[0] for line in section("files").strip().splitlines()]
    assert [name for name in sources if not (ROOT / name).exists()] == []


@pytest.mark.skipif(sys.platform == "win32" or shutil.which("bash") is None, reason="the container runs Linux")
@pytest.mark.slow
def test_extraction_needs_no_home_and_no_hub(two_slides: Path, tmp_path: Path) -> None:
    """``/dev/null/home`` is a home that not even root can create."""
    bin_dir = Path(sys.executable).parent
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "HF_", "MPL", "DASK"))}
    environment = {**keep, "HOME": "/dev/null/home", "TMPDIR": str(tmp_path), "PATH": f"{bin_dir}:{os.environ['PATH']}"}
    script = section("environment") + section("runscript")
    done = subprocess.run(
        ["bash", "-euc", script, "wsikit", "extract", str(two_slides), "--out", "cohort.zarr", "--workers", "1"],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout
    assert "2 slides done, 0 not" in done.stdout
