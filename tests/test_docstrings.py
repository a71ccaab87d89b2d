"""The examples in docstrings run, each module's in an empty folder, with ``wk`` and ``np`` at hand."""

import doctest
import importlib
import pkgutil
from pathlib import Path

import numpy as np
import pytest

import wsikit


def module_names() -> list[str]:
    """Modules with an example in their text."""
    found = []
    for module in pkgutil.walk_packages(wsikit.__path__, "wsikit."):
        path = Path(*wsikit.__path__, *module.name.split(".")[1:])
        path = path / "__init__.py" if module.ispkg else path.with_suffix(".py")
        if ">>> " in path.read_text(encoding="utf-8"):
            found.append(module.name)
    return found


@pytest.mark.parametrize("name", module_names())
def test_examples_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    names = {**vars(module), "wk": wsikit, "np": np}
    tests = doctest.DocTestFinder().find(module, name, globs=names)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    said: list[str] = []
    for test in tests:
        runner.run(test, out=said.append)
    assert runner.failures == 0, "".join(said)
