"""Importing wsikit, and asking it for help, loads nothing heavy. `benchmarks/import_time.py` has the seconds."""

import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest

import wsikit

HEAVY = {
    "cv2", "dask", "distributed", "h5py", "huggingface_hub", "imagecodecs", "lifelines", "lightning_fabric",
    "matplotlib", "numpy", "openslide", "pandas", "scipy", "sklearn", "tifffile", "tiffslide", "timm", "torch",
    "torch_geometric", "torchvision", "zarr",
}  # fmt: skip


def modules_after(code: str) -> set[str]:
    """Top-level modules that are loaded after running ``code`` in a fresh interpreter."""
    report = "\nprint('\\n'.join(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", f"import sys\n{code}{report}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {line.partition(".")[0] for line in done.stderr.splitlines()}


def test_import_loads_nothing_heavy() -> None:
    loaded = modules_after("import wsikit")
    assert "wsikit" in loaded
    assert loaded & HEAVY == set()


@pytest.mark.parametrize("arguments", ["--help", "--version", "extract --help"])
def test_command_line_loads_nothing_heavy_before_it_works(arguments: str) -> None:
    loaded = modules_after(
        f"sys.argv = ['wsikit', *{arguments.split()}]\n"
        "from wsikit.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code"
    )
    assert "typer" in loaded
    assert loaded & HEAVY == set()


def test_public_names_are_not_hidden_by_subpackages() -> None:
    """Importing ``wsikit.store.reader`` puts ``store`` into ``wsikit``: a public name of that name would be gone."""
    for module in pkgutil.walk_packages(wsikit.__path__, "wsikit."):
        if module.name != "wsikit.__main__":
            importlib.import_module(module.name)
    hidden = [name for name in wsikit.__all__ if inspect.ismodule(getattr(wsikit, name))]
    assert hidden == ["losses", "metrics"]  # meant as such: wk.losses.cox_partial_likelihood


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'wsikit' has no attribute 'open_slid'"):
        _ = wsikit.open_slid
