"""Every code block of README.md and docs/ runs: page by page, in order, as a script, in an empty folder.

In the folder is ``slides/`` with two small slides, ``a.svs`` and ``b.svs``; ``wsikit`` is on the path. A page that
names ``study/`` finds a planted cohort there: ``cohort.csv``, ``slides/`` and ``features.zarr``.

- ``python`` and ``bash`` blocks run; the Python blocks of one page share their names.
- ``pycon`` blocks run as doctests: what they print is compared.
- A block that cannot run here says why: ````bash no-run: needs a cluster````.
- ``text``, ``yaml``, ``csv`` ... are shown and not run.

A page is run as the script that its reader would paste together: a call that starts worker processes
stands under ``if __name__ == "__main__":`` there, as it must in the reader's own.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

import wsikit as wk
from wsikit.testing import plant_cohort

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *ROOT.glob("*.md"),
    *(p for p in sorted((ROOT / "docs").rglob("*.md")) if "generated" not in p.parts),
    *sorted((ROOT / "pipelines").rglob("*.md")),
]
RUN = {"python", "bash", "pycon"}
SHOWN = {"text", "yaml", "csv", "json", "ini", "toml", "bibtex", "console"}
PRELUDE = """
import doctest as _doctest, subprocess as _subprocess
def _bash(text):
    if __name__ != "__main__": return  # a worker process that imports the script
    _subprocess.run(["bash", "-euo", "pipefail", "-c", text], check=True)
def _pycon(text, line):
    if __name__ != "__main__": return
    test = _doctest.DocTestParser().get_doctest(text, globals(), "block", __file__, line)
    runner = _doctest.DocTestRunner(optionflags=_doctest.ELLIPSIS | _doctest.NORMALIZE_WHITESPACE)
    if runner.run(test, clear_globs=False).failed: raise SystemExit(1)
    globals().update(test.globs)
"""


def blocks(page: str) -> Iterator[tuple[str, str, str, int]]:
    """Language, rest of the info string, text, and line of the first line of each fenced block."""
    for token in MarkdownIt().parse(page):
        if token.type == "fence" and token.map is not None:
            language, _, rest = token.info.strip().partition(" ")
            yield language, rest.strip(), token.content, token.map[0] + 2


def script_of(page: str) -> str:
    """The page's runnable blocks as one script, each at the line where it stands on the page."""
    lines = [""] * (page.count("\n") + 2)
    lines[0] = f"exec({PRELUDE!r})"
    for language, rest, text, line in blocks(page):
        if language not in RUN or rest.startswith("no-run"):
            continue
        code = {"python": text.rstrip("\n").split("\n"), "bash": [f"_bash({text!r})"]}
        part = code.get(language, [f"_pycon({text!r}, {line - 1})"])
        lines[line - 1 : line - 1 + len(part)] = part
    return "\n".join(lines) + "\n"


def run_page(page: str, folder: Path) -> subprocess.CompletedProcess[str]:
    script = folder / "page.py"
    script.write_text(script_of(page), encoding="utf-8")
    bin_dir = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": os.pathsep.join([bin_dir, os.environ["PATH"]]), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, script.name],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
    )


def runnable(page: Path) -> bool:
    found = blocks(page.read_text(encoding="utf-8"))
    return any(language in RUN and not rest.startswith("no-run") for language, rest, _, _ in found)


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A planted cohort of 24 patients: a slide of each, the table, and features of two encoders."""
    folder = tmp_path_factory.mktemp("study")
    plant_cohort(folder, patients=24, size_px=640, seed=0, processes=2)
    shutil.rmtree(folder / "truth")
    spec = wk.TilingSpec(tile_px=128, target_mpp=0.5)
    for encoder in ("texture", "colour"):
        assert wk.extract_features(
            folder / "slides", out=folder / "features.zarr", encoder=encoder, spec=spec, workers=2
        ).ok
    return folder


@pytest.mark.parametrize("page", [p for p in PAGES if runnable(p)], ids=lambda p: p.relative_to(ROOT).as_posix())
def test_code_of_page_runs(page: Path, two_slides: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    text = page.read_text(encoding="utf-8")
    if "_bash(" in script_of(text).partition("\n")[2] and shutil.which("bash") is None:
        pytest.skip("no bash on this machine")
    shutil.copytree(two_slides, tmp_path / "slides")
    if "study/" in script_of(text):
        shutil.copytree(request.getfixturevalue("study"), tmp_path / "study")
    done = run_page(text, tmp_path)
    assert done.returncode == 0, f"{page.relative_to(ROOT)} (page.py has the page's line numbers):\n{done.stdout}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_every_block_says_what_it_is(page: Path) -> None:
    for language, rest, _, line in blocks(page.read_text(encoding="utf-8")):
        where = f"{page.name}:{line - 1}"
        if language.startswith("{"):  # a directive of the docs builder
            continue
        assert language in RUN | SHOWN, f"{where}: block of {language!r}; expected one of {sorted(RUN | SHOWN)}"
        if rest:
            assert re.match(r"no-run: \S", rest), f"{where}: found {rest!r}, expected 'no-run: the reason'"


PAGE = """# A page
```python
word = "spam"
```
1. A list with a block in it:
   ```bash
   echo from-bash > said.txt
   ```
```pycon
>>> word, open("said.txt").read()
('spam', 'from-bash\\n')
```
```python no-run: it would fail
raise SystemExit("this ran")
```
"""


def test_harness_runs_blocks_in_order_with_shared_names(tmp_path: Path) -> None:
    done = run_page(PAGE, tmp_path)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("block", "sign"),
    [
        ("```python\nassert word == 'eggs'\n```", "line 17"),
        ("```bash\nfalse | cat\n```", "line 17"),
        ("```pycon\n>>> word\n'eggs'\n```", "'spam'"),
    ],
)
def test_harness_fails_with_the_line_of_the_page(block: str, sign: str, tmp_path: Path) -> None:
    done = run_page(f"{PAGE}{block}\n", tmp_path)
    assert done.returncode != 0
    assert sign in done.stdout
