"""The wheel, built and used outside the tree; and what the metadata promises."""

import configparser
import os
import re
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import yaml

import wsikit

ROOT = Path(__file__).resolve().parents[1]

REQUIRED = {
    "torch", "openslide-python", "tiffslide", "h5py", "zarr", "torch-geometric", "scikit-learn", "lifelines", "dask",
}  # fmt: skip


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of the tree as it is, built from a copy: setuptools would ship what an old build/ still holds."""
    tmp = tmp_path_factory.mktemp("wheel")
    source = tmp / "source"
    shutil.copytree(ROOT / "wsikit", source / "wsikit", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "tests", source / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp), str(source)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    (built,) = tmp.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel unpacked by pip into a folder of its own; the dependencies are this interpreter's."""
    target = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return target


def run_outside(installed: Path, tmp_path: Path, *command: str) -> str:
    """What a command prints in an empty folder, with the installed wheel first on the path."""
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_wheel_holds_every_module_and_nothing_else(wheel: Path) -> None:
    shipped = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "wsikit").rglob("*.py")}
    assert modules - shipped == set(), "a folder without __init__.py is not shipped"
    assert {name.partition("/")[0] for name in shipped} == {"wsikit"}
    assert "wsikit/py.typed" in shipped
    assert [name for name in shipped if name.endswith((".svs", ".tif", ".tiff", ".zarr", ".pyc"))] == []


def test_wheel_is_small(wheel: Path) -> None:
    assert wheel.stat().st_size < 2_000_000


def test_installed_wheel_runs_outside_the_tree(installed: Path, tmp_path: Path) -> None:
    python = sys.executable
    where = run_outside(installed, tmp_path, python, "-c", "import wsikit; print(wsikit.__file__)").strip()
    assert Path(where).is_relative_to(installed)
    version = run_outside(installed, tmp_path, python, "-m", "wsikit", "--version")
    assert version.strip() == f"wsikit {wsikit.__version__}"


def test_console_script_is_installed(installed: Path, tmp_path: Path) -> None:
    (script,) = (p for p in (installed / "bin").glob("wsikit*") if p.suffix in ("", ".exe"))
    help_text = run_outside(installed, tmp_path, str(script), "--help")
    assert "extract" in help_text


def test_wheel_names_its_dependencies_and_licence(wheel: Path) -> None:
    files = zipfile.ZipFile(wheel)
    (metadata,) = (name for name in files.namelist() if name.endswith(".dist-info/METADATA"))
    fields = Parser().parsestr(files.read(metadata).decode())
    always = {
        re.split(r"[\[<>=!;~ ]", r)[0].lower() for r in fields.get_all("Requires-Dist", []) if "extra ==" not in r
    }
    assert REQUIRED - always == set()
    assert fields["License-Expression"] == "Apache-2.0"
    assert fields["Version"] == wsikit.__version__
    assert any(name.endswith("/LICENSE") for name in files.namelist())


def test_every_dependency_has_an_exact_version_for_ci() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    asked = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    names = {name for text in asked for name in map(distribution, text.splitlines()) if name}
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {distribution(line) for line in lines if re.fullmatch(r"[\w.-]+==[\w.!]+", line)}
    assert pins == {distribution(line) for line in lines} - {""}, "every line is NAME==VERSION"
    assert names - pins == set()


def distribution(requirement: str) -> str:
    """The normalised name in a requirement, "" for a comment."""
    name = re.match(r"[\w.-]*", requirement.strip())
    assert name is not None
    return re.sub(r"[-_.]+", "-", name.group()).lower()


def test_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == wsikit.__version__
    assert citation["license"] == "Apache-2.0"


def test_changes_are_named_for_their_kind() -> None:
    notes = [path.name for path in (ROOT / "docs" / "changes").iterdir() if path.name != "README.md"]
    odd = [name for name in notes if not re.fullmatch(r"[a-z0-9-]+\.(feature|fix|removal)\.md", name)]
    assert odd == [], "docs/changes/README.md says how a change is written"
